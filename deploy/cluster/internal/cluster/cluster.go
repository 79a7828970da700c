// Package cluster brings a cluster up, looks at it and takes it down.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/machine"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/process"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// Cluster is one cluster on this machine, running or not.
type Cluster struct {
	settings.Settings
	// Self is the path of this binary, which the components run from.
	Self string
	// Say gets a line for each thing done, for people to read.
	Say func(format string, args ...any)
}

func (c *Cluster) records() string { return c.Path("run") }

// record returns the process that was started under name, if it was.
func (c *Cluster) record(name string) (process.Record, bool) {
	return process.LoadRecord(c.records(), name)
}

func (c *Cluster) start(name string) (*process.Child, error) {
	return process.Start(process.Spec{
		Name:    name,
		Args:    render.Command(name, c.Self, c.Settings),
		Env:     environment(os.Environ(), c.Settings),
		Dir:     c.StateDir,
		Log:     c.Log(name),
		Records: c.records(),
	}, time.Now())
}

// passedOn are the variables that components get from the environment of `up`.
// The rest is not theirs to see, and some of it (ETCD_…) would configure them.
var passedOn = []string{
	"HOME", "LANG", "TZ", "TMPDIR",
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
	"GOGC", "GOMEMLIMIT",
}

// collecting paces the components' garbage collectors, unless this process's
// environment does. A third of what the API server does when objects come and go
// all the time is collecting, by Go's own pace; half of that costs it some hundred
// megabytes. There is no limit of memory: near one, collecting never ends.
const collecting = "GOGC=200"

// environment makes the components' environment from that of this process.
// containerd pulls through a proxy where there is one; inside the cluster nobody
// may use it.
func environment(environ []string, s settings.Settings) []string {
	env := []string{collecting} // of what comes twice the last counts
	direct := strings.Join([]string{"127.0.0.1", "localhost", s.PodCIDR.String(), s.ServiceCIDR.String(), ".svc", ".cluster.local"}, ",")
	path := ""
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case name == "PATH":
			path = value
		case name == "NO_PROXY" || name == "no_proxy":
			if value != "" {
				direct += "," + value
			}
		case contains(passedOn, name):
			env = append(env, variable)
		}
	}
	return append(env, "PATH="+machine.SearchPath(path), "NO_PROXY="+direct, "no_proxy="+direct)
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// lockInterval is how often a lock that another command holds is tried again.
const lockInterval = 100 * time.Millisecond

// lock makes the state folder if need be and keeps other commands that change
// the cluster out until unlock is called.
func (c *Cluster) lock(ctx context.Context) (unlock func(), err error) {
	told := false
	for {
		if err := os.MkdirAll(c.StateDir, 0o755); err != nil {
			return nil, fmt.Errorf("state folder: %w", err)
		}
		dir, err := os.Open(c.StateDir)
		if err != nil {
			return nil, fmt.Errorf("state folder: %w", err)
		}
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && stillThere(dir, c.StateDir) {
			return func() { dir.Close() }, nil
		}
		_ = dir.Close()
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock state folder %s: %w", c.StateDir, err)
		}
		if err != nil && !told {
			c.Say("waiting for another tidegate-cluster command on %s", c.StateDir)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another command on %s: %w", c.StateDir, ctx.Err())
		case <-time.After(lockInterval):
		}
	}
}

// stillThere reports whether the open folder is the one at path: `down` may have
// removed it between open and lock.
func stillThere(dir *os.File, path string) bool {
	held, err := dir.Stat()
	if err != nil {
		return false
	}
	now, err := os.Stat(path)
	return err == nil && os.SameFile(held, now)
}

// claim refuses a folder that holds something else than a cluster: `down`
// removes it with everything in it.
func claim(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("state folder: %w", err)
	}
	for _, entry := range entries {
		if entry.Name() == settings.RecordFile {
			return nil
		}
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty and holds no cluster; `down` would remove all of it, so choose another folder by --state", dir)
	}
	return nil
}

// needRoot says so if this process is not root.
func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("a kubelet needs root: run this as root, for example by sudo (a cluster that you have already is used by setting KUBECONFIG)")
	}
	return nil
}
