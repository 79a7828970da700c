package deploy

import (
	"context"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/render"
)

// ClusterFacts is what charts may know of where they go.
type ClusterFacts interface {
	Capabilities(ctx context.Context) (rollout.Capabilities, error)
	Installed(ctx context.Context, target rollout.Target) (bool, error)
}

// RenderRelease renders a source below root for an application. The cluster is
// asked only for a chart.
func RenderRelease(ctx context.Context, root string, source render.Source, facts ClusterFacts, target rollout.Target) (*render.Result, error) {
	to := render.Target{Name: target.App, Namespace: target.Namespace}
	if source.Helm != nil {
		var err error
		if to.Upgrade, err = facts.Installed(ctx, target); err != nil {
			return nil, err
		}
		if source.Helm.KubeVersion == "" {
			known, err := facts.Capabilities(ctx)
			if err != nil {
				return nil, err
			}
			to.KubeVersion, to.APIVersions = known.KubeVersion, known.APIVersions
		}
	}
	return render.Render(ctx, root, source, to)
}

// source is what the stage's release is made from.
func source(spec *pipeline.DeploySpec) render.Source {
	s := render.Source{Manifests: spec.Manifests, Kustomize: spec.Kustomize}
	if h := spec.Helm; h != nil {
		s.Helm = &render.Helm{Chart: h.Chart, Values: h.Values, Set: h.Set, SetString: h.SetString,
			KubeVersion: h.KubeVersion, APIVersions: h.APIVersions, SkipHooks: h.SkipHooks, SkipCRDs: h.SkipCRDs}
	}
	return s
}

func imageFields(specs []pipeline.ImageFieldSpec) []manifest.ImageField {
	var fields []manifest.ImageField
	for _, spec := range specs {
		fields = append(fields, manifest.ImageField{Kind: spec.Kind, Path: spec.Path})
	}
	return fields
}

func readiness(specs []pipeline.ReadinessSpec) []rollout.Readiness {
	var rules []rollout.Readiness
	for _, spec := range specs {
		rules = append(rules, rollout.Readiness{Kind: spec.Kind, Ready: spec.Ready, Failed: spec.Failed})
	}
	return rules
}

// ChartHooks makes hooks of those that a chart brought, with their images pinned
// as those of the release are.
func ChartHooks(ctx context.Context, hooks []render.Hook, built map[string]string, resolver manifest.Resolver) ([]rollout.Hook, error) {
	var made []rollout.Hook
	for _, hook := range hooks {
		if err := manifest.Pin(ctx, manifest.WithoutOrigin(hook.Manifest), built, resolver); err != nil {
			return nil, err
		}
		phase := rollout.BeforeHook
		if hook.After {
			phase = rollout.AfterHook
		}
		made = append(made, rollout.Hook{Name: hook.Name, Phase: phase, Manifest: hook.Manifest})
	}
	return made, nil
}

// unrendered says whose fault it is that there is no release: what is wrong with
// the files is the run's own.
func unrendered(ctx context.Context, err error) error {
	cause := pipeline.CauseInvalid
	switch known := failure(err); {
	case ctx.Err() != nil:
		cause = pipeline.CauseCancelled
	case rollout.Unreachable(err):
		cause = pipeline.CauseOf(known)
	}
	return &pipeline.Error{Cause: cause, Err: err}
}
