package notify

import (
	"context"
	"fmt"
	"sync"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/triggers/forge/github"
)

// maxKnown bounds the rollouts whose deployments are remembered; others are looked up.
const maxKnown = 1000

// deployments shows rollouts of an environment as GitHub's deployments.
type deployments struct {
	environment string
	forge       func(*rollout.Source) *github.Client

	mu    sync.Mutex
	known map[string]int64 // deployment by rollout
}

// Name implements rollout.Receiver.
func (*deployments) Name() string { return "github-deployments" }

// Tell implements rollout.Receiver. What did not come from GitHub, or from a
// repository without a token, is of no concern to it.
func (d *deployments) Tell(ctx context.Context, n rollout.Notification) error {
	client := d.forge(n.Source)
	if client == nil || n.Commit == "" {
		return nil
	}
	id, err := d.deployment(ctx, client, n)
	if err == nil {
		err = client.DeploymentStatus(ctx, n.Source.Repository, id, deploymentState(n), n.Text)
	}
	if err != nil && github.Permanent(err) {
		return fmt.Errorf("%w: %w", rollout.ErrUndeliverable, err)
	}
	return err
}

func (d *deployments) deployment(ctx context.Context, client *github.Client, n rollout.Notification) (int64, error) {
	d.mu.Lock()
	id, known := d.known[n.Rollout]
	d.mu.Unlock()
	if known {
		return id, nil
	}
	id, err := client.Deployment(ctx, github.Deployment{Repository: n.Source.Repository, Commit: n.Commit, Environment: d.environment,
		Key: n.Rollout, Description: fmt.Sprintf("revision %d of %s in namespace %s", n.Revision, n.App, n.Namespace)})
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= maxKnown {
		clear(d.known)
	}
	d.known[n.Rollout] = id
	return id, nil
}

// deploymentState says in GitHub's words where a rollout stands. One that is
// being taken back has failed, or was aborted, whatever comes of that.
func deploymentState(n rollout.Notification) github.DeploymentState {
	switch n.To {
	case rollout.Pending:
		return github.DeploymentQueued
	case rollout.Verified:
		return github.DeploymentSuccess
	case rollout.RollingBack, rollout.RolledBack, rollout.Failed:
		if n.Ending == rollout.EndedByAbort {
			return github.DeploymentError
		}
		return github.DeploymentFailure
	case rollout.Superseded:
		return github.DeploymentInactive
	}
	return github.DeploymentInProgress
}
