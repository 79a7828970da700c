package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/process"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

// StopComponent ends one component of a running cluster and leaves all others
// alone, as its failure would. It is no error if it does not run.
func (c *Cluster) StopComponent(ctx context.Context, name string) error {
	return c.withComponent(ctx, name, func() error { return c.stopComponent(ctx, name) })
}

// StartComponent starts one component and waits until it is healthy, at most
// timeout. It is no error if it runs.
func (c *Cluster) StartComponent(ctx context.Context, name string, timeout time.Duration) error {
	return c.withComponent(ctx, name, func() error { return c.startComponent(ctx, name, timeout) })
}

// RestartComponent stops one component and starts it again.
func (c *Cluster) RestartComponent(ctx context.Context, name string, timeout time.Duration) error {
	return c.withComponent(ctx, name, func() error {
		if err := c.stopComponent(ctx, name); err != nil {
			return err
		}
		return c.startComponent(ctx, name, timeout)
	})
}

// withComponent runs change while no other command changes the cluster.
func (c *Cluster) withComponent(ctx context.Context, name string, change func() error) error {
	if err := needRoot(); err != nil {
		return err
	}
	if !slices.Contains(render.Processes(), name) {
		return fmt.Errorf("no component %q: there are %s", name, strings.Join(render.Processes(), ", "))
	}
	if _, found, err := settings.Load(c.StateDir); err != nil || !found {
		if err != nil {
			return err
		}
		return fmt.Errorf("no cluster in %s: bring one up by `tidegate-cluster up`, or name its folder by --state", c.StateDir)
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return change()
}

func (c *Cluster) stopComponent(ctx context.Context, name string) error {
	record, found := c.record(name)
	if !found {
		c.Say("%s does not run", name)
		return nil
	}
	if err := process.Stop(ctx, record, stopGrace); err != nil {
		return err
	}
	if err := process.RemoveRecord(c.records(), name); err != nil {
		return fmt.Errorf("forget %s: %w", name, err)
	}
	c.Say("%s is stopped", name)
	return nil
}

func (c *Cluster) startComponent(ctx context.Context, name string, timeout time.Duration) error {
	if record, found := c.record(name); found && record.Alive() {
		c.Say("%s runs already", name)
		return nil
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if name == render.Kubelet && c.probe(ctx, render.APIServer) == nil {
		return c.startKubelet(ctx)
	}
	return c.startReady(ctx, name)
}
