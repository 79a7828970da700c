package oci

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// What a hostile RUN would try. Each script prints "escaped" if it got its way.
func TestIsolation(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	for name, script := range map[string]string{
		"host network":       "nc -w 1 127.0.0.1 " + port + " </dev/null && echo escaped",
		"other interfaces":   "[ $(ls /sys/class/net | grep -cv '^lo$') = 0 ] || echo escaped",
		"host processes":     "[ $(ls /proc | grep -c '^[0-9]*$') -lt 8 ] || echo escaped",
		"mount":              "mount -t tmpfs none /mnt 2>/dev/null && echo escaped",
		"remount proc":       "mount -o remount,rw /proc/sys 2>/dev/null && echo escaped",
		"sysctl":             "echo 1 2>/dev/null >/proc/sys/kernel/panic && echo escaped",
		"sysrq":              "echo h 2>/dev/null >/proc/sysrq-trigger && echo escaped",
		"kernel memory":      "[ -s /proc/kcore ] && head -c 1 /proc/kcore && echo escaped",
		"core pattern":       "echo x 2>/dev/null >/proc/sys/kernel/core_pattern && echo escaped",
		"block device":       "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk 2>/dev/null && echo escaped",
		"new user namespace": "unshare -U true 2>/dev/null && echo escaped",
		"keyring of host":    "cat /proc/keys 2>/dev/null | grep -q . && echo escaped",
		"host name":          "hostname pwned 2>/dev/null && echo escaped",
		"cgroup release":     "mkdir /tmp/cg && mount -t cgroup -o rdma cgroup /tmp/cg 2>/dev/null && echo escaped",
		"raised limit":       "ulimit -n 10000000 2>/dev/null && echo escaped",
		"reboot":             "reboot -f 2>/dev/null && echo escaped",
		"runtime's files":    "for fd in /proc/self/fd/*; do case $(readlink $fd) in ''|/dev/null|pipe:*|*/fd) ;; *) echo escaped $(readlink $fd);; esac; done",
		"privileges":         "grep -q 'NoNewPrivs:.*1' /proc/self/status || echo escaped",
		"seccomp":            "grep -q 'Seccomp:.*2' /proc/self/status || echo escaped",
		"capabilities":       "grep -q 'CapEff:.*00000000a80425fb' /proc/self/status || echo escaped $(grep Cap /proc/self/status)",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := shell(t, r, root, script+"; true")
			require.NoError(t, err, out)
			require.NotContains(t, out, "escaped")
		})
	}
}

func TestHostNetworkOnlyWhenAsked(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if connection, err := listener.Accept(); err == nil {
			connection.Close()
		}
	}()
	defer func() { listener.Close(); <-served }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	out, err := shell(t, r, root, "nc -w 1 127.0.0.1 "+port+" </dev/null", func(c *sandbox.Command) { c.HostNetwork = true })
	require.NoError(t, err, out)
	out, err = shell(t, r, root, "ping -c 1 -W 1 127.0.0.1 >/dev/null && cat /etc/hosts")
	require.NoError(t, err, "loopback is up without a network: %s", out)
	require.Contains(t, out, "localhost")
}

// Links of an image never lead out of it, whatever is mounted or made through them.
func TestLinksOfTheImageStayInside(t *testing.T) {
	r := findRuntime(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	require.NoError(t, os.WriteFile(secret, []byte("root:x:0:0::/:/bin/sh\nspy:x:0:0::/:/bin/sh\n"), 0o600))
	up := strings.Repeat("../", 20)
	for _, target := range []string{outside, up + outside[1:]} {
		root := busyboxRoot(t)
		for _, link := range []string{"work", "cache", "etc/resolv.conf", "dev", "proc"} {
			require.NoError(t, os.Symlink(target, filepath.Join(root, link)))
		}
		require.NoError(t, os.Remove(filepath.Join(root, "etc/passwd")))
		require.NoError(t, os.Symlink(filepath.Join(target, "secret"), filepath.Join(root, "etc/passwd")))
		_, err := shell(t, r, root, "true", func(c *sandbox.Command) { c.User = "spy" })
		require.ErrorContains(t, err, `user "spy" is not in the image`)
		// The runtime may refuse such an image or run it; it must not touch the host.
		_, _ = shell(t, r, root, "touch /volume/made /cache/made", func(c *sandbox.Command) {
			c.Dir = "/volume/deeper"
			c.Mounts = []sandbox.Mount{{Source: t.TempDir(), Target: "/cache/deeper/still"}}
		})
		entries, err := os.ReadDir(outside)
		require.NoError(t, err)
		require.Len(t, entries, 1, "something was made outside the image: %v", entries)
	}
}

func TestUserIsResolvedInTheImage(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	for user, want := range map[string]string{
		"":               "0:0 0 /root",
		"worker":         "1000:1000 1000 2000 /home/worker",
		"1000":           "1000:1000 1000 2000 /home/worker",
		"worker:extra":   "1000:2000 2000 /home/worker",
		"1234:5678":      "1234:5678 5678 /",
		"nobody:nogroup": "",
		"stranger":       "",
		":":              "",
		"4294967295":     "",
	} {
		out, err := shell(t, r, root, `echo $(id -u):$(id -g) $(id -G) $HOME`, func(c *sandbox.Command) { c.User = user })
		if want == "" {
			require.Error(t, err, user)
			continue
		}
		require.NoError(t, err, out)
		require.Equal(t, want, strings.TrimSpace(out), user)
	}
	out, err := shell(t, r, root, `grep CapEff /proc/self/status`, func(c *sandbox.Command) { c.User = "worker" })
	require.NoError(t, err)
	require.Contains(t, out, "0000000000000000")
}

func TestMountsAndReadOnly(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	source := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(source, "f"), []byte("content"), 0o644))
	out, err := shell(t, r, root, "cat /in/dir/f /in/file; touch /in/dir/new 2>/dev/null && echo escaped; true", func(c *sandbox.Command) {
		c.Mounts = []sandbox.Mount{{Source: filepath.Join(source, "f"), Target: "/in/file", ReadOnly: true}, {Source: source, Target: "/in/dir", ReadOnly: true}}
	})
	require.NoError(t, err)
	require.Equal(t, "contentcontent", out)
	for _, target := range []string{"/", "relative", "/proc/self", "/sys", "/dev/x", "/in/../proc"} {
		_, err := shell(t, r, root, "true", func(c *sandbox.Command) { c.Mounts = []sandbox.Mount{{Source: source, Target: target}} })
		require.Error(t, err, target)
	}
}

func TestMemoryAndProcessLimits(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	require.True(t, r.controllers.memory, "this test needs the memory cgroup controller")
	run := func(script string, limits Limits) error {
		return r.Run(context.Background(), root, sandbox.Command{Args: []string{"sh", "-c", script}}, limits)
	}
	err := run("head -c 200000000 /dev/zero | tail -n 1 >/dev/null", Limits{MemoryBytes: 32 << 20})
	var exit *sandbox.ExitError
	require.ErrorAs(t, err, &exit)
	require.True(t, exit.OutOfMemory)
	require.Equal(t, &sandbox.ExitError{Code: 5}, run("exit 5", Limits{MemoryBytes: 32 << 20}))
	require.Error(t, run("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; exit 0", Limits{Processes: 4}))
}

type watcher struct {
	text bytes.Buffer
	on   string
	do   func()
}

func (w *watcher) Write(p []byte) (int, error) {
	n, err := w.text.Write(p)
	if strings.Contains(w.text.String(), w.on) {
		w.do()
	}
	return n, err
}

func TestCancellationKillsAllOfTheContainer(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	r.grace = 100 * time.Millisecond
	reason := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(context.Background())
	marker := "600.31" + strconv.Itoa(os.Getpid())
	out := &watcher{on: "started", do: func() { cancel(reason) }}
	err := r.Run(ctx, root, sandbox.Command{
		Args: []string{"sh", "-c", "trap '' TERM; setsid sleep " + marker + " & echo started; while :; do sleep " + marker + "; done"}, Stdout: out,
	}, Limits{})
	require.ErrorIs(t, err, reason)
	require.NoError(t, exec.Command("sh", "-c", "! ps -eo args | grep -x 'sleep "+marker+"'").Run(), "processes are left")
	left, err := os.ReadDir(r.stateDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

// A runtime that is killed while it makes a container leaves cgroups, a process
// in them perhaps, and no state to delete them by.
func TestCgroupsOfAHalfMadeContainerAreRemoved(t *testing.T) {
	r := findRuntime(t)
	id := uuid.NewString()
	dir := filepath.Join(cgroupRoot, cgroupPath(id))
	if !r.controllers.unified {
		require.True(t, r.controllers.pids && r.controllers.memory, "this test needs the pids and memory cgroup controllers")
		dir = filepath.Join(cgroupRoot, "pids", cgroupPath(id))
		require.NoError(t, os.MkdirAll(filepath.Join(cgroupRoot, "memory", cgroupPath(id)), 0o755))
	}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	child := exec.Command("sleep", "600")
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, child.Start())
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(child.Process.Pid)), 0o600))

	r.delete(id)
	require.ErrorContains(t, <-ended, "killed")
	left, err := filepath.Glob(filepath.Join(cgroupRoot, "*", cgroupPath(id)))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoDirExists(t, dir)
}

func TestACancelledContextStartsNothing(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, r.Run(ctx, root, sandbox.Command{Args: []string{"true"}}, Limits{}), context.Canceled)
}

const victimVariable = "TIDEGATE_TEST_VICTIM"

// TestVictim is the process that the next test kills.
func TestVictim(t *testing.T) {
	dir := os.Getenv(victimVariable)
	if dir == "" {
		return
	}
	r, err := Find(context.Background(), Options{Dir: filepath.Join(dir, "oci")})
	require.NoError(t, err)
	_ = r.Run(context.Background(), filepath.Join(dir, "root"), sandbox.Command{
		Args: []string{"sh", "-c", "echo started; sleep " + filepath.Base(dir)}, Stdout: os.Stdout,
	}, Limits{})
}

func TestLeftoversOfAKilledProcessAreCleared(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "600.42"+strconv.Itoa(os.Getpid()))
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.Rename(busyboxRoot(t), filepath.Join(dir, "root")))
	victim := exec.Command(os.Args[0], "-test.run", "^TestVictim$")
	victim.Env = append(os.Environ(), victimVariable+"="+dir)
	victim.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := victim.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, victim.Start())
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "started" {
			break
		}
	}
	running := func() bool {
		return exec.Command("sh", "-c", "ps -eo args | grep -qx 'sleep "+filepath.Base(dir)+"'").Run() == nil
	}
	require.Eventually(t, running, 10*time.Second, 20*time.Millisecond)
	other, err := Find(context.Background(), Options{Dir: filepath.Join(dir, "oci")})
	require.NoError(t, err)
	require.True(t, running(), "a living process's container must stay")
	require.NoError(t, victim.Process.Kill())
	_ = victim.Wait()
	require.True(t, running(), "the container outlives its Tidegate")
	require.NoError(t, other.clearLeftovers(context.Background()))
	require.Eventually(t, func() bool { return !running() }, 10*time.Second, 20*time.Millisecond)
	left, err := os.ReadDir(filepath.Join(dir, "oci", "containers"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestFindSaysWhatIsMissing(t *testing.T) {
	_, err := Find(context.Background(), Options{Dir: t.TempDir(), Command: "/bin/false"})
	require.ErrorIs(t, err, ErrNoRuntime)
	require.ErrorContains(t, err, "apt-get install runc")
}

func FuzzAccounts(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\n", "extra:x:5:root\n", "root")
	f.Add(":::", "::", "0:0")
	f.Fuzz(func(t *testing.T, passwd, group, user string) {
		lines, err := parseAccounts(strings.NewReader(passwd))
		if err != nil {
			return
		}
		groups, err := parseAccounts(strings.NewReader(group))
		if err != nil {
			return
		}
		who, err := resolveUser(user, lines, groups)
		if err == nil {
			require.True(t, strings.HasPrefix(who.home, "/"))
		}
	})
}
