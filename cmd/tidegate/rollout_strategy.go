package main

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/rollout"
)

// strategyFlags choose how a release replaces the one before.
type strategyFlags struct {
	kind    string
	steps   []string
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
	flags.StringArrayVar(&f.steps, "canary", nil, "a canary step, WEIGHT[:HOLD] (percent, duration); may be repeated")
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
		weight, hold, held := strings.Cut(text, ":")
		step := rollout.Step{}
		var err error
		if step.Weight, err = strconv.Atoi(strings.TrimSuffix(weight, "%")); err != nil {
			return s, usageErrorf("--canary %q: write WEIGHT or WEIGHT:HOLD, such as 20 or 20:1m", text)
		}
		if held {
			if step.Hold, err = time.ParseDuration(hold); err != nil {
				return s, usageErrorf("--canary %q: the hold is no duration: write it like 30s or 2m", text)
			}
		}
		s.Steps = append(s.Steps, step)
	}
	return s, nil
}
