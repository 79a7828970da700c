package deploy

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// gates of the stage's strategy; none when it has no steps.
func gates(spec pipeline.StrategySpec) []pipeline.GateSpec {
	switch {
	case spec.Canary != nil:
		return spec.Canary.Gates
	case spec.BlueGreen != nil:
		return spec.BlueGreen.Gates
	}
	return nil
}

// checks makes the gates that something or someone outside answers.
func checks(ctx context.Context, workspace string, gates []pipeline.GateSpec, images imageSources) ([]rollout.CheckGate, error) {
	var all []rollout.CheckGate
	for _, gate := range gates {
		switch {
		case gate.Job != nil:
			job, err := job(ctx, workspace, images, gate.Job.Manifest)
			if err != nil {
				return nil, err
			}
			g := gate.Job
			all = append(all, rollout.CheckGate{Name: g.Name, Steps: g.Steps, Timeout: g.Timeout, Advisory: g.Advisory, Job: &rollout.JobGate{Manifest: job}})
		case gate.Webhook != nil:
			g := gate.Webhook
			hook := &rollout.WebhookGate{URL: g.URL, Interval: g.Interval}
			if g.Secret != nil {
				hook.Secret = &rollout.SecretKey{Name: g.Secret.Name, Key: g.Secret.Key}
			}
			all = append(all, rollout.CheckGate{Name: g.Name, Steps: g.Steps, Timeout: g.Timeout, Advisory: g.Advisory, Webhook: hook})
		case gate.Approval != nil:
			g := gate.Approval
			all = append(all, rollout.CheckGate{Name: g.Name, Steps: g.Steps, Timeout: g.Timeout, Advisory: g.Advisory,
				Approval: &rollout.ApprovalGate{From: g.From, Message: g.Message}})
		case gate.CEL != nil:
			g := gate.CEL
			all = append(all, rollout.CheckGate{Name: g.Name, Steps: g.Steps, Timeout: g.Timeout, CEL: &rollout.CELGate{Pass: g.Pass, Fail: g.Fail}})
		}
	}
	return all, nil
}

// hooks makes the Jobs around the release.
func hooks(ctx context.Context, workspace string, spec *pipeline.HooksSpec, images imageSources) ([]rollout.Hook, error) {
	if spec == nil {
		return nil, nil
	}
	var all []rollout.Hook
	for _, phase := range []struct {
		phase rollout.HookPhase
		specs []pipeline.HookSpec
	}{{rollout.BeforeHook, spec.Before}, {rollout.AfterHook, spec.After}, {rollout.FailureHook, spec.OnFailure}} {
		for _, hook := range phase.specs {
			job, err := job(ctx, workspace, images, hook.Manifest)
			if err != nil {
				return nil, err
			}
			all = append(all, rollout.Hook{Name: hook.Name, Phase: phase.phase, Timeout: hook.Timeout, Manifest: job})
		}
	}
	return all, nil
}

// AddGates puts the gates and hooks of a file into a request that is made by hand;
// their Jobs are read from below root, and their images found as the release's are.
func AddGates(ctx context.Context, request *rollout.Request, from pipeline.Gates, root string, built map[string]string, resolver manifest.Resolver) error {
	images := imageSources{built: built, resolver: resolver, forJobs: resolver}
	request.Strategy.Metrics = metrics(from.Gates)
	var err error
	if request.Strategy.Checks, err = checks(ctx, root, from.Gates, images); err != nil {
		return err
	}
	around, err := hooks(ctx, root, from.Hooks, images)
	request.Hooks = append(around, request.Hooks...)
	return err
}

// job reads the one Job in a file of the checkout and pins its images, as
// those of the release are.
func job(ctx context.Context, workspace string, images imageSources, file string) (*unstructured.Unstructured, error) {
	objects, err := manifest.Load(workspace, []string{file})
	if err != nil {
		return nil, &pipeline.Error{Cause: pipeline.CauseInvalid, Err: err}
	}
	if len(objects) != 1 || objects[0].GetKind() != "Job" {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "%s: it must hold one Job, and holds %d objects, the first a %s", file, len(objects), objects[0].GetKind())
	}
	if err := manifest.Pin(ctx, manifest.WithoutOrigin(objects...), images.built, images.forJobs); err != nil {
		cause := pipeline.CauseInvalid
		if ctx.Err() != nil {
			cause = pipeline.CauseCancelled
		}
		return nil, pipeline.Fail(cause, "%s: %w", file, err)
	}
	return objects[0], nil
}
