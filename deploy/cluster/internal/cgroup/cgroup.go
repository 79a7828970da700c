// Package cgroup makes, empties and removes the control group that a cluster's
// pods live in, on version 1, version 2 and hybrid machines.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/machine"
)

// Group is one control group in every hierarchy of a machine.
type Group struct {
	// dirs are its folders, one a hierarchy.
	dirs []string
}

// New names the group at path, such as "/tidegate0", without making it.
func New(m machine.Facts, path string) Group {
	var g Group
	hierarchies := slices.Clone(m.CgroupV1)
	if m.CgroupV2 != "" {
		hierarchies = append(hierarchies, m.CgroupV2)
	}
	for _, h := range hierarchies {
		g.dirs = append(g.dirs, filepath.Join(h, path))
	}
	return g
}

// Create makes the group if it is not there.
func (g Group) Create() error {
	for _, dir := range g.dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
		if err := inheritCPUSet(dir); err != nil {
			return fmt.Errorf("create cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// inheritCPUSet copies the parent's processors and memory nodes: a version 1
// cpuset starts with none, and nothing can run in it.
func inheritCPUSet(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		path := filepath.Join(dir, file)
		current, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // another controller
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(current)) != "" {
			continue
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if value := strings.TrimSpace(string(parent)); value != "" {
			if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// Exists reports whether any hierarchy has the group.
func (g Group) Exists() bool {
	return slices.ContainsFunc(g.dirs, func(dir string) bool {
		_, err := os.Stat(dir)
		return err == nil
	})
}

const retryInterval = 20 * time.Millisecond

// Remove kills every process in the group and below, and removes it. It is not
// an error if there is no such group.
func (g Group) Remove(ctx context.Context) error {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		err := g.tryRemove()
		if err == nil {
			return nil
		}
		// Killed processes leave their cgroup a little later.
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup: %w", errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}

func (g Group) tryRemove() error {
	var errs []error
	for _, top := range g.dirs {
		dirs, err := tree(top)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, dir := range dirs {
			errs = append(errs, kill(dir))
		}
		for _, dir := range slices.Backward(dirs) {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("%s: %w", dir, err))
			}
		}
	}
	return errors.Join(errs...)
}

// tree lists dir and every group below it, parents first.
func tree(dir string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	return dirs, err
}

func kill(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	for _, field := range strings.Fields(string(data)) {
		// 0 stands for a process outside this PID namespace.
		pid, err := strconv.Atoi(field)
		if err != nil || pid <= 1 {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return nil
}
