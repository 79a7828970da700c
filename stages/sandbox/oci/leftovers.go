package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tidegate-ci/tidegate/stages/sandbox/filelock"
)

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
		lock, err := filelock.Try(name, filelock.Exclusive)
		if errors.Is(err, filelock.ErrHeld) {
			continue
		}
		if err != nil {
			return fmt.Errorf("clear container %s of a killed process: %w", id, err)
		}
		if err := r.clearContainer(ctx, id); err != nil {
			lock.Release()
			return fmt.Errorf("clear container %s of a killed process: %w", id, err)
		}
		lock.Remove()
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
