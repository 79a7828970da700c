package main

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// strategyFlags choose how a release replaces the one before.
type strategyFlags struct {
	kind    string
	steps   []string
	traffic []string
	hold    time.Duration
	keepOld time.Duration
	batch   string
}

// strategies are the values of --strategy, with what completion says of them.
var strategies = []string{
	"rolling\tpods are replaced in place, a StatefulSet's in batches with a gate between",
	"canary\ta second workload beside the stable one, in steps (--canary)",
	"blue-green\tthe whole new version beside the old one, then a switch of the live Service",
	"recreate\tthe old pods go before the new ones come: an outage",
}

func (f *strategyFlags) register(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&f.kind, "strategy", "", "rolling, canary, blue-green or recreate (default: canary when steps are given, else rolling)")
	flags.StringArrayVar(&f.steps, "canary", nil, "a canary step, WEIGHT[:HOLD[:MATCH]] (percent, duration, header.NAME=VALUE or cookie.NAME=VALUE); may be repeated")
	flags.StringArrayVar(&f.traffic, "traffic", nil, "canary: a route that gives it exactly its share, such as httproute/shop, ingress/shop, virtualservice/shop or traefikservice/shop; may be repeated (default: by the number of pods)")
	flags.DurationVar(&f.hold, "hold", 0, "blue-green: how long the preview must stay good before the switch (default: the bake time)")
	flags.DurationVar(&f.keepOld, "keep-old", rollout.DefaultKeepOld, "blue-green: how long the old version is kept after the switch, for an instant return")
	flags.StringVar(&f.batch, "batch", "", "rolling: how many pods of a StatefulSet are replaced between two gates, such as 2 or 25% (default: "+rollout.DefaultBatch+")")
	cobra.CheckErr(command.RegisterFlagCompletionFunc("strategy", cobra.FixedCompletions(strategies, cobra.ShellCompDirectiveNoFileComp)))
}

func (f *strategyFlags) strategy() (rollout.Strategy, error) {
	s := rollout.Strategy{Kind: rollout.StrategyKind(f.kind), Batch: f.batch}
	if f.kind == "" {
		s.Kind = rollout.RollingStrategy
		if len(f.steps) > 0 {
			s.Kind = rollout.CanaryStrategy
		}
	}
	if !slices.ContainsFunc(strategies, func(known string) bool { return strings.HasPrefix(known, string(s.Kind)+"\t") }) {
		return s, usageErrorf("--strategy %q: use rolling, canary, blue-green or recreate", f.kind)
	}
	if (len(f.steps) > 0) != (s.Kind == rollout.CanaryStrategy) {
		return s, usageErrorf("--strategy %s: steps, as in --canary 10:1m, belong to canary, which needs one or more", s.Kind)
	}
	if s.Kind == rollout.BlueGreenStrategy {
		s.BlueGreen = &rollout.BlueGreen{Hold: f.hold, KeepOld: &f.keepOld}
	} else if f.hold != 0 {
		return s, usageErrorf("--hold belongs to --strategy blue-green; a canary step has its own, as in --canary 10:1m")
	}
	if f.batch != "" && s.Kind != rollout.RollingStrategy {
		return s, usageErrorf("--batch belongs to --strategy rolling")
	}
	for _, text := range f.steps {
		step, err := canaryStep(text)
		if err != nil {
			return s, err
		}
		s.Steps = append(s.Steps, step)
	}
	for _, text := range f.traffic {
		router, name, err := traffic.Parse(text)
		if err != nil {
			return s, usageErrorf("--traffic %w", err)
		}
		s.Traffic = append(s.Traffic, rollout.TrafficRoute{Router: router, Name: name})
	}
	if len(s.Traffic) > 0 && s.Kind != rollout.CanaryStrategy {
		return s, usageErrorf("--traffic belongs to a canary, as in --canary 10:1m")
	}
	return s, nil
}

// canaryStep reads WEIGHT[:HOLD[:MATCH]].
func canaryStep(text string) (rollout.Step, error) {
	weight, rest, _ := strings.Cut(text, ":")
	hold, match, matched := strings.Cut(rest, ":")
	step := rollout.Step{}
	var err error
	if step.Weight, err = strconv.Atoi(strings.TrimSuffix(weight, "%")); err != nil {
		return step, usageErrorf("--canary %q: write WEIGHT or WEIGHT:HOLD, such as 20 or 20:1m", text)
	}
	if hold != "" || strings.HasSuffix(text, ":") {
		if step.Hold, err = time.ParseDuration(hold); err != nil {
			return step, usageErrorf("--canary %q: the hold is no duration: write it like 30s or 2m", text)
		}
	}
	if !matched {
		return step, nil
	}
	what, value, _ := strings.Cut(match, "=")
	kind, name, _ := strings.Cut(what, ".")
	switch m := (&traffic.Match{Value: value}); kind {
	case "header":
		m.Header, step.Match = name, m
	case "cookie":
		m.Cookie, step.Match = name, m
	default:
		return step, usageErrorf("--canary %q: the match is none: write it like header.x-canary=yes or cookie.canary=always", text)
	}
	if err := step.Match.Check(); err != nil {
		return step, usageErrorf("--canary %q: %w", text, err)
	}
	return step, nil
}
