package analysis

import (
	"fmt"
	"math"
)

// Values compares a gauge, such as a latency quantile, between canary and
// baseline by a sequential sign test: if both are of the same age and size and
// the release is no worse, the canary's value lies above the baseline's in a
// sample no more often than below. The e-value is the winnings of bets on
// "above", mixed over the strength of the bet; only order matters, so a single
// enormous value is one sample like any other. The bound of DefaultRisk holds
// over all looks, by Ville's inequality. See Ramdas, Grünwald, Vovk and Shafer,
// "Game-Theoretic Statistics and Safe Anytime-Valid Inference",
// arXiv:2210.01948, section on sign tests by betting.
type Values struct {
	// Tolerate is the ratio up to which the canary's value is not worse; 0 means 1.
	Tolerate float64
	// HigherIsBetter is for throughput and the like.
	HigherIsBetter bool
	// Minimum is how many samples are needed to pass; 0 means 1.
	Minimum int
	// Risk as DefaultRisk; 0 means that.
	Risk float64
}

// bets are the strengths of the bets in the mixture, even prior.
var bets = [...]float64{0.2, 0.4, 0.6, 0.8, 0.95}

// Judge implements Judge.
func (v Values) Judge(samples []Sample) Verdict {
	tolerate, risk := v.Tolerate, v.Risk
	if tolerate <= 0 {
		tolerate = 1
	}
	if risk <= 0 {
		risk = DefaultRisk
	}
	var logs [len(bets)]float64
	var peak float64
	var worse, better, seen int
	for _, s := range samples {
		if s.Canary == nil || s.Baseline == nil || !finite(s.Canary.Value) || !finite(s.Baseline.Value) {
			continue
		}
		seen++
		canary, bound := s.Canary.Value, s.Baseline.Value*tolerate
		if v.HigherIsBetter {
			canary, bound = s.Baseline.Value, s.Canary.Value*tolerate
		}
		if canary == bound {
			continue // a tie is no evidence either way
		}
		sign := -1.0
		if canary > bound {
			sign = 1
			worse++
		} else {
			better++
		}
		for i, bet := range bets {
			logs[i] += math.Log1p(sign * bet)
		}
		peak = max(peak, mixture(logs[:]))
	}
	score := math.Log(max(peak, 1)) / math.Log(1/risk)
	counts := fmt.Sprintf("worse in %d, better in %d of %d samples", worse, better, seen)
	switch {
	case score >= 1:
		return Verdict{Outcome: Fail, Score: score, Why: fmt.Sprintf("the canary is worse than the baseline: %s; %s", counts, evidence(peak, risk))}
	case seen < max(v.Minimum, 1):
		return inconclusive(score, "too few samples: %d, at least %d needed", seen, max(v.Minimum, 1))
	}
	return Verdict{Outcome: Pass, Score: score, Why: "no worse than the baseline: " + counts}
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
