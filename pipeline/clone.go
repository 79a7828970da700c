package pipeline

import (
	"maps"
	"reflect"
	"slices"
)

// clone copies the parts of a stage that hold values, so that a plan shares
// nothing it changes with the pipeline.
func (s Stage) clone() Stage {
	s.Needs = slices.Clone(s.Needs)
	s.Env = maps.Clone(s.Env)
	s.Retry.On = slices.Clone(s.Retry.On)
	if s.Run != nil {
		run := *s.Run
		run.Shell, run.Cache = slices.Clone(run.Shell), slices.Clone(run.Cache)
		s.Run = &run
	}
	if s.Build != nil {
		build := *s.Build
		build.Args, build.Labels, build.Annotations = maps.Clone(build.Args), maps.Clone(build.Labels), maps.Clone(build.Annotations)
		build.Platforms, build.Tags = slices.Clone(build.Platforms), slices.Clone(build.Tags)
		build.Contexts, build.Secrets, build.SSH = maps.Clone(build.Contexts), maps.Clone(build.Secrets), maps.Clone(build.SSH)
		if build.Cache != nil {
			cache := *build.Cache
			cache.From, cache.To = slices.Clone(cache.From), slices.Clone(cache.To)
			build.Cache = &cache
		}
		build.Sign, build.With, build.BuildKit = clonePointer(build.Sign), clonePointer(build.With), clonePointer(build.BuildKit)
		s.Build = &build
	}
	if s.Deploy != nil {
		deploy := *s.Deploy
		deploy.Manifests, deploy.Helm = slices.Clone(deploy.Manifests), deploy.Helm.clone()
		deploy.Images, deploy.Readiness = slices.Clone(deploy.Images), slices.Clone(deploy.Readiness)
		if canary := deploy.Strategy.Canary; canary != nil {
			deploy.Strategy.Canary = canary.clone()
		}
		if blueGreen := deploy.Strategy.BlueGreen; blueGreen != nil {
			copied := *blueGreen
			copied.Gates = cloneGates(blueGreen.Gates)
			deploy.Strategy.BlueGreen = &copied
		}
		deploy.Hooks = deploy.Hooks.clone()
		deploy.Promote = clonePointer(deploy.Promote)
		s.Deploy = &deploy
	}
	if s.Approve != nil {
		approve := *s.Approve
		approve.From = slices.Clone(approve.From)
		s.Approve = &approve
	}
	return s
}

// rewrite returns a copy of the stage with every text passed through fn.
func (s Stage) rewrite(fn rewriter) Stage {
	out := s.clone()
	stageShape.rewrite(reflect.ValueOf(&out).Elem(), "", fn)
	return out
}

func (c *CanarySpec) clone() *CanarySpec {
	copied := &CanarySpec{Steps: slices.Clone(c.Steps), Gates: cloneGates(c.Gates), Traffic: clonePointer(c.Traffic)}
	for i := range copied.Steps {
		copied.Steps[i].Match = clonePointer(copied.Steps[i].Match)
	}
	if t := copied.Traffic; t != nil {
		t.Gateway, t.Nginx, t.Istio, t.Traefik = slices.Clone(t.Gateway), slices.Clone(t.Nginx), slices.Clone(t.Istio), slices.Clone(t.Traefik)
	}
	return copied
}

func clonePointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	copied := *p
	return &copied
}

func cloneGates(gates []GateSpec) []GateSpec {
	copied := slices.Clone(gates)
	for i, gate := range copied {
		copied[i] = gate.clone()
	}
	return copied
}
