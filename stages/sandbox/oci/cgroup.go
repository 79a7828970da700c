package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupPoll is the time between two looks at a cgroup whose processes are dying.
const cgroupPoll = 10 * time.Millisecond

// removeCgroups removes the cgroups of a container in every hierarchy and kills
// what is in them. A runtime that was killed before it wrote down its state
// leaves them behind, and has nothing to delete them by.
func removeCgroups(ctx context.Context, id string) error {
	left, err := filepath.Glob(filepath.Join(cgroupRoot, "*", cgroupPath(id)))
	if err != nil {
		return fmt.Errorf("remove cgroups: %w", err)
	}
	for _, dir := range append(left, filepath.Join(cgroupRoot, cgroupPath(id))) {
		if err := removeCgroup(ctx, dir); err != nil {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
	return nil
}

func removeCgroup(ctx context.Context, dir string) error {
	tick := time.NewTicker(cgroupPoll)
	defer tick.Stop()
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		members, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for _, field := range strings.Fields(string(members)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				_ = unix.Kill(pid, unix.SIGKILL) // gone already, most likely
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("it still has processes: %w", context.Cause(ctx))
		}
	}
}
