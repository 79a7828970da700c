package userns

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageVariable tells a process started by Enter how far it is: "wait" until its
// users are mapped, then "inside".
const stageVariable = "TIDEGATE_USER_NAMESPACE"

// gate is the descriptor on which the first process waits.
const gate = 3

// A process that waits for its mapping does nothing else: it becomes the program
// anew once it is root, since only then does starting one give it root's rights.
func init() {
	if os.Getenv(stageVariable) != "wait" {
		return
	}
	ready := make([]byte, 1)
	if n, err := os.NewFile(gate, "gate").Read(ready); n != 1 || err != nil {
		os.Exit(1) // who started it has told why
	}
	if err := os.Setenv(stageVariable, "inside"); err != nil {
		os.Exit(1)
	}
	err := syscall.Exec("/proc/self/exe", os.Args, os.Environ()) //nolint:gosec // this program again, with the arguments it was given
	fmt.Fprintln(os.Stderr, "tidegate: start in a user namespace:", err)
	os.Exit(1)
}

// ErrUnavailable is in the chain of Enter's error when this machine gives the
// user no namespace.
var ErrUnavailable = errors.New("no user namespace can be made here")

// Enter makes the calling command run as root of a user namespace. For root, and
// inside, it returns at once with done false. For others it starts the program
// again with the same arguments, waits for its end and returns done and its exit
// status. With an error nothing was started.
func Enter() (status int, done bool, err error) {
	if os.Getenv(stageVariable) == "inside" || os.Geteuid() == 0 {
		return 0, false, os.Unsetenv(stageVariable)
	}
	// The kernel ends the child when the thread that started it does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, open, err := start()
	if err != nil {
		return 0, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	if err := mapUsers(child.Process.Pid); err != nil {
		_ = open.Close()
		_ = child.Wait() // it ends for want of a mapping
		return 0, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if _, err := open.Write([]byte{1}); err != nil {
		return 0, false, fmt.Errorf("start in a user namespace: %w", err)
	}
	_ = open.Close()
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case s := <-signals: // a terminal's Ctrl-C reaches the child by itself
			_ = child.Process.Signal(s)
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 0, true, err
			}
			if code := child.ProcessState.ExitCode(); code >= 0 {
				return code, true, nil
			}
			status, ok := child.ProcessState.Sys().(syscall.WaitStatus)
			if !ok {
				return 1, true, nil
			}
			return 128 + int(status.Signal()), true, nil // as a shell tells of signals
		}
	}
}

func start() (*exec.Cmd, *os.File, error) {
	wait, open, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer wait.Close()
	child := exec.Command("/proc/self/exe", os.Args[1:]...) //nolint:gosec,noctx // this program again, with the arguments it was given; it lives as long as this one
	child.Args[0] = os.Args[0]
	child.Env = append(os.Environ(), stageVariable+"=wait")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.ExtraFiles = []*os.File{wait}
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		return nil, nil, errors.Join(err, open.Close())
	}
	return child, open, nil
}

// mapUsers gives a process's new namespace its users: the caller as root and, if
// /etc/subuid and /etc/subgid grant some and the setuid programs of package
// uidmap are there, others from 1 on. Without those, root is alone.
func mapUsers(pid int) error {
	uid, gid := os.Geteuid(), os.Getegid()
	if err := mapSubordinate(pid, uid, gid); err == nil {
		return nil
	}
	// The kernel lets a process map itself alone, once it can't drop groups that
	// deny it something.
	for _, file := range []struct{ name, text string }{
		{"setgroups", "deny"}, {"uid_map", fmt.Sprintf("0 %d 1", uid)}, {"gid_map", fmt.Sprintf("0 %d 1", gid)},
	} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, file.name), []byte(file.text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func mapSubordinate(pid, uid, gid int) error {
	me, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return err
	}
	for _, m := range []struct {
		tool, grants string
		own          int
	}{{"newuidmap", "/etc/subuid", uid}, {"newgidmap", "/etc/subgid", gid}} {
		first, count, err := subordinate(m.grants, me.Username, uid)
		if err != nil {
			return err
		}
		var output bytes.Buffer
		//nolint:noctx // it writes a line into /proc and ends
		tool := exec.Command(m.tool, strconv.Itoa(pid), "0", strconv.Itoa(m.own), "1", "1", strconv.FormatUint(uint64(first), 10), strconv.FormatUint(uint64(count), 10))
		tool.Stdout, tool.Stderr = &output, &output
		if err := tool.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", m.tool, err, output.String())
		}
	}
	return nil
}
