package deploy

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// promotion is what another environment has proven.
type promotion struct {
	images *manifest.Promoted
	from   *rollout.Provenance
}

// promotion looks up what the stage takes from another environment; nil when it
// takes nothing.
func (k *Kind) promotion(ctx context.Context, attempt pipeline.Attempt, into []place) (*promotion, error) {
	spec := attempt.Stage.Deploy.Promote
	if spec == nil {
		return nil, nil
	}
	if attempt.Continued {
		if taken, err := taken(ctx, attempt, into); taken != nil || err != nil {
			return taken, err
		}
	}
	sources, err := k.places(spec.From)
	if err != nil {
		return nil, err
	}
	goal, _ := target(attempt, into[0].namespace)
	app := cmp.Or(spec.App, goal.App)
	var first *promotion
	var images []string
	for _, at := range sources {
		if app == goal.App && slices.ContainsFunc(into, at.same) {
			return nil, pipeline.Fail(pipeline.CauseInvalid, "environments %s and %s are one place: %s in namespace %s; give each its own namespace or cluster in the settings",
				spec.From, attempt.Stage.Deploy.Environment, app, at.namespace)
		}
		verified, from, err := proven(ctx, attempt, at, app)
		if err != nil {
			return nil, err
		}
		if first == nil {
			if first, err = newPromotion(verified.Images, from); err != nil {
				return nil, err
			}
			images = verified.Images
			continue
		}
		if !slices.Equal(slices.Sorted(slices.Values(images)), slices.Sorted(slices.Values(verified.Images))) {
			return nil, pipeline.Fail(pipeline.CauseRefused, "the clusters of environment %s run different images: %s, and %s", spec.From, first.from, from)
		}
	}
	return first, nil
}

// proven is what a place of the source environment has verified.
func proven(ctx context.Context, attempt pipeline.Attempt, at place, app string) (*rollout.Rollout, *rollout.Provenance, error) {
	spec := attempt.Stage.Deploy.Promote
	record, _, err := at.controller.Status(ctx, rollout.Target{App: app, Namespace: at.namespace})
	if errors.Is(err, rollout.ErrNotFound) {
		return nil, nil, pipeline.Fail(pipeline.CauseRefused, "nothing of %s has been rolled out to environment %s (namespace %s) yet; do that first", app, spec.From, at.namespace)
	}
	if err != nil {
		return nil, nil, failure(err)
	}
	verified, err := record.Promotable(cmp.Or(spec.Commit, attempt.Event.Commit))
	if err != nil {
		return nil, nil, failure(err)
	}
	return verified, record.ProvenanceOf(spec.From, verified), nil
}

// taken is what the attempt took before its worker died: what is verified in
// the other environment may be another release by now.
func taken(ctx context.Context, attempt pipeline.Attempt, into []place) (*promotion, error) {
	for _, at := range into {
		goal, runID := target(attempt, at.namespace)
		record, _, err := at.controller.Status(ctx, goal)
		if errors.Is(err, rollout.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, failure(err)
		}
		if begun := record.ByRun(runID); begun != nil && begun.From != nil {
			return newPromotion(begun.Images, begun.From)
		}
	}
	return nil, nil
}

func newPromotion(images []string, from *rollout.Provenance) (*promotion, error) {
	promoted, err := manifest.NewPromoted(images, from.String())
	if err != nil {
		return nil, &pipeline.Error{Cause: pipeline.CauseRefused, Err: err}
	}
	return &promotion{images: promoted, from: from}, nil
}

// PromotedFirst takes what is promoted, and asks Next for other images: Jobs of
// gates and hooks may need some that no release holds.
type PromotedFirst struct {
	Promoted *manifest.Promoted
	Next     manifest.Resolver
}

// Resolve implements manifest.Resolver.
func (r PromotedFirst) Resolve(ctx context.Context, reference string) (string, error) {
	full, err := r.Promoted.Resolve(ctx, reference)
	if err == nil || errors.Is(err, manifest.ErrAmbiguous) {
		return full, err
	}
	return r.Next.Resolve(ctx, reference)
}
