package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// restartedAt is when the pods of a revision were last restarted; zero when
// never, or when the record has forgotten the revision.
func (r *Record) restartedAt(revision int) time.Time {
	if known := r.Revision(revision); known != nil {
		return known.RestartedAt
	}
	return time.Time{}
}

// Retry starts the release of the last rollout again, as a new revision with
// the same strategy, when that rollout did not end verified. Nothing is done
// when it did, or while it is under way.
func (c *Controller) Retry(ctx context.Context, target Target, by string, progress func(Progress)) (Result, error) {
	return c.again(ctx, target, Command{Kind: CommandRetry, By: by}, progress, func(ctx context.Context, d *driver) error {
		last := d.record.Current
		if last.Digest == d.record.digest(d.record.Verified) && !last.RestartedAt.Equal(d.record.restartedAt(d.record.Verified)) {
			return d.beginRestart(ctx, by)
		}
		release, jobs, err := d.store.releaseWithJobs(ctx, last.Revision)
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: the manifests of revision %d are not kept, because the API server did not accept them; start a corrected release", ErrRefused, last.Revision)
		}
		if err != nil {
			return err
		}
		for i := range last.Strategy.Checks {
			if g := &last.Strategy.Checks[i]; g.Job != nil {
				g.Job.Manifest = jobs[g.Name]
			}
		}
		bake := last.Bake
		for i := range last.Hooks {
			last.Hooks[i].Manifest = jobs[last.Hooks[i].key()]
		}
		request := Request{Hooks: last.Hooks, Readiness: last.Readiness, App: target.App, Namespace: target.Namespace, Release: release, Strategy: last.Strategy, Bake: &bake, Deadline: last.Deadline, By: by, Commit: last.Commit, From: last.From, Source: last.Source, OnRollback: last.OnRollback}
		if err := request.check(); err != nil {
			return err
		}
		return d.begin(ctx, request, fmt.Sprintf("revision %d again", last.Revision))
	})
}

// Restart replaces all pods of the verified release by the workloads' own
// rolling update, held by the same gates as a new release: pods that do not
// come up again end it, and the ones that are left keep serving.
func (c *Controller) Restart(ctx context.Context, target Target, by string, progress func(Progress)) (Result, error) {
	return c.again(ctx, target, Command{Kind: CommandRestart, By: by}, progress, func(ctx context.Context, d *driver) error {
		return d.beginRestart(ctx, by)
	})
}

func (d *driver) beginRestart(ctx context.Context, by string) error {
	serving := d.record.Revision(d.record.Verified)
	if serving == nil {
		return fmt.Errorf("%w: revision %d", ErrNotFound, d.record.Verified)
	}
	var err error
	if d.release, err = d.store.release(ctx, serving.Revision); err != nil {
		return err
	}
	bake, deadline := serving.Bake, serving.Deadline
	// What was adopted has none of its own, and a rollback has no bake.
	if deadline == 0 || serving.RollbackTo != 0 {
		bake = DefaultBake
	}
	if deadline == 0 {
		deadline = DefaultDeadline
	}
	now := d.clock()
	r := &Rollout{
		Digest: serving.Digest, Readiness: serving.Readiness, Strategy: Strategy{Kind: RollingStrategy}, Bake: bake, Deadline: deadline, By: by, Commit: serving.Commit,
		Images: serving.Images, Note: fmt.Sprintf("restart of revision %d", serving.Revision), RestartedAt: now, From: serving.From, Source: serving.Source,
		State: Pending, Base: d.record.Verified, Started: now, StateSince: now,
	}
	if _, err := r.arrangeWaves(d.release, d.release); err != nil {
		return err
	}
	return d.enter(ctx, r)
}

// again makes this process the owner of an application whose rollout has
// ended, if the command is accepted, lets begin make the next one, and drives it.
func (c *Controller) again(ctx context.Context, target Target, command Command, progress func(Progress), begin func(context.Context, *driver) error) (Result, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	record, _, err := c.Status(ctx, target)
	if err != nil {
		return Result{}, err
	}
	// Asked once before the lease is waited for, and once when it is ours.
	if result, done, err := idle(record, command); done {
		return result, err
	}
	d, err := c.own(ctx, c.store(target), nil, progress)
	if err != nil {
		return Result{}, err
	}
	defer d.close()
	if result, done, err := idle(d.record, command); done {
		return result, err
	}
	if err := begin(ctx, d); err != nil {
		return Result{}, err
	}
	if err := d.finishCurrent(ctx, nil); err != nil {
		return Result{}, err
	}
	return resultOf(*d.record.Current)
}

// idle tells whether a command that begins a rollout has nothing to begin.
func idle(record *Record, command Command) (_ Result, done bool, err error) {
	a := answerTo(record, command)
	switch {
	case !a.accepted:
		return Result{}, true, fmt.Errorf("%w: %s", ErrRefused, a.message)
	case record.Live() || command.Kind == CommandRetry && record.Current.Verified():
		return Result{Rollout: *record.Current, Unchanged: true}, true, nil
	}
	return Result{}, false, nil
}
