package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

var errHeld = errors.New("held by another process")

// lockFile creates and locks a file. The lock says that the process that runs a
// container lives; the kernel takes it away when it does not.
func lockFile(name string) (*os.File, error) {
	for {
		file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			_ = file.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errHeld
			}
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		// Whoever cleaned up may have unlinked it in between.
		named, namedErr := os.Stat(name)
		held, heldErr := file.Stat()
		if namedErr == nil && heldErr == nil && os.SameFile(named, held) {
			return file, nil
		}
		_ = file.Close()
	}
}

// clearLeftovers ends containers whose Tidegate process is gone.
func (r *Runtime) clearLeftovers(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(r.dir, "containers"))
	if err != nil {
		return fmt.Errorf("list containers of killed processes: %w", err)
	}
	for _, entry := range entries {
		id, ok := strings.CutSuffix(entry.Name(), ".lock")
		if !ok {
			continue
		}
		name := filepath.Join(r.dir, "containers", entry.Name())
		lock, err := lockFile(name)
		if errors.Is(err, errHeld) {
			continue
		}
		if err != nil {
			return fmt.Errorf("clear container %s of a killed process: %w", id, err)
		}
		err = r.clearContainer(ctx, id)
		if err == nil {
			_ = os.Remove(name)
		}
		_ = lock.Close()
		if err != nil {
			return fmt.Errorf("clear container %s of a killed process: %w", id, err)
		}
	}
	return nil
}

func (r *Runtime) clearContainer(ctx context.Context, id string) error {
	if err := r.invoke(ctx, "delete", "--force", id); err != nil {
		return err
	}
	if err := removeCgroups(ctx, id); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(r.dir, "containers", id))
}
