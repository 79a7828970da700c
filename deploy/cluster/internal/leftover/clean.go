package leftover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/cgroup"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/hostnet"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/machine"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/process"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// Found counts what Clean removed.
type Found struct {
	Processes, Mounts, Rules int
	Bridge                   bool
}

// Any reports whether there was anything.
func (f Found) Any() bool { return f != Found{} }

func (f Found) String() string {
	var parts []string
	for _, count := range []struct {
		n    int
		name string
	}{{f.Processes, "processes"}, {f.Mounts, "mounts"}, {f.Rules, "packet filter rules"}} {
		if count.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count.n, count.name))
		}
	}
	if f.Bridge {
		parts = append(parts, "the bridge")
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// Clean kills every process of the cluster that s describes, its pods included,
// and removes what they leave in the kernel and outside the state folder. Of the
// state folder it removes what only makes sense while processes run.
func Clean(ctx context.Context, s settings.Settings, m machine.Facts) (Found, error) {
	var found Found
	all, err := process.All()
	if err != nil {
		return found, err
	}
	own := Own(all, s.StateDir)
	found.Processes = len(own)
	if err := process.KillAll(ctx, own); err != nil {
		return found, err
	}
	// Pods' own processes are known by their cgroup.
	if err := cgroup.New(m, render.CgroupRoot(s)).Remove(ctx); err != nil {
		return found, err
	}
	// The addresses of shims are below a mount that is about to go.
	if err := removeShimSockets(s); err != nil {
		return found, err
	}
	if found.Mounts, err = unmountBelow(s.StateDir); err != nil {
		return found, err
	}
	self, _ := process.Lookup(os.Getpid())
	_, foreign := Foreign(all, own, self.NetNS)
	// With another cluster on this network, bridge and chains may be its own.
	if !foreign {
		if found.Bridge, err = hostnet.RemoveBridge(s.Bridge); err != nil {
			return found, err
		}
		if found.Rules, err = hostnet.RemoveRules(ctx, s.Bridge); err != nil {
			return found, err
		}
	}
	return found, removeFiles(s)
}

// unmountBelow unmounts everything below dir and returns how much that was.
func unmountBelow(dir string) (int, error) {
	points, err := Mounts(dir)
	if err != nil {
		return 0, err
	}
	for _, point := range points {
		// EINVAL: a parent's unmount took it along.
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return 0, fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return len(points), nil
}

// Mounts lists the mount points at or below dir, the last mounted first.
func Mounts(dir string) ([]string, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return mountPoints(string(mountinfo), dir), nil
}

// removeShimSockets removes the sockets of dead shims, which containerd puts
// into /run/containerd/s whatever its state folder is.
func removeShimSockets(s settings.Settings) error {
	files, err := filepath.Glob(s.Path("containerd", "state", "io.containerd.runtime.v2.task", "*", "*", "address"))
	if err != nil {
		return err
	}
	for _, file := range files {
		address, err := os.ReadFile(file)
		if err != nil {
			continue // its shim got no further
		}
		socket := filepath.Clean(strings.TrimPrefix(strings.TrimSpace(string(address)), "unix://"))
		if filepath.Dir(socket) != "/run/containerd/s" {
			continue
		}
		if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a shim's socket: %w", err)
		}
	}
	return nil
}

func removeFiles(s settings.Settings) error {
	var errs []error
	// Results that the network plugins' library caches for each pod.
	cached, err := filepath.Glob("/var/lib/cni/results/" + s.Bridge + "-*")
	errs = append(errs, err)
	// Links to containers' logs, which the kubelet puts in this folder for log
	// collectors.
	links, err := filepath.Glob("/var/log/containers/*.log")
	errs = append(errs, err)
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, s.StateDir+"/") {
			cached = append(cached, link)
		}
	}
	for _, path := range cached {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, path := range []string{s.Path("containerd", "state"), s.Path("runc"), s.Path("ipam"), s.Path("run"), s.ContainerdSocket(), s.ContainerdSocket() + ".ttrpc"} {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}
