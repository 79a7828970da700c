package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// ManifestRejected says that the API server did not accept the release; nothing was changed.
const ManifestRejected health.Reason = "ManifestRejected"

// dryRuns is how many objects are tried at once.
const dryRuns = 8

// begin checks the whole release against the API server, which changes
// nothing, and records the new rollout in state pending, with a note if there is one.
func (d *driver) begin(ctx context.Context, request Request, note string) error {
	record := d.record
	r := request.rollout(d.clock())
	// What will be watched anyway answers some questions without a request.
	watch, err := d.observe(ctx, false, request.Release)
	if err != nil {
		return err
	}
	if d.watch != nil {
		d.watch.stop()
	}
	d.watch = watch
	findings, err := d.tryAll(ctx, request)
	if errors.Is(err, ErrRejected) {
		return errors.Join(err, d.recordRejected(ctx, r, err))
	}
	if err != nil {
		return err
	}
	r.takeOver(request.Release, findings)
	if request.Freeze != nil {
		record.Freeze = request.Freeze
	}
	r.Freeze = record.Freeze
	if request.Window != nil {
		record.Window = request.Window
	}
	if record.Verified == 0 {
		if err := d.adopt(ctx, request, findings); err != nil {
			return err
		}
	}
	if record.Verified == 0 {
		d.base = nil
	} else if d.base == nil || d.base.Digest != record.digest(record.Verified) {
		if d.base, err = d.store.release(ctx, record.Verified); err != nil {
			return err
		}
	}
	if err := d.choose(request, r, []string{note, takenOver(request.Release, findings)}); err != nil {
		return err
	}
	d.release, d.jobs = request.Release, request.jobs()
	if err := d.chooseRoutes(ctx, r); err != nil {
		return err
	}
	if err := errors.Join(d.previewsAreFree(ctx, r), d.tryRoutes(ctx, r)); err != nil {
		return errors.Join(err, d.recordRejected(ctx, r, err))
	}
	return d.enter(ctx, r)
}

// choose settles how r is rolled out over the base. It writes nothing.
func (d *driver) choose(request Request, r *Rollout, notes []string) (err error) {
	record := d.record
	planned, err := r.arrange(request.Release, d.base, record.Stable != record.Verified)
	if err != nil {
		return err
	}
	notes = slices.DeleteFunc(append(notes, planned...), func(note string) bool { return note == "" })
	r.Base, r.Note = record.Verified, strings.Join(notes, "; ")
	// Pods that this release does not change are not replaced by forgetting a restart.
	r.RestartedAt = record.restartedAt(record.Verified)
	return nil
}

// rollout is what the request asks for, before anything was looked at.
func (r Request) rollout(now time.Time) *Rollout {
	return &Rollout{
		Digest: r.Release.Digest, Strategy: r.Strategy, Bake: *r.Bake, Deadline: r.Deadline,
		By: r.By, Commit: r.Commit, RunID: r.RunID, Images: manifest.Images(r.Release.Objects),
		State: Pending, Started: now, StateSince: now, Override: r.Override, Hooks: r.Hooks, Readiness: r.Readiness, From: r.From, Source: r.Source, OnRollback: r.OnRollback, Entry: entryGate(r.Entry, r.EntryTimeout),
	}
}

func (r *Rollout) takeOver(release *manifest.Release, findings []finding) {
	for i, f := range findings {
		if f.foreign {
			r.TakenOver = append(r.TakenOver, manifest.RefOf(release.Objects[i]))
		}
	}
}

// enter stores the manifests and makes r the current rollout.
func (d *driver) enter(ctx context.Context, r *Rollout) error {
	r.Revision = d.record.Revisions + 1
	err := d.putRelease(ctx, r.Revision, d.release, d.jobs, !d.unread)
	if apierrors.IsAlreadyExists(err) { // a dead process's, or that of one that owns the application now
		if err := d.save(ctx); err != nil {
			return err
		}
		err = d.putRelease(ctx, r.Revision, d.release, d.jobs, true)
	}
	if err != nil {
		return err
	}
	d.record.Revisions = r.Revision
	d.record.Current = r
	if !r.State.Final() {
		d.record.note("", r.Started)
	}
	d.postpone(postponed) // until the first object is written, or it has to wait for that
	d.pressing = true
	d.told = ""
	if r.Note != "" {
		d.progress(Progress{Time: r.Started, Revision: r.Revision, State: r.State, Message: r.Note})
	}
	return nil
}

func (d *driver) recordRejected(ctx context.Context, r *Rollout, cause error) error {
	r.Revision, r.Base = d.record.Revisions+1, d.record.Verified
	failure := &Failure{Reason: ManifestRejected, Message: clipText(cause.Error())}
	previous := d.record.Current
	d.record.Current, d.record.Revisions = r, r.Revision
	if err := d.record.advance(Move{To: Failed, Ending: EndedByFailure, Failure: failure}, d.clock()); err != nil {
		return err
	}
	// What serves has not changed: it stays the current one.
	if previous != nil {
		d.record.Current = previous
	}
	return d.save(ctx)
}

// tryAll asks the API server about every object. Those of kinds and namespaces
// that the release itself brings cannot be tried before those are there, and are
// not held to definitions that the release changes: define tries them later.
func (d *driver) tryAll(ctx context.Context, request Request) ([]finding, error) {
	brings := broughtBy(request.Release)
	scaled := func(ref manifest.Ref) bool { return manifest.IsWorkload(ref) && d.watch.scaled(ref, request.Release) }
	if d.watch == nil {
		var err error
		if scaled, err = d.scaledWorkloads(ctx, request.Release); err != nil {
			return nil, err
		}
	}
	findings := make([]finding, len(request.Release.Objects))
	var mu sync.Mutex
	var rejected []string
	group, bounded := errgroup.WithContext(ctx)
	group.SetLimit(dryRuns)
	for i, object := range request.Release.Objects {
		ref := manifest.RefOf(object)
		if ref.Namespace != request.Namespace && brings.namespaces[ref.Namespace] {
			continue
		}
		group.Go(func() error {
			u := manifest.Stamped(object, d.app, d.record.Revisions+1, request.Release.Digest)
			if scaled(ref) {
				if err := shape(u, settings{scaled: true}); err != nil {
					return fmt.Errorf("%w: %w", ErrRejected, err)
				}
			}
			f, err := d.dryRun(bounded, d.app, u, request.Force, d.watch != nil && d.watch.owns(ref))
			findings[i] = f
			if errors.Is(err, errNotAccepted) && brings.kind(ref) {
				return nil
			}
			if errors.Is(err, ErrRejected) {
				mu.Lock()
				defer mu.Unlock()
				rejected = append(rejected, strings.TrimPrefix(err.Error(), ErrRejected.Error()+": "))
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if len(rejected) > 0 {
		slices.Sort(rejected)
		return nil, fmt.Errorf("%w: %s", ErrRejected, strings.Join(rejected, "; "))
	}
	return findings, nil
}

// takenOver tells which objects others made, and who.
func takenOver(release *manifest.Release, findings []finding) string {
	var parts []string
	for i, f := range findings {
		if f.foreign {
			part := manifest.RefOf(release.Objects[i]).String()
			if len(f.managers) > 0 {
				part += " (from " + strings.Join(f.managers, ", ") + ")"
			}
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	const most = 10
	if len(parts) > most {
		parts = append(parts[:most], fmt.Sprintf("and %d more", len(parts)-most))
	}
	return "taking over " + strings.Join(parts, ", ")
}

// adopt makes what already serves, and was not made by Tidegate, the revision
// to go back to: the first release over an existing workload has one, too.
func (d *driver) adopt(ctx context.Context, request Request, findings []finding) error {
	r, release, err := d.adoption(request, findings)
	if err != nil || r == nil {
		return err
	}
	d.release = release
	if err := d.enter(ctx, r); err != nil {
		return err
	}
	d.record.finish()
	d.record.Stable = r.Revision
	return d.save(ctx)
}

// adoption is the rollout and the release that stand for what others made; nil
// when there is no workload of theirs.
func (d *driver) adoption(request Request, findings []finding) (*Rollout, *manifest.Release, error) {
	var objects []*unstructured.Unstructured
	workload := false
	for i, f := range findings {
		if f.foreign {
			objects = append(objects, adopted(f.live))
			workload = workload || manifest.IsWorkload(manifest.RefOf(request.Release.Objects[i]))
		}
	}
	if !workload {
		return nil, nil, nil
	}
	release, err := manifest.FromObjects(objects)
	if err != nil {
		return nil, nil, err
	}
	now := d.clock()
	return &Rollout{Digest: release.Digest, Strategy: Strategy{Kind: RollingStrategy}, By: adoptedBy, State: Verified, Images: manifest.Images(objects),
		Note: "what ran before Tidegate took over", Started: now, StateSince: now, Finished: now}, release, nil
}
