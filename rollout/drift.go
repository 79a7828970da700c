package rollout

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Drift is where the cluster differs from the release that was written to it last.
type Drift struct {
	Target
	// Revision and Release are what the cluster should show.
	Revision int           `json:"revision"`
	Release  string        `json:"release"`
	Objects  []ObjectDrift `json:"objects"`
}

// ObjectDrift is one object that is not as the release has it.
type ObjectDrift struct {
	manifest.Ref
	// Missing is true when it does not exist.
	Missing bool `json:"missing,omitempty"`
	// By tells who holds fields that the release sets, as far as the API server knows.
	By string `json:"by,omitempty"`
	// Changes go from what the release says to what is there. Fields that the
	// release does not set are not drift.
	Changes []manifest.Change `json:"changes,omitempty"`
}

// Diff compares the live objects with the manifests of the revision that was
// last written to the stable workloads, by server-side dry run: defaults and
// what webhooks change are no drift. It writes nothing.
func (c *Controller) Diff(ctx context.Context, target Target) (Drift, error) {
	drift := Drift{Target: target, Objects: []ObjectDrift{}}
	record, _, err := c.Status(ctx, target)
	if err != nil {
		return drift, err
	}
	if record.Stable == 0 {
		return drift, fmt.Errorf("%w: no release of %s has been written to the cluster yet", ErrNotFound, target.App)
	}
	s := c.store(target)
	release, err := s.release(ctx, record.Stable)
	if err != nil {
		return drift, err
	}
	drift.Revision, drift.Release = record.Stable, release.Digest
	scaled, err := s.scaledWorkloads(ctx, release)
	if err != nil {
		return drift, err
	}
	found := make([]*ObjectDrift, len(release.Objects))
	group, bounded := errgroup.WithContext(ctx)
	group.SetLimit(dryRuns)
	for i, object := range release.Objects {
		group.Go(func() error {
			u := manifest.Stamped(object, target.App, record.Stable, release.Digest)
			var err error
			found[i], err = s.driftOf(bounded, u, record.Current, settings{scaled: scaled(manifest.RefOf(u)), restarted: record.restartedAt(record.Stable)})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return drift, err
	}
	for _, f := range found {
		if f != nil {
			drift.Objects = append(drift.Objects, *f)
		}
	}
	return drift, nil
}

// driftOf compares one object; nil when it is as it should be.
// r is the live rollout, or the last one.
func (s *store) driftOf(ctx context.Context, u *unstructured.Unstructured, r *Rollout, with settings) (*ObjectDrift, error) {
	ref := manifest.RefOf(u)
	live, err := s.get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if live == nil {
		return &ObjectDrift{Ref: ref, Missing: true}, nil
	}
	if manifest.IsWorkload(ref) {
		// A rollout under way has raised it, and puts it back.
		if bake, err := time.ParseDuration(live.GetAnnotations()[annotationBake]); err == nil {
			with.bake = bake
		}
		if err := shape(u, with); err != nil {
			return nil, err
		}
	}
	if err := r.arranged(u, live); err != nil {
		return nil, err
	}
	d := ObjectDrift{Ref: ref}
	var merged *unstructured.Unstructured
	err = s.retry(ctx, fmt.Sprintf("comparing %s", ref), func(ctx context.Context) (err error) {
		if merged, err = s.apply(ctx, u, FieldManager, false, true); apierrors.IsConflict(err) {
			if !ownConflict(err) {
				d.By = clipText(conflicts(err))
			}
			merged, err = s.apply(ctx, u, FieldManager, true, true)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if d.Changes = manifest.Changes(merged, live); len(d.Changes) == 0 {
		return nil, nil
	}
	return &d, nil
}
