package rollout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Progress tells what a rollout does now.
type Progress struct {
	Time     time.Time `json:"time"`
	Revision int       `json:"revision"`
	State    State     `json:"state"`
	Step     int       `json:"step,omitempty"`
	Message  string    `json:"message"`
}

// driver moves one rollout to its end, as its owner.
type driver struct {
	*store
	lease    *lease
	clock    func() time.Time
	progress func(Progress)
	notify   func(Record)

	record  *Record
	version string
	release *manifest.Release // of the current rollout
	base    *manifest.Release // nil when there is none
	watch   *observer
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
	for {
		if err := d.mayWrite(ctx); err != nil {
			return err
		}
		if err := d.refresh(); err != nil {
			return err
		}
		now := d.clock()
		obs, err := d.watch.look(d.target(), d.record.Current, now)
		if err != nil {
			return err
		}
		d.sample(ctx, obs)
		seen := d.collect()
		seen = d.probe(ctx, obs) || seen
		if d.tendHooks(ctx) || seen {
			if err := d.save(ctx); err != nil {
				return err
			}
		}
		action := Decide(d.record, obs, now)
		d.tell(action, now)
		if d.record.Command == nil && (d.record.Current.State.Final() || done != nil && done(d.record)) {
			return nil
		}
		if action.Kind == Wait {
			if err := d.wait(ctx, action.Until, now); err != nil {
				return err
			}
			continue
		}
		if err := d.perform(ctx, action); err != nil {
			if err := d.cannot(ctx, action, err); err != nil {
				return err
			}
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
	d.progress(Progress{Time: now, Revision: r.Revision, State: r.State, Step: r.Step, Message: action.Why})
}

// wait blocks until something changes or until comes; a lease that got lost is
// noticed by its next renewal.
func (d *driver) wait(ctx context.Context, until, now time.Time) error {
	wait := leaseRenew
	if !until.IsZero() {
		wait = min(max(until.Sub(now), 0), wait)
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
		away, err := d.lease.held()
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
	seen, version := d.watch.record()
	if seen == nil || version == d.version || !newer(version, d.version) {
		return nil
	}
	return d.merge(seen, version)
}

func (d *driver) merge(seen *Record, version string) error {
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
			version, err := d.store.save(ctx, d.record, d.version)
			if err == nil {
				d.version = version
				return nil
			}
			if !apierrors.IsConflict(err) {
				return err
			}
		}
	})
}

// perform carries out one action and records it.
func (d *driver) perform(ctx context.Context, a Action) error {
	r := d.record.Current
	switch a.Kind {
	case Obey:
		state := r.State
		d.record.Command.Groups = r.groupsOf(d.record.Command.By, d.member)
		if err := d.record.obey(d.clock()); err != nil {
			return err
		}
		return d.recorded(ctx, state)
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
		if err := d.applySet(ctx, d.release, r.Revision, settings{}, d.neededFirst); err != nil {
			return err
		}
	case ApplyRelease:
		if err := d.applySet(ctx, d.release, r.Revision, a.settings(), r.unbegun); err != nil {
			return err
		}
	case ApplyBase:
		if err := d.applySet(ctx, d.base, r.Base, a.settings(), nil); err != nil {
			return err
		}
		r.Restored, d.record.Stable = true, r.Base
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
		if a.Track == PreviewTrack {
			return d.applyPreviewServices(ctx, a.Ref, written.GetUID())
		}
		return nil
	case DeletePods:
		return d.deletePods(ctx, a.Pods)
	case PointService:
		return d.point(ctx, a) // seen in the cluster, nothing to record
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
		d.prune(ctx)
	case Advance:
		if f := a.Move.Failure; f != nil && f.Container != nil {
			f.Log = d.lastLines(ctx, f.Container)
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
	return d.recorded(ctx, state)
}

// neededFirst tells whether an object is applied before a companion runs.
func (d *driver) neededFirst(ref manifest.Ref) bool {
	return manifest.NeededByPods(ref) && (d.base == nil || !d.base.Contains(ref))
}

// companionOf makes the companion Deployment that ScaleCanary asks for.
func (d *driver) companionOf(a Action) (*unstructured.Unstructured, error) {
	release, revision := d.release, d.record.Current.Revision
	if a.Track == BaselineTrack {
		release, revision = d.base, d.record.Current.Base
	}
	return a.Track.of(manifest.Stamped(release.Find(a.Ref), d.app, revision, release.Digest), a.Replicas)
}

// recorded saves the record and, when a state ended, tells those who want to know.
func (d *driver) recorded(ctx context.Context, before State) error {
	if err := d.save(ctx); err != nil {
		return err
	}
	if now := d.record.Current.State; now != before && (now.Final() || now == RollingBack) {
		d.notify(*d.record)
	}
	if r := d.record.Current; r.State.Final() && r.runsJobs() {
		if err := d.endTasks(ctx, r.Revision); err != nil {
			d.log.Warn("the Jobs of gates and hooks stay until they expire", zap.String("app", d.app), zap.Error(err))
		}
	}
	if d.record.Current.State.Final() {
		if err := d.pruneReleases(ctx, d.record); err != nil {
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
	return d.recorded(ctx, before)
}

// ApplyRefused says that the API server refused a write that its dry run had accepted.
const ApplyRefused health.Reason = "ApplyRefused"

// intend adds the release's objects to the inventory before any is written.
func (d *driver) intend() {
	for _, ref := range d.release.Refs() {
		known := false
		for _, have := range d.record.Inventory {
			known = known || have.Same(ref)
		}
		if !known {
			d.record.Inventory = append(d.record.Inventory, ref)
		}
	}
}

// applySet writes the objects of release that which accepts (all, when nil), in order.
func (d *driver) applySet(ctx context.Context, release *manifest.Release, revision int, s settings, which func(manifest.Ref) bool) error {
	for _, object := range release.Objects {
		ref := manifest.RefOf(object)
		if which != nil && !which(ref) {
			continue
		}
		if err := d.mayWrite(ctx); err != nil {
			return err
		}
		if slices.ContainsFunc(d.record.Current.TakenOver, ref.Same) {
			if err := d.inherit(ctx, ref); err != nil {
				return err
			}
		}
		u := manifest.Stamped(object, d.app, revision, release.Digest)
		if manifest.IsWorkload(ref) {
			own := d.record.Current.ownSettings(ref, s)
			own.restarted = d.record.restartedAt(revision)
			if err := d.applyWorkload(ctx, u, own, d.watch.scaled(ref, release)); err != nil {
				return err
			}
			continue
		}
		if d.record.Current.switches(ref) {
			if err := aim(u, s.points, ""); err != nil {
				return err
			}
		}
		written, err := d.put(ctx, u)
		if err != nil {
			return err
		}
		d.watch.wrote(written)
	}
	return nil
}

func (d *driver) applyWorkload(ctx context.Context, u *unstructured.Unstructured, s settings, scaled bool) error {
	s.scaled = scaled
	if scaled {
		live, err := d.get(ctx, manifest.RefOf(u))
		if err != nil {
			return err
		}
		if live != nil && ownsReplicas(live) {
			if err := d.handOver(ctx, live); err != nil {
				return err
			}
		}
	}
	if err := shape(u, s); err != nil {
		return err
	}
	written, err := d.put(ctx, u)
	if err != nil {
		return err
	}
	d.watch.wrote(written)
	return nil
}

// kept lists kinds that pruning leaves alone: deleting one deletes data, or
// everything of others inside it.
var kept = map[string]bool{"Namespace": true, "CustomResourceDefinition": true, "PersistentVolumeClaim": true, "PersistentVolume": true}

// prune deletes what Tidegate applied and neither the serving release nor the
// one before it needs: the one before keeps its configuration, since
// ReplicaSets that may be asked back by hand name it. What cannot be deleted
// now stays in the inventory for the next time.
func (d *driver) prune(ctx context.Context) {
	serving, previous := d.release, d.base
	if d.record.Current.State == RollingBack {
		serving, previous = d.base, nil
	}
	inventory, needless := prunable(d.record.Inventory, serving, previous)
	for _, ref := range needless {
		if kept[ref.Kind] {
			d.log.Info("left for a person to delete: it may hold data", zap.Stringer("object", ref))
			continue
		}
		if err := d.pruneOne(ctx, ref); err != nil {
			d.log.Warn("cannot delete an object that no release needs any more", zap.Stringer("object", ref), zap.Error(err))
			inventory = append(inventory, ref)
		}
	}
	d.record.Inventory = inventory
}

// prunable parts an inventory into what the serving release or the
// configuration of the one before it needs, and the rest.
func prunable(inventory []manifest.Ref, serving, previous *manifest.Release) (needed, needless []manifest.Ref) {
	for _, ref := range inventory {
		switch {
		case serving.Contains(ref), previous != nil && previous.Contains(ref) && (ref.Kind == "ConfigMap" || ref.Kind == "Secret"):
			needed = append(needed, ref)
		default:
			needless = append(needless, ref)
		}
	}
	return needed, needless
}

func (d *driver) pruneOne(ctx context.Context, ref manifest.Ref) error {
	live, err := d.get(ctx, ref)
	if err != nil || live == nil {
		return err
	}
	if live.GetLabels()[manifest.LabelApp] != d.app {
		return nil // someone else's by now
	}
	return d.delete(ctx, ref)
}

// lastLines reads the end of a failing container's log. It is bounded in time
// too: going back matters more.
func (d *driver) lastLines(ctx context.Context, c *health.Container) []string {
	const patience = time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	lines, limit := int64(maxLogLines), int64(maxLogBytes)
	stream, err := d.kube.CoreV1().Pods(d.namespace).GetLogs(c.Pod, &corev1.PodLogOptions{
		Container: c.Name, Previous: c.Previous, TailLines: &lines, LimitBytes: &limit}).Stream(ctx)
	if err != nil {
		d.log.Info("no log of the failing container", zap.String("pod", c.Pod), zap.Error(err))
		return nil
	}
	defer stream.Close()
	content, err := io.ReadAll(io.LimitReader(stream, maxLogBytes))
	if err != nil && len(content) == 0 {
		return nil
	}
	text := strings.TrimRight(strings.ToValidUTF8(string(content), "�"), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}
