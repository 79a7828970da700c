package rollout

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/health"
)

// Hold watches what a verified revision runs until a time, and longer if not
// all of it is ready then: as long as the rollout's deadline. It is an error
// that wraps ErrFailed when its pods fail, or are not ready by then, and
// ErrSuperseded when something else runs. Hold changes nothing and takes no lease.
func (c *Controller) Hold(ctx context.Context, target Target, revision int, until time.Time) error {
	s := c.store(target)
	record, _, err := s.load(ctx)
	if err != nil {
		return err
	}
	known := record.Revision(revision)
	if known == nil {
		return fmt.Errorf("%w: revision %d of %s in namespace %s", ErrNotFound, revision, target.App, target.Namespace)
	}
	release, err := s.release(ctx, revision)
	if err != nil {
		return err
	}
	watch, err := s.observe(ctx, false, release)
	if err != nil {
		return err
	}
	defer watch.stop()
	// What its pods did before it was verified has been judged.
	r := *known
	r.Started = known.Finished
	deadline := until.Add(max(known.Deadline, time.Second))
	if now := c.clock(); now.After(until) {
		deadline = now.Add(max(known.Deadline, time.Second))
	}
	for {
		now := c.clock()
		obs, err := watch.look(release, &r, now)
		if err != nil {
			return err
		}
		next, err := judgeHeld(obs, known.Digest, until, deadline, now)
		if err != nil {
			return fmt.Errorf("revision %d of %s in namespace %s: %w", revision, target.App, target.Namespace, err)
		}
		if next.IsZero() {
			return nil
		}
		timer := time.NewTimer(max(next.Sub(now), 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-watch.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// judgeHeld judges what runs while it is held: an error when that is not as it was
// verified, when to look again, or neither when the time is over and all is ready.
func judgeHeld(obs Observation, digest string, until, deadline, now time.Time) (time.Time, error) {
	var waiting []string
	next := until
	if !now.Before(until) {
		next = deadline
	}
	for _, w := range obs.Workloads {
		switch {
		case !w.Exists:
			return time.Time{}, fmt.Errorf("%w: %s is gone", ErrFailed, w.Ref)
		case w.Release != digest:
			return time.Time{}, fmt.Errorf("%w: %s runs another release now", ErrSuperseded, w.Ref)
		case w.Health.Status == health.Failed:
			return time.Time{}, fmt.Errorf("%w after it was verified: %s: %s", ErrFailed, w.Ref, w.Health.Message)
		case w.Health.Status != health.Ready:
			waiting = append(waiting, fmt.Sprintf("%s: %s", w.Ref, w.Health.Message))
		}
		next = sooner(next, w.Health.Recheck)
	}
	switch {
	case len(waiting) == 0 && !now.Before(until):
		return time.Time{}, nil
	case !now.Before(deadline):
		return time.Time{}, fmt.Errorf("%w after it was verified: it is not ready: %s", ErrFailed, strings.Join(waiting, "; "))
	}
	return next, nil
}
