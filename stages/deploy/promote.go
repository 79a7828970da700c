package deploy

import (
	"cmp"
	"context"
	"errors"

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
func (k *Kind) promotion(ctx context.Context, attempt pipeline.Attempt, target rollout.Target, runID string) (*promotion, error) {
	spec := attempt.Stage.Deploy.Promote
	if spec == nil {
		return nil, nil
	}
	into := attempt.Stage.Deploy.Environment
	source := rollout.Target{App: cmp.Or(spec.App, target.App)}
	var controller *rollout.Controller
	var err error
	if controller, source.Namespace, err = k.controller(spec.From); err != nil {
		return nil, err
	}
	if k.options.Environments[spec.From].sameCluster(k.options.Environments[into]) && source == target {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "environments %s and %s are one place: %s in namespace %s; give each its own namespace or cluster in the settings",
			spec.From, into, target.App, target.Namespace)
	}
	if attempt.Continued {
		if taken, err := k.taken(ctx, into, target, runID); taken != nil || err != nil {
			return taken, err
		}
	}
	record, _, err := controller.Status(ctx, source)
	if errors.Is(err, rollout.ErrNotFound) {
		return nil, pipeline.Fail(pipeline.CauseRefused, "nothing of %s has been rolled out to environment %s (namespace %s) yet; do that first", source.App, spec.From, source.Namespace)
	}
	if err != nil {
		return nil, failure(err)
	}
	verified, err := record.Promotable(cmp.Or(spec.Commit, attempt.Event.Commit))
	if err != nil {
		return nil, failure(err)
	}
	return newPromotion(verified.Images, record.ProvenanceOf(spec.From, verified))
}

// taken is what the attempt took before its worker died: what is verified in
// the other environment may be another release by now.
func (k *Kind) taken(ctx context.Context, environment string, target rollout.Target, runID string) (*promotion, error) {
	controller, _, err := k.controller(environment)
	if err != nil {
		return nil, err
	}
	record, _, err := controller.Status(ctx, target)
	if errors.Is(err, rollout.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, failure(err)
	}
	begun := record.ByRun(runID)
	if begun == nil || begun.From == nil {
		return nil, nil
	}
	return newPromotion(begun.Images, begun.From)
}

func newPromotion(images []string, from *rollout.Provenance) (*promotion, error) {
	promoted, err := manifest.NewPromoted(images, from.String())
	if err != nil {
		return nil, &pipeline.Error{Cause: pipeline.CauseRefused, Err: err}
	}
	return &promotion{images: promoted, from: from}, nil
}

// sameCluster tells whether two environments name one cluster in the same words.
func (e Environment) sameCluster(other Environment) bool {
	return e.Config == other.Config && e.Kubeconfig == other.Kubeconfig && e.Context == other.Context
}

// promotedFirst takes what is promoted, and asks next for other images: Jobs of
// gates and hooks may need some that no release holds.
type promotedFirst struct {
	promoted *manifest.Promoted
	next     manifest.Resolver
}

// Resolve implements manifest.Resolver.
func (r promotedFirst) Resolve(ctx context.Context, reference string) (string, error) {
	full, err := r.promoted.Resolve(ctx, reference)
	if err == nil || errors.Is(err, manifest.ErrAmbiguous) {
		return full, err
	}
	return r.next.Resolve(ctx, reference)
}
