package rollout

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Progress tells what a rollout does now.
type Progress struct {
	Time     time.Time `json:"time"`
	Revision int       `json:"revision"`
	State    State     `json:"state"`
	Step     int       `json:"step,omitempty"`
	Message  string    `json:"message"`
	// Held tells that people or a freeze window are waited for, not the release.
	Held bool `json:"held,omitempty"`
}

// driver moves one rollout to its end, as its owner.
type driver struct {
	*store
	presence *presence
	claim    string // of this ownership
	clock    func() time.Time
	progress func(Progress)
	notify   func(Record)

	record  *Record
	version string
	release *manifest.Release // of the current rollout
	waves   waveIndex         // of the rollout to the revision indexed
	indexed int
	base    *manifest.Release // nil when there is none
	watch   *observer
	late    *lateLog // of the failing container; else nil
	// sampler looks at metrics while a canary step with gates serves; else nil.
	sampler *sampler
	// prober asks jobs and webhooks, likewise; jobs are the manifests of the former.
	prober *prober
	jobs   map[string]*unstructured.Unstructured
	hook   *hookRunner // of the hook that runs; else nil
	// reach tells which addresses webhooks may have.
	reach func(netip.Addr) bool
	// member tells whether a person belongs to a group.
	member func(user, group string) bool
	told   string
	// receivers are told of transitions by couriers, which run when there are any.
	receivers []Receiver
	couriers  *couriers
	// reacted is told how long ago what a write answers was seen; may be nil.
	reacted func(time.Duration)
	// dueBy is when the changes of the record are to be written; zero: there are none.
	dueBy time.Time
	// pressing tells that a rollout begins, which others must see before anything is
	// waited for.
	pressing bool
	// parting tells that nothing follows the end of the rollout: its last write
	// gives the application up.
	parting bool
	// unread tells that the record was remembered and not written since.
	unread bool
	// kept are the revisions in the record's history as it was written last.
	kept map[int]bool
}

// target is the release whose workloads are looked at.
func (d *driver) target() *manifest.Release {
	if d.record.Current.State == RollingBack && d.base != nil {
		return d.base
	}
	return d.release
}

// run goes on until the rollout has ended, ctx ends, or done says so. Ending
// ctx leaves everything as it is, for whoever comes next.
func (d *driver) run(ctx context.Context, done func(*Record) bool) error {
	var seen time.Time // what the next write answers
	for {
		if err := d.mayWrite(ctx); err != nil {
			return err
		}
		if err := d.refresh(); err != nil {
			return err
		}
		now := d.clock()
		if since := d.watch.unseen(); seen.IsZero() {
			seen = since
		}
		obs, err := d.watch.look(d.target(), d.record.Current, now)
		if err != nil {
			return err
		}
		if d.dueBy.IsZero() { // only what no crash can take back is told
			d.post()
		}
		d.sample(ctx, obs)
		learned := d.collect()
		learned = d.probe(ctx, obs) || learned
		if d.tendHooks(ctx) || learned || d.overdue() {
			if err := d.save(ctx); err != nil {
				return err
			}
			seen = time.Time{}
		}
		action := Decide(d.record, obs, now)
		d.tell(action, now)
		if d.record.Command == nil && (d.record.Current.State.Final() || done != nil && done(d.record)) {
			return nil
		}
		if action.Kind == Wait {
			seen = time.Time{}
			if d.pressing {
				if err := d.flush(ctx); err != nil {
					return err
				}
			}
			if err := d.wait(ctx, action.Until, now); err != nil {
				return err
			}
			continue
		}
		if d.reacted != nil && action.Kind.writes() && !seen.IsZero() {
			d.reacted(time.Since(seen))
		}
		if err := d.perform(ctx, action); err != nil {
			if err := d.cannot(ctx, action, err); err != nil {
				return err
			}
		}
		if action.Kind.writes() || d.dueBy.IsZero() { // it has asked the API server
			seen = time.Time{}
			d.watch.back()
		}
	}
}

func (d *driver) tell(action Action, now time.Time) {
	r := d.record.Current
	key := fmt.Sprint(r.State, r.Step, action.Why)
	if key == d.told || action.Kind == Mark && !action.Ready && action.Peak == 0 {
		return
	}
	d.told = key
	d.log.Info("rollout", zap.String("app", d.app), zap.Int("revision", r.Revision), zap.String("state", string(r.State)),
		zap.String("action", string(action.Kind)), zap.String("why", action.Why))
	d.progress(Progress{Time: now, Revision: r.Revision, State: r.State, Step: r.Step, Message: action.Why, Held: action.Held})
}

// wait blocks until something changes or until comes; a lease that got lost is
// noticed by its next renewal.
func (d *driver) wait(ctx context.Context, until, now time.Time) error {
	wait := leaseRenew
	if !until.IsZero() {
		wait = min(max(until.Sub(now), 0), wait)
	}
	if !d.dueBy.IsZero() {
		wait = min(max(time.Until(d.dueBy), 0), wait)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-d.watch.wake:
	case <-timer.C:
	}
	return nil
}

// mayWrite returns when this process surely owns the rollout. Time for which
// the API server was away is taken out of all deadlines: nothing could be seen.
func (d *driver) mayWrite(ctx context.Context) error {
	var longest time.Duration
	for {
		away, err := d.presence.held()
		if err != nil {
			return err
		}
		if away == 0 {
			break
		}
		longest = max(longest, away)
		if longest > d.patience {
			return fmt.Errorf("the API server has not answered for %s", longest.Round(time.Second))
		}
		if err := pause(ctx, retryFirst); err != nil {
			return err
		}
	}
	if longest > 0 {
		d.log.Warn("the API server was away", zap.String("app", d.app), zap.Duration("for", longest))
		d.record.Current.shift(longest, d.clock())
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

// refresh takes over what others wrote into the record: a command.
func (d *driver) refresh() error {
	seen, version := d.watch.record(d.version)
	if seen == nil {
		return nil
	}
	return d.merge(seen, version)
}

func (d *driver) merge(seen *Record, version string) error {
	if d.unread {
		if version == d.version {
			return nil
		}
		return d.misled()
	}
	if seen.Fence != d.record.Fence {
		return &lostError{owner: "a later one"}
	}
	d.version = version
	d.record.Command = seen.Command
	if seen.Command != nil && d.record.Reply != nil && d.record.Reply.ID == seen.Command.ID {
		d.record.Command = nil // answered; the answer is about to be written
	}
	return nil
}

// save writes the record, after merging what others wrote meanwhile.
func (d *driver) save(ctx context.Context) error {
	first := true
	return d.retry(ctx, "writing the record of "+d.app, func(ctx context.Context) error {
		for {
			if !first { // the last try may have been done after all
				seen, version, err := d.load(ctx)
				if err != nil {
					return err
				}
				if err := d.merge(seen, version); err != nil {
					return err
				}
			}
			first = false
			d.record.Driven = d.clock()
			version, err := d.store.save(ctx, d.record, d.version)
			if err == nil {
				d.saved(version)
				return nil
			}
			if d.unread && (apierrors.IsConflict(err) || apierrors.IsNotFound(err)) {
				return d.misled()
			}
			if !apierrors.IsConflict(err) {
				return err
			}
		}
	})
}
