package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Promote lets the canary's present step pass by a person's word; with full,
// all that are left.
func (c *Controller) Promote(ctx context.Context, target Target, by string, full bool, progress func(Progress)) (Reply, error) {
	return c.ask(ctx, target, Command{Kind: CommandPromote, By: by, Full: full}, progress)
}

// Pause holds the rollout where it is. Its pods are still judged: a failing
// release is taken back all the same.
func (c *Controller) Pause(ctx context.Context, target Target, by string, progress func(Progress)) (Reply, error) {
	return c.ask(ctx, target, Command{Kind: CommandPause, By: by}, progress)
}

// Resume ends a pause.
func (c *Controller) Resume(ctx context.Context, target Target, by string, progress func(Progress)) (Reply, error) {
	return c.ask(ctx, target, Command{Kind: CommandResume, By: by}, progress)
}

// Abort takes the release under way back.
func (c *Controller) Abort(ctx context.Context, target Target, by string, progress func(Progress)) (Reply, error) {
	return c.ask(ctx, target, Command{Kind: CommandAbort, By: by}, progress)
}

// AbortRevision takes that revision back if it is under way, and never another.
func (c *Controller) AbortRevision(ctx context.Context, target Target, revision int, by string, progress func(Progress)) (Reply, error) {
	return c.ask(ctx, target, Command{Kind: CommandAbort, By: by, Revision: revision}, progress)
}

// Approve answers an approval gate of the present step with yes; gate may be
// empty when only one is open. Only those that the gate asks may (ErrRefused).
func (c *Controller) Approve(ctx context.Context, target Target, by, gate, comment string, progress func(Progress)) (Reply, error) {
	return c.ask(ctx, target, Command{Kind: CommandApprove, By: by, Gate: gate, Comment: comment}, progress)
}

// Reject answers with no: the release is taken back.
func (c *Controller) Reject(ctx context.Context, target Target, by, gate, comment string, progress func(Progress)) (Reply, error) {
	return c.ask(ctx, target, Command{Kind: CommandReject, By: by, Gate: gate, Comment: comment}, progress)
}

// Override begins a release that a freeze window holds.
func (c *Controller) Override(ctx context.Context, target Target, by, reason string, progress func(Progress)) (Reply, error) {
	return c.ask(ctx, target, Command{Kind: CommandOverride, By: by, Comment: reason}, progress)
}

// ask gives a command to whoever drives the rollout and returns the answer.
// When nobody does, this process becomes the owner, carries the command out and
// drives the rollout to its end (a pause: until it is recorded), and an end that
// was not asked for is an error like that of Start. A command that is refused is
// an error that wraps ErrRefused.
func (c *Controller) ask(ctx context.Context, target Target, command Command, progress func(Progress)) (Reply, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	s := c.store(target)
	record, owner, err := c.Status(ctx, target)
	if err != nil {
		return Reply{}, err
	}
	command.ID, command.At = newID(), c.clock()
	if record.Current != nil && command.Revision == 0 {
		command.Revision = record.Current.Revision
	}
	// Nobody needs to act, and nothing can change by itself; or another is meant.
	if !record.Live() || record.Current.Revision != command.Revision {
		a := answerTo(record, command)
		return answered(Reply{ID: command.ID, Accepted: a.accepted, Message: a.message, At: command.At})
	}
	if owner != "" {
		// The time for which no answer comes tells of its owner, too.
		if _, err := s.tenure(ctx, record); err != nil {
			return Reply{}, err
		}
		if err := s.command(ctx, command); err != nil {
			return Reply{}, err
		}
		reply, err := s.awaitReply(ctx, command)
		if err != nil {
			return Reply{}, err
		}
		if reply != nil {
			return answered(*reply)
		}
		progress(Progress{Time: c.clock(), Revision: command.Revision, State: record.Current.State, Message: owner + " does not answer; taking over when its lease ends"})
	}
	// Another process may be the one that takes over, and answer.
	var reply *Reply
	d, err := c.own(ctx, s, func(record *Record) (*Command, error) {
		if reply = record.replyTo(command, c.clock()); reply != nil {
			return nil, errAnswered
		}
		return nil, nil
	}, progress)
	if errors.Is(err, errAnswered) {
		return answered(*reply)
	}
	if err != nil {
		return Reply{}, err
	}
	defer d.close()
	if d.record.Command == nil && d.record.replyTo(command, c.clock()) == nil {
		d.record.Command = &command
	}
	d.parting = true
	err = d.finishCurrent(ctx, func(record *Record) bool { return command.Kind == CommandPause || record.Current.Paused })
	if err != nil {
		return Reply{}, err
	}
	if reply = d.record.replyTo(command, c.clock()); reply == nil {
		a := answerTo(d.record, command)
		reply = &Reply{ID: command.ID, Accepted: a.accepted, Message: a.message, At: c.clock()}
	}
	if _, err := answered(*reply); err != nil {
		return *reply, err
	}
	return *reply, endOf(*d.record.Current, command)
}

// endOf is how the rollout went that whoever asked has driven to its end: an
// error unless it is verified, or going back was what was asked for.
func endOf(r Rollout, command Command) error {
	if !r.State.Final() || command.Kind == CommandAbort || command.Kind == CommandReject {
		return nil
	}
	_, err := resultOf(r)
	return err
}

// errAnswered ends the wait for a lease that is not needed any more.
var errAnswered = errors.New("the command was answered")

func answered(reply Reply) (Reply, error) {
	if !reply.Accepted {
		return reply, fmt.Errorf("%w: %s", ErrRefused, reply.Message)
	}
	return reply, nil
}

// awaitChange returns when the record is not of version any more, when ctx has
// ended, or a moment after a watch was refused: the next load tells what is wrong
// for good.
func (s *store) awaitChange(ctx context.Context, version string) {
	watch, err := s.kube.CoreV1().ConfigMaps(s.namespace).Watch(ctx, metav1.ListOptions{
		FieldSelector: "metadata.name=" + s.name(), ResourceVersion: version})
	if err != nil {
		_ = pause(ctx, retryMost/5) // ends early with ctx alone
		return
	}
	defer watch.Stop()
	select {
	case <-ctx.Done():
	case <-watch.ResultChan():
	}
}

// awaitReply watches the record for the answer; nil when none came while the
// owner should have been alive.
func (s *store) awaitReply(ctx context.Context, command Command) (*Reply, error) {
	bounded, cancel := context.WithTimeout(ctx, leaseTTL)
	defer cancel()
	for {
		record, version, err := s.load(ctx)
		if err != nil {
			return nil, err
		}
		if reply := record.replyTo(command, time.Now()); reply != nil {
			return reply, nil
		}
		s.awaitChange(bounded, version)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if bounded.Err() != nil {
			return nil, nil
		}
	}
}

// Rollback returns to an earlier verified revision, whole: configuration and
// images together. to is the revision; 0 means the verified one before the
// present one, or, while a rollout is under way, the one that it started from
// (then it is the same as Abort). Outside the environment's rollback window it
// is refused (ErrRefused).
func (c *Controller) Rollback(ctx context.Context, target Target, to int, by string, progress func(Progress)) (Result, error) {
	return c.rollback(ctx, target, to, false, by, progress)
}

// ForceRollback is a Rollback that may leave the environment's rollback window;
// the record says so.
func (c *Controller) ForceRollback(ctx context.Context, target Target, to int, by string, progress func(Progress)) (Result, error) {
	return c.rollback(ctx, target, to, true, by, progress)
}

func (c *Controller) rollback(ctx context.Context, target Target, to int, force bool, by string, progress func(Progress)) (Result, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	record, _, err := c.Status(ctx, target)
	if err != nil {
		return Result{}, err
	}
	if record.Live() {
		if to != 0 && to != record.Current.Base {
			return Result{}, fmt.Errorf("%w: revision %d is on its way; abort it first (that returns to revision %d), then roll back to %d",
				ErrRefused, record.Current.Revision, record.Current.Base, to)
		}
		if _, err := c.Abort(ctx, target, by, progress); err != nil {
			return Result{}, err
		}
		record, _, err := c.Status(ctx, target)
		if err != nil {
			return Result{}, err
		}
		return Result{Rollout: *record.Current}, nil
	}
	if _, _, err := record.rollbackTarget(to, force, c.clock()); err != nil {
		return Result{}, err
	}
	d, err := c.own(ctx, c.store(target), nil, progress)
	if err != nil {
		return Result{}, err
	}
	defer d.close()
	if d.record.Live() {
		return Result{}, fmt.Errorf("%w: revision %d has just been started; abort it first", ErrRefused, d.record.Current.Revision)
	}
	goal, forced, err := d.record.rollbackTarget(to, force, c.clock())
	if err != nil {
		return Result{}, err
	}
	if goal.Revision == d.record.Verified && d.record.Stable == d.record.Verified {
		return Result{Rollout: *goal, Unchanged: true}, nil
	}
	if d.release, err = d.store.release(ctx, goal.Revision); err != nil {
		return Result{}, err
	}
	now := c.clock()
	content := goal.Revision
	if goal.RollbackTo != 0 {
		content = goal.RollbackTo
	}
	r := &Rollout{
		Digest: goal.Digest, Readiness: goal.Readiness, Strategy: Strategy{Kind: RollingStrategy}, Deadline: DefaultDeadline, By: by, Commit: goal.Commit, Images: goal.Images,
		RollbackTo: content, From: goal.From, Source: goal.Source, Note: fmt.Sprintf("rollback to revision %d, without a bake time: it was verified before", goal.Revision) + forced,
		State: Pending, Base: d.record.Verified, Started: now, StateSince: now, RestartedAt: d.record.restartedAt(d.record.Verified),
	}
	if _, err := r.arrangeWaves(d.release, nil); err != nil {
		return Result{}, err
	}
	r.reverseWaves()
	if err := d.enter(ctx, r); err != nil {
		return Result{}, err
	}
	d.parting = true
	if err := d.finishCurrent(ctx, nil); err != nil {
		return Result{}, err
	}
	return resultOf(*d.record.Current)
}

// rollbackTarget finds the revision to go back to. When it is outside the
// rollback window, forced is the note that says so, or it is refused.
func (r *Record) rollbackTarget(to int, force bool, now time.Time) (goal *Rollout, forced string, err error) {
	if goal, err = r.earlier(to); err != nil {
		return nil, "", err
	}
	why := r.outside(goal, now)
	switch {
	case why == "":
		return goal, "", nil
	case !force:
		return nil, "", fmt.Errorf("%w: %s (the environment's rollback window); --force goes back all the same", ErrRefused, why)
	}
	return goal, "; forced: " + why, nil
}

// earlier finds the revision that is meant.
func (r *Record) earlier(to int) (*Rollout, error) {
	if to != 0 {
		goal := r.Revision(to)
		if goal == nil {
			return nil, fmt.Errorf("%w: revision %d; see the history", ErrNotFound, to)
		}
		if !goal.Verified() {
			return nil, fmt.Errorf("%w: revision %d was never verified (%s)", ErrRefused, to, goal.Sentence())
		}
		return goal, nil
	}
	serving := r.Revision(r.Verified)
	for i := range r.History {
		h := &r.History[i]
		if h.Verified() && h.Revision < r.Verified && (serving == nil || h.Digest != serving.Digest) {
			return h, nil
		}
	}
	return nil, fmt.Errorf("%w: there is no verified revision before the present one", ErrNotFound)
}

// Watch calls see with the record now and at every change, until ctx ends or
// see returns false.
func (c *Controller) Watch(ctx context.Context, target Target, see func(*Record) bool) error {
	s := c.store(target)
	last := ""
	for {
		record, version, err := s.load(ctx)
		if err != nil {
			return err
		}
		if version == "" || record.empty() {
			return fmt.Errorf("%w: %s in namespace %s", ErrNotFound, target.App, target.Namespace)
		}
		if version != last && !see(record) {
			return nil
		}
		last = version
		bounded, cancel := context.WithTimeout(ctx, 5*time.Minute)
		s.awaitChange(bounded, version)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
