package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

func TestStrategyFlags(t *testing.T) {
	keep := time.Minute
	for name, c := range map[string]struct {
		flags strategyFlags
		want  rollout.Strategy
	}{
		"nothing": {strategyFlags{}, rollout.Strategy{Kind: rollout.RollingStrategy}},
		"steps":   {strategyFlags{steps: []string{"10:1m", "50%"}}, rollout.Strategy{Kind: rollout.CanaryStrategy, Steps: []rollout.Step{{Weight: 10, Hold: time.Minute}, {Weight: 50}}}},
		"traffic": {strategyFlags{steps: []string{"0:1m:header.x-canary=a:b=c", "5::cookie.c=always"}, traffic: []string{"httproute/shop", "ingress/web"}}, rollout.Strategy{Kind: rollout.CanaryStrategy,
			Steps:   []rollout.Step{{Hold: time.Minute, Match: &traffic.Match{Header: "x-canary", Value: "a:b=c"}}, {Weight: 5, Match: &traffic.Match{Cookie: "c", Value: "always"}}},
			Traffic: []rollout.TrafficRoute{{Router: traffic.Gateway, Name: "shop"}, {Router: traffic.Nginx, Name: "web"}}}},
		"batch":      {strategyFlags{batch: "25%"}, rollout.Strategy{Kind: rollout.RollingStrategy, Batch: "25%"}},
		"recreate":   {strategyFlags{kind: "recreate"}, rollout.Strategy{Kind: rollout.RecreateStrategy}},
		"blue-green": {strategyFlags{kind: "blue-green", hold: time.Second, keepOld: keep}, rollout.Strategy{Kind: rollout.BlueGreenStrategy, BlueGreen: &rollout.BlueGreen{Hold: time.Second, KeepOld: &keep}}},
	} {
		got, err := c.flags.strategy()
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}
	for name, flags := range map[string]strategyFlags{
		"unknown":              {kind: "purple"},
		"steps of another":     {kind: "recreate", steps: []string{"10"}},
		"canary without steps": {kind: "canary"},
		"hold of another":      {hold: time.Second},
		"batch of another":     {kind: "blue-green", batch: "1"},
		"no weight":            {steps: []string{"x"}},
		"no duration":          {steps: []string{"10:x"}},
		"no match":             {steps: []string{"10:1m:x-canary=yes"}},
		"match without value":  {steps: []string{"10:1m:header.x-canary"}},
		"no route":             {steps: []string{"10"}, traffic: []string{"service/shop"}},
		"traffic of another":   {traffic: []string{"httproute/shop"}},
	} {
		_, err := flags.strategy()
		require.Error(t, err, name)
	}
}
