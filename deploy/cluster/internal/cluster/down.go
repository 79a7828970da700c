package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/leftover"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/machine"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/process"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
)

const (
	// stopGrace is how long a process gets to end by itself.
	stopGrace = 3 * time.Second
	// cleanTimeout bounds the removal of what is left on the machine.
	cleanTimeout = 30 * time.Second
)

// Down stops everything and removes what the cluster has on the machine, the
// state folder included unless keep is set: then a later Up goes on with the same
// objects, certificates and images.
func (c *Cluster) Down(ctx context.Context, keep bool) error {
	// Cleaning up removes files by name: not in somebody else's folder.
	if err := claim(c.StateDir); err != nil {
		return err
	}
	if err := needRoot(); err != nil {
		return err
	}
	_, err := os.Stat(c.StateDir)
	existed := err == nil
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Setenv("PATH", machine.SearchPath(os.Getenv("PATH"))); err != nil {
		return err
	}
	stopped, err := c.stopAll(ctx)
	if err != nil {
		return err
	}
	facts, err := machine.Detect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	found, err := leftover.Clean(ctx, c.Settings, facts)
	if err != nil {
		return err
	}
	if stopped == 0 && !found.Any() && !existed {
		c.Say("nothing to take down in %s", c.StateDir)
		return os.Remove(c.StateDir)
	}
	c.Say("stopped %d components; removed %s", stopped, found)
	if keep {
		c.Say("kept the state in %s", c.StateDir)
		return nil
	}
	return c.remove()
}

// stopAll asks the kubelet to end first, so that nothing starts containers any
// more, then all others at once.
func (c *Cluster) stopAll(ctx context.Context) (int, error) {
	var records []process.Record
	for _, name := range render.Processes() {
		if r, found := c.record(name); found && r.Alive() {
			records = append(records, r)
		}
	}
	if i := slices.IndexFunc(records, func(r process.Record) bool { return r.Name == render.Kubelet }); i >= 0 {
		if err := process.Stop(ctx, records[i], stopGrace); err != nil {
			return 0, err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range records {
		group.Go(func() error { return process.Stop(ctx, r, stopGrace) })
	}
	return len(records), group.Wait()
}

// remove removes the state folder. It holds a cluster or is empty, and nothing
// is mounted below it: what another mount shows would be removed, too.
func (c *Cluster) remove() error {
	if err := c.discard(); err != nil {
		return err
	}
	if err := os.RemoveAll(c.StateDir); err != nil {
		return fmt.Errorf("remove state folder: %w", err)
	}
	c.Say("removed %s", c.StateDir)
	return nil
}

// discard removes everything in the state folder, but not the folder, which is
// locked.
func (c *Cluster) discard() error {
	if err := claim(c.StateDir); err != nil {
		return err
	}
	mounts, err := leftover.Mounts(c.StateDir)
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s is still mounted: unmount it before the state folder is removed", mounts[0])
	}
	entries, err := os.ReadDir(c.StateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state: %w", err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(c.Path(entry.Name())); err != nil {
			return fmt.Errorf("remove state: %w", err)
		}
	}
	return nil
}
