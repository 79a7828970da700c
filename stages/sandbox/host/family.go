package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// family is all that a command started. Where a cgroup can be made, it holds
// them whatever they do, and the kernel kills it as one. Elsewhere they are
// known by their session and by a mark in their environment, which covers
// everything but a process that takes care to lose both.
type family struct {
	leader int
	group  *os.File // the cgroup's directory, locked; nil if there is none
	token  string
}

const (
	groupPrefix = "tidegate-command-"
	markName    = "TIDEGATE_COMMAND_ID"
	// killTimeout bounds the wait for killed processes to be gone; only one that
	// hangs in the kernel takes that long.
	killTimeout = 10 * time.Second
)

func newFamily(ungrouped bool) *family {
	f := &family{token: uuid.NewString()}
	parent := ownGroup()
	if parent == "" || ungrouped {
		return f
	}
	clearGroups(parent)
	name := filepath.Join(parent, groupPrefix+f.token)
	if os.Mkdir(name, 0o755) != nil {
		return f // not ours to make: go without
	}
	group, err := lockDirectory(name)
	if err != nil {
		_ = os.Remove(name)
		return f
	}
	if _, err := os.Stat(filepath.Join(name, "cgroup.kill")); err != nil {
		_ = os.Remove(name)
		_ = group.Close()
		return f // kernels before 5.14 can't kill a cgroup: go without
	}
	f.group = group
	return f
}

// ownGroup is this process's directory in the unified cgroup hierarchy; empty if
// there is none.
func ownGroup() string {
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			var fs unix.Statfs_t
			if unix.Statfs(root, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
				return filepath.Join(root, own)
			}
		}
	}
	return ""
}

// lockDirectory opens and locks a directory: the kernel unlocks it when this
// process is gone, which is how the next one knows.
func lockDirectory(name string) (*os.File, error) {
	dir, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = dir.Close()
		return nil, err
	}
	return dir, nil
}

// clearGroups kills what commands of killed Tidegate processes left running.
func clearGroups(parent string) {
	names, err := filepath.Glob(filepath.Join(parent, groupPrefix+"*"))
	if err != nil {
		return
	}
	for _, name := range names {
		if group, err := lockDirectory(name); err == nil {
			_ = killGroup(name)
			_ = group.Close()
		}
	}
}

func killGroup(name string) error {
	if err := os.WriteFile(filepath.Join(name, "cgroup.kill"), []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return until(func() (bool, error) {
		err := os.Remove(name)
		if errors.Is(err, unix.EBUSY) {
			return false, nil
		}
		return true, nil // removed, by whomever
	})
}

// until asks again and again whether something is done.
func until(done func() (bool, error)) error {
	deadline := time.Now().Add(killTimeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes still there %s after they were killed", killTimeout)
		}
		time.Sleep(pause) //nolint:forbidigo // bounded above, and no context may cut it short: it has ended already when a command is killed
	}
}

func (f *family) adopt(attributes *syscall.SysProcAttr) {
	if f.group != nil {
		attributes.UseCgroupFD, attributes.CgroupFD = true, int(f.group.Fd())
	}
}

func (f *family) mark(env []string) []string {
	if f.group != nil {
		return env
	}
	return append(env, markName+"="+f.token)
}

// signal sends a signal to every member.
func (f *family) signal(signal unix.Signal) {
	_ = unix.Kill(-f.leader, signal)
	for _, pid := range f.members() {
		_ = unix.Kill(pid, signal)
	}
}

// kill kills every member and waits until all are gone.
func (f *family) kill() error {
	if f.group != nil {
		return killGroup(f.group.Name())
	}
	return until(func() (bool, error) {
		members := f.members()
		for _, pid := range members {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return len(members) == 0, nil
	})
}

func (f *family) close() {
	if f.group != nil {
		_ = os.Remove(f.group.Name())
		_ = f.group.Close()
	}
}

func (f *family) members() (pids []int) {
	if f.group != nil {
		raw, err := os.ReadFile(filepath.Join(f.group.Name(), "cgroup.procs"))
		if err != nil {
			return nil
		}
		for _, field := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err == nil && pid != os.Getpid() && f.belongs(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// belongs tells whether a living process is of the command's session or carries
// its mark.
func (f *family) belongs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// pid (name) state ppid pgrp session …; the name may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 4 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return false
	}
	if session, err := strconv.Atoi(string(fields[3])); err == nil && session == f.leader {
		return true
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	mark := []byte(markName + "=" + f.token)
	for _, variable := range bytes.Split(env, []byte{0}) {
		if bytes.Equal(variable, mark) {
			return true
		}
	}
	return false
}
