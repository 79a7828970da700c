package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// perform carries out one action and records it.
func (d *driver) perform(ctx context.Context, a Action) error {
	r := d.record.Current
	if r.needsRecord(a) && (a.Kind != ApplyNeeded || d.anyNeeded()) {
		if err := d.flush(ctx); err != nil {
			return err
		}
	}
	switch a.Kind {
	case Obey:
		state := r.State
		d.record.Command.Groups = r.groupsOf(d.record.Command.By, d.member)
		if err := d.record.obey(d.clock()); err != nil {
			return err
		}
		return d.recorded(ctx, state, 0)
	case Mark:
		if a.Ready {
			r.StepReadyAt = d.clock()
		}
		if a.Peak > r.Peak {
			r.Peak, r.LastProgress = a.Peak, d.clock()
		}
	case BeginHook:
		r.HookRuns = append(r.HookRuns, HookRun{Hook: a.Hook, Outcome: analysis.Inconclusive, Why: "begins", At: d.clock()})
	case ApplyNeeded:
		if err := d.applySet(ctx, d.release, r.Revision, settings{}, d.neededNow); err != nil {
			return err
		}
	case ApplyRelease:
		if err := d.applySet(ctx, d.release, r.Revision, a.settings(), d.due); err != nil {
			return err
		}
	case ApplyBase:
		if err := d.applySet(ctx, d.base, r.Base, a.settings(), d.restored); err != nil {
			return err
		}
		if r.Restored = true; r.Wave == 0 {
			d.record.Stable = r.Base
		}
	case ApplyWorkload:
		release, revision := d.target(), r.Revision
		if release == d.base {
			revision = r.Base
		}
		if err := d.applySet(ctx, release, revision, a.settings(), a.Ref.Same); err != nil {
			return err
		}
		return nil // seen in the cluster, nothing to record
	case ScaleCanary:
		u, err := d.companionOf(a)
		if err != nil {
			return err
		}
		written, err := d.put(ctx, u)
		if err != nil {
			return err
		}
		d.watch.wrote(written)
		return d.applyCompanionServices(ctx, a.Track, a.Ref, written.GetUID())
	case DeletePods:
		return d.deletePods(ctx, a.Pods)
	case PointService:
		return d.point(ctx, a) // seen in the cluster, nothing to record
	case SetWeight:
		l := r.routeAt(a.Ref)
		if err := d.setSplit(ctx, l, a.Split, false); err != nil {
			return err
		}
		if a.Overwrites {
			l.Overwritten++
		}
	case Admit:
		if err := d.admit(ctx, a.Pods); err != nil {
			return err
		}
		d.watch.letIn(a.Pods)
		return nil
	case RemoveCanary:
		if err := d.delete(ctx, a.Track.ref(a.Ref)); err != nil {
			return err
		}
		d.watch.deleted(a.Track.Name(a.Ref.Name))
		return nil
	case Prune:
		if err := d.prune(ctx); err != nil {
			return err
		}
	case Advance:
		if f := a.Move.Failure; f != nil && f.Container != nil {
			f.Log = d.readLog(ctx, f.Container, logPatience)
		}
	}
	state := r.State
	if a.Move != nil {
		if a.Move.To == Applying {
			d.intend()
		}
		if err := d.record.advance(*a.Move, d.clock()); err != nil {
			return err
		}
	}
	return d.recorded(ctx, state, a.mayWait())
}

// neededFirst tells whether an object is applied before a companion runs.
func (d *driver) neededFirst(ref manifest.Ref) bool {
	return manifest.NeededByPods(ref) && (d.base == nil || !d.base.Contains(ref))
}

// index is the waves of the release.
func (d *driver) index() waveIndex {
	if r := d.record.Current; d.indexed != r.Revision {
		d.waves, d.indexed = indexWaves(d.release, r.Reversed), r.Revision
	}
	return d.waves
}

// neededNow tells the same of an object of the present wave.
func (d *driver) neededNow(ref manifest.Ref) bool {
	return d.neededFirst(ref) && d.index().due(d.record.Current, ref)
}

// anyNeeded tells whether there is any such object.
func (d *driver) anyNeeded() bool { return slices.ContainsFunc(d.release.Refs(), d.neededNow) }

// due tells whether an object is written when the present wave is.
func (d *driver) due(ref manifest.Ref) bool {
	return d.index().due(d.record.Current, ref) && d.record.Current.unbegun(ref)
}

// restored tells whether an object of the base is put back with the present wave.
func (d *driver) restored(ref manifest.Ref) bool { return d.index().restored(d.record.Current, ref) }

// companionOf makes the companion Deployment that ScaleCanary asks for.
func (d *driver) companionOf(a Action) (*unstructured.Unstructured, error) {
	release, revision := d.release, d.record.Current.Revision
	if a.Track == BaselineTrack {
		release, revision = d.base, d.record.Current.Base
	}
	return a.Track.of(manifest.Stamped(release.Find(a.Ref), d.app, revision, release.Digest), a.Replicas, d.record.Current.dark(a.Track))
}

// recorded saves the record and, when a state ended, tells those who want to know.
// What may wait is written together with what follows.
func (d *driver) recorded(ctx context.Context, before State, mayWait time.Duration) error {
	now := d.record.Current.State
	d.takeLog(now.Final())
	turned := now != before && (now.Final() || now == RollingBack)
	if mayWait > 0 && !turned {
		d.postpone(mayWait)
		return nil
	}
	known := d.kept
	// What is still done after the last write is as good if somebody else owns the
	// application then; receivers are told by its owner alone.
	if d.parting && now.Final() && len(d.receivers) == 0 && d.record.Command == nil {
		d.record.Owner = nil
	}
	if err := d.save(ctx); err != nil {
		return err
	}
	if turned {
		d.notify(*d.record)
	}
	if r := d.record.Current; r.State.Final() && r.runsJobs() {
		if err := d.endTasks(ctx, r.Revision); err != nil {
			d.log.Warn("the Jobs of gates and hooks stay until they expire", zap.String("app", d.app), zap.Error(err))
		}
	}
	if d.record.Current.State.Final() {
		if err := d.pruneReleases(ctx, d.record, forgotten(known, d.record)); err != nil {
			d.log.Warn("old manifests stay for now", zap.String("app", d.app), zap.Error(err))
		}
	}
	return nil
}

// cannot handles an action that failed for good: forward, the release is taken
// back; backward, that has failed.
func (d *driver) cannot(ctx context.Context, a Action, cause error) error {
	if errors.Is(cause, ErrLost) || ctx.Err() != nil || transient(cause) {
		return cause
	}
	f := &Failure{Reason: ApplyRefused, Message: clipText(fmt.Sprintf("%s: %s", a.Why, cause))}
	move := Move{To: RollingBack, Ending: EndedByFailure, Failure: f}
	r := d.record.Current
	if r.State == RollingBack {
		move.To = Failed
	}
	if _, ok := transitions[r.State][move.To]; !ok {
		return cause
	}
	before := r.State
	if err := d.record.advance(move, d.clock()); err != nil {
		return err
	}
	return d.recorded(ctx, before, 0)
}

// ApplyRefused says that the API server refused a write that its dry run had accepted.
const ApplyRefused health.Reason = "ApplyRefused"
