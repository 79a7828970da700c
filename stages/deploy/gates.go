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
func (k *Kind) checks(ctx context.Context, attempt pipeline.Attempt, images imageSources) ([]rollout.CheckGate, error) {
	var checks []rollout.CheckGate
	for _, gate := range gates(attempt.Stage.Deploy.Strategy) {
		switch {
		case gate.Job != nil:
			job, err := job(ctx, attempt, images, gate.Job.Manifest)
			if err != nil {
				return nil, err
			}
			g := gate.Job
			checks = append(checks, rollout.CheckGate{Name: g.Name, Steps: g.Steps, Timeout: g.Timeout, Advisory: g.Advisory, Job: &rollout.JobGate{Manifest: job}})
		case gate.Webhook != nil:
			g := gate.Webhook
			hook := &rollout.WebhookGate{URL: g.URL, Interval: g.Interval}
			if g.Secret != nil {
				hook.Secret = &rollout.SecretKey{Name: g.Secret.Name, Key: g.Secret.Key}
			}
			checks = append(checks, rollout.CheckGate{Name: g.Name, Steps: g.Steps, Timeout: g.Timeout, Advisory: g.Advisory, Webhook: hook})
		case gate.Approval != nil:
			g := gate.Approval
			checks = append(checks, rollout.CheckGate{Name: g.Name, Steps: g.Steps, Timeout: g.Timeout, Advisory: g.Advisory,
				Approval: &rollout.ApprovalGate{From: g.From, Message: g.Message}})
		case gate.CEL != nil:
			g := gate.CEL
			checks = append(checks, rollout.CheckGate{Name: g.Name, Steps: g.Steps, Timeout: g.Timeout, CEL: &rollout.CELGate{Pass: g.Pass, Fail: g.Fail}})
		}
	}
	return checks, nil
}

// hooks makes the Jobs around the release.
func (k *Kind) hooks(ctx context.Context, attempt pipeline.Attempt, images imageSources) ([]rollout.Hook, error) {
	spec := attempt.Stage.Deploy.Hooks
	if spec == nil {
		return nil, nil
	}
	var hooks []rollout.Hook
	for _, phase := range []struct {
		phase rollout.HookPhase
		specs []pipeline.HookSpec
	}{{rollout.BeforeHook, spec.Before}, {rollout.AfterHook, spec.After}, {rollout.FailureHook, spec.OnFailure}} {
		for _, hook := range phase.specs {
			job, err := job(ctx, attempt, images, hook.Manifest)
			if err != nil {
				return nil, err
			}
			hooks = append(hooks, rollout.Hook{Name: hook.Name, Phase: phase.phase, Timeout: hook.Timeout, Manifest: job})
		}
	}
	return hooks, nil
}

// job reads the one Job in a file of the checkout and pins its images, as
// those of the release are.
func job(ctx context.Context, attempt pipeline.Attempt, images imageSources, file string) (*unstructured.Unstructured, error) {
	objects, err := manifest.Load(attempt.Workspace, []string{file})
	if err != nil {
		return nil, &pipeline.Error{Cause: pipeline.CauseInvalid, Err: err}
	}
	if len(objects) != 1 || objects[0].GetKind() != "Job" {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "%s: it must hold one Job, and holds %d objects, the first a %s", file, len(objects), objects[0].GetKind())
	}
	if err := manifest.Pin(ctx, objects, images.built, images.forJobs); err != nil {
		cause := pipeline.CauseInvalid
		if ctx.Err() != nil {
			cause = pipeline.CauseCancelled
		}
		return nil, pipeline.Fail(cause, "%s: %w", file, err)
	}
	return objects[0], nil
}
