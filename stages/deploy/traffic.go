package deploy

import (
	"strings"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// canary makes the strategy of that name.
func canary(spec *pipeline.CanarySpec) rollout.Strategy {
	s := rollout.Strategy{Kind: rollout.CanaryStrategy, Metrics: metrics(spec.Gates), Traffic: routes(spec.Traffic)}
	for _, step := range spec.Steps {
		made := rollout.Step{Weight: step.Weight, Hold: step.Hold}
		if m := step.Match; m != nil {
			made.Match = &traffic.Match{Header: m.Header, Cookie: m.Cookie, Value: m.Value}
		}
		s.Steps = append(s.Steps, made)
	}
	return s
}

// routes are those by which the canary gets its share.
func routes(spec *pipeline.TrafficSpec) []rollout.TrafficRoute {
	if spec == nil {
		return nil
	}
	var found []rollout.TrafficRoute
	for _, of := range []struct {
		router traffic.Kind
		names  []string
	}{{traffic.Gateway, spec.Gateway}, {traffic.Nginx, spec.Nginx}, {traffic.Istio, spec.Istio}, {traffic.Traefik, spec.Traefik}} {
		for _, name := range of.names {
			found = append(found, rollout.TrafficRoute{Router: of.router, Name: strings.TrimPrefix(name, of.router.Resource()+"/")})
		}
	}
	return found
}
