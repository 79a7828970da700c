package rollout

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// writes finds out what the actions of a rehearsal would write.
type writes struct {
	*driver
	scaled func(manifest.Ref) bool
	try    func(ctx context.Context, u *unstructured.Unstructured) (live, after *unstructured.Unstructured, err error)
	// live reads an object; nil when there is none.
	live func(context.Context, manifest.Ref) (*unstructured.Unstructured, error)
	// seen are objects as the writes so far would leave them.
	seen map[string]*unstructured.Unstructured
	// kept are the writes of Tidegate's own book-keeping.
	kept []PlannedWrite
}

func (s *store) releaseRef(revision int) manifest.Ref {
	return manifest.Ref{APIVersion: "v1", Kind: "Secret", Namespace: s.namespace, Name: s.releaseName(revision)}
}

func (w *writes) bookkeeping(first bool, r *Rollout) {
	verb := WriteChange
	if first {
		verb = WriteCreate
	}
	if first && r.Base != 0 { // what others made becomes a revision of its own
		w.kept = append(w.kept, PlannedWrite{Verb: WriteCreate, Ref: w.releaseRef(r.Base), Note: "what runs already, to go back to"})
	}
	w.kept = append(w.kept,
		PlannedWrite{Verb: WriteCreate, Ref: w.releaseRef(r.Revision), Note: "the manifests of this revision"},
		PlannedWrite{Verb: verb, Ref: manifest.Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: w.namespace, Name: w.name()}, Note: "the record, at every step"},
		PlannedWrite{Verb: verb, Ref: manifest.Ref{APIVersion: "coordination.k8s.io/v1", Kind: "Lease", Namespace: w.namespace, Name: w.name()}, Note: "who drives it"})
}

// of lists the writes of one action.
func (w *writes) of(ctx context.Context, a Action) ([]PlannedWrite, error) {
	r := w.record.Current
	switch a.Kind {
	case ApplyNeeded:
		return w.set(ctx, w.release, r.Revision, settings{}, w.neededNow)
	case ApplyRelease:
		return w.set(ctx, w.release, r.Revision, a.settings(), w.due)
	case ApplyWorkload:
		return w.set(ctx, w.release, r.Revision, a.settings(), a.Ref.Same)
	case ApplyBase:
		return w.set(ctx, w.base, r.Base, a.settings(), w.restored)
	case PointService:
		release, revision := w.release, r.Revision
		if a.Base {
			release, revision = w.base, r.Base
		}
		u := manifest.Stamped(release.Find(a.Ref), w.app, revision, release.Digest)
		if err := aim(u, a.Points, a.Hash); err != nil {
			return nil, err
		}
		write, err := w.one(ctx, u)
		return []PlannedWrite{write}, err
	case ScaleCanary:
		u, err := w.companionOf(a)
		if err != nil {
			return nil, err
		}
		write, err := w.one(ctx, u)
		if err != nil {
			return nil, err
		}
		made := []PlannedWrite{write}
		for _, live := range r.Services {
			if !live.Workload.Same(a.Ref) {
				continue
			}
			u, err := companionService(manifest.Stamped(w.release.Find(live.Service), w.app, r.Revision, w.release.Digest), a.Track, "", a.Ref)
			if err != nil {
				return nil, err
			}
			u.SetOwnerReferences(nil) // its owner has no UID yet
			if write, err = w.one(ctx, u); err != nil {
				return nil, err
			}
			made = append(made, write)
		}
		return made, nil
	case SetWeight:
		write, err := w.weight(ctx, r.routeAt(a.Ref), a.Split)
		return []PlannedWrite{write}, err
	case BeginHook:
		for i := range r.Hooks {
			if h := &r.Hooks[i]; h.Name == a.Hook {
				return []PlannedWrite{w.job(r, task{key: h.key(), purpose: hookPurpose}, "of "+h.title())}, nil
			}
		}
	case Admit:
		return []PlannedWrite{{Verb: WriteAdmit, Ref: manifest.Ref{APIVersion: "v1", Kind: "Pod", Namespace: w.namespace, Name: a.Track.Name(a.Ref.Name) + "-*"}, Note: a.Why}}, nil
	case RemoveCanary:
		ref := a.Track.ref(a.Ref)
		delete(w.seen, ref.String())
		return []PlannedWrite{{Verb: WriteDelete, Ref: ref}}, nil
	case Prune:
		var made []PlannedWrite
		_, needless := prunable(w.record.Inventory, w.release, w.base)
		for _, ref := range needless {
			if !kept[ref.Kind] {
				made = append(made, PlannedWrite{Verb: WriteDelete, Ref: ref, Note: "no release in use needs it"})
			}
		}
		return made, nil
	}
	return nil, nil
}

// set lists what applySet would write.
func (w *writes) set(ctx context.Context, release *manifest.Release, revision int, s settings, which func(manifest.Ref) bool) ([]PlannedWrite, error) {
	var made []PlannedWrite
	s.restarted = w.record.restartedAt(revision)
	for _, object := range release.Objects {
		ref := manifest.RefOf(object)
		if which != nil && !which(ref) {
			continue
		}
		u := manifest.Stamped(object, w.app, revision, release.Digest)
		if manifest.IsWorkload(ref) {
			own := w.record.Current.ownSettings(ref, s)
			own.scaled = w.scaled(ref)
			if err := shape(u, own); err != nil {
				return nil, err
			}
		}
		if w.record.Current.switches(ref) {
			if err := aim(u, s.points, ""); err != nil {
				return nil, err
			}
		}
		if l := w.record.Current.routeAt(ref); l != nil {
			if err := weave(u, l, l.router().Read(w.seen[ref.String()], l.backends()).Split); err != nil {
				return nil, err
			}
		}
		write, err := w.one(ctx, u)
		if err != nil {
			return nil, err
		}
		made = append(made, write)
	}
	return made, nil
}

// weight is the write that shares out the requests of a route. That the API
// server takes one was tried before.
func (w *writes) weight(ctx context.Context, l *LiveRoute, s traffic.Split) (PlannedWrite, error) {
	get := func(ref manifest.Ref) (*unstructured.Unstructured, error) {
		if u := w.seen[ref.String()]; u != nil {
			return u, nil
		}
		return w.live(ctx, ref)
	}
	write := PlannedWrite{Verb: WriteChange, Ref: l.holder(), Note: "the canary gets " + s.String()}
	held, err := get(write.Ref)
	if err != nil {
		return write, err
	}
	u, err := w.splitOf(l, held, s, get)
	if err != nil {
		return write, err
	}
	switch {
	case u == nil:
		write.Verb = WriteDelete
		delete(w.seen, write.Ref.String())
		return write, nil
	case held == nil:
		write.Verb = WriteCreate
	}
	w.seen[write.Ref.String()] = u
	write.Changes = manifest.Changes(held, u)
	return write, nil
}

// one tries a write, and compares it with what is there or was planned before.
func (w *writes) one(ctx context.Context, u *unstructured.Unstructured) (PlannedWrite, error) {
	ref := manifest.RefOf(u)
	write := PlannedWrite{Verb: WriteCreate, Ref: ref}
	live, after, err := w.try(ctx, u)
	switch {
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		write.Refused = reasonOf(err)
		return write, nil
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err):
		write.Note = "not tried: it needs what this release brings"
		return write, nil
	case err != nil:
		return write, err
	}
	before := w.seen[ref.String()]
	if before == nil {
		before = live
	}
	w.seen[ref.String()] = after
	if before == nil {
		return write, nil
	}
	write.Verb = WriteNone
	if write.Changes = manifest.Changes(before, after); len(write.Changes) > 0 {
		write.Verb = WriteChange
	}
	return write, nil
}

// try asks the API server what a write would make of an object.
func (s *store) try(ctx context.Context, u *unstructured.Unstructured) (live, after *unstructured.Unstructured, err error) {
	ref := manifest.RefOf(u)
	if live, err = s.get(ctx, ref); err != nil {
		return nil, nil, err
	}
	err = s.retry(ctx, fmt.Sprintf("trying %s", ref), func(ctx context.Context) (err error) {
		after, err = s.apply(ctx, u, FieldManager, true, true)
		return err
	})
	return live, after, err
}

// gateJobs are the Jobs that the gates of the present step run.
func (w *writes) gateJobs(r *Rollout) []PlannedWrite {
	if !r.asking() {
		return nil
	}
	var made []PlannedWrite
	for _, g := range r.present() {
		if g.Job != nil {
			made = append(made, w.job(r, task{key: g.Name, purpose: stepPurpose(r.Step)}, "of gate "+g.Name))
		}
	}
	return made
}

func (w *writes) job(r *Rollout, t task, what string) PlannedWrite {
	return PlannedWrite{Verb: WriteCreate, Ref: manifest.Ref{APIVersion: "batch/v1", Kind: "Job", Namespace: w.namespace, Name: jobName(w.app, r.Revision, t)},
		Note: what + "; it is deleted at the end"}
}
