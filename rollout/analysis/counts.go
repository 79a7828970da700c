package analysis

import (
	"fmt"
	"math"
)

// Counts compares how often requests go wrong on the canary and on the
// baseline, by an e-value on counts of bad requests.
//
// Given that a bad request happened, and if both sides fail at the same rate,
// it was the canary's with the probability of the canary's share of the
// requests. A canary that fails ρ times as often attracts more than its share.
// The e-value is the likelihood ratio of a mixture over such ρ against the null
// hypothesis; its expectation under the null never exceeds 1 at any time, so by
// Ville's inequality the chance that it ever reaches 1/risk is at most risk. It
// holds for shares that change from sample to sample, which weights do. See
// Lindon and Malek, "Anytime-Valid Inference for Multinomial Count Data",
// arXiv:2011.03567, and Lindon, Sanden and Shirikian, arXiv:2205.14762.
type Counts struct {
	// Tolerate is the ratio of failure rates up to which the canary is not
	// worse; 0 means 1.
	Tolerate float64
	// Minimum is how many requests each side must have answered before the
	// canary can pass.
	Minimum float64
	// Risk as DefaultRisk; 0 means that.
	Risk float64
}

// ratios are the alternatives of the mixture, as multiples of what is
// tolerated. They are spaced so that any ratio between the first and the last
// has a near neighbour; the prior is even.
var ratios = [...]float64{2, 5, 10, 25}

// Judge implements Judge.
func (c Counts) Judge(samples []Sample) Verdict {
	tolerate, risk := c.Tolerate, c.Risk
	if tolerate <= 0 {
		tolerate = 1
	}
	if risk <= 0 {
		risk = DefaultRisk
	}
	var logs [len(ratios)]float64
	var canary, baseline Reading
	var peak float64
	for _, s := range samples {
		if !measured(s) {
			continue
		}
		canary.Bad, canary.Total = canary.Bad+s.Canary.Bad, canary.Total+s.Canary.Total
		baseline.Bad, baseline.Total = baseline.Bad+s.Baseline.Bad, baseline.Total+s.Baseline.Total
		expected, other := tolerate*s.Canary.Total, s.Baseline.Total
		for i, ratio := range ratios {
			// The canary's share of bad requests is ρc/(ρc+b); in this form of the
			// logarithms of the shares' quotients nothing small is subtracted.
			rest := math.Log((expected + other) / (ratio*expected + other))
			logs[i] += s.Canary.Bad*(math.Log(ratio)+rest) + s.Baseline.Bad*rest
		}
		peak = max(peak, mixture(logs[:]))
	}
	// The bound is on ever crossing, so a crossing counts even if later samples
	// look better.
	score := math.Log(max(peak, 1)) / math.Log(1/risk)
	rates := fmt.Sprintf("canary %s, baseline %s", rate(canary), rate(baseline))
	switch {
	case score >= 1:
		return Verdict{Outcome: Fail, Score: score, Why: fmt.Sprintf("more goes wrong on the canary: %s; %s", rates, evidence(peak, risk))}
	case canary.Total < max(c.Minimum, 1) || baseline.Total < max(c.Minimum, 1):
		return inconclusive(score, "too few requests: %s, at least %.0f on each side needed", rates, max(c.Minimum, 1))
	}
	return Verdict{Outcome: Pass, Score: score, Why: "no worse than the baseline: " + rates}
}

// measured tells whether both sides were measured and make sense.
func measured(s Sample) bool {
	return s.Canary != nil && s.Baseline != nil && sound(*s.Canary) && sound(*s.Baseline)
}

func sound(r Reading) bool {
	// No traffic tells nothing, and a source that counts more bad requests than
	// requests is not believed.
	const most = 1e12
	return r.Total > 0 && r.Total <= most && r.Bad >= 0 && r.Bad <= r.Total
}

// mixture is the mean of exp(logs), computed so that it does not overflow early.
func mixture(logs []float64) float64 {
	top := math.Inf(-1)
	for _, l := range logs {
		top = max(top, l)
	}
	var sum float64
	for _, l := range logs {
		sum += math.Exp(l - top)
	}
	return math.Exp(min(top+math.Log(sum/float64(len(logs))), 700))
}

// evidence says how strongly the samples speak against the release, as odds.
func evidence(peak, risk float64) string {
	const beyondDoubt = 1e6
	if peak > beyondDoubt {
		return fmt.Sprintf("evidence over a million to 1, %.0f to 1 needed", 1/risk)
	}
	return fmt.Sprintf("evidence %.0f to 1, %.0f to 1 needed", peak, 1/risk)
}

func rate(r Reading) string {
	if r.Total == 0 {
		return "no requests"
	}
	return fmt.Sprintf("%.0f of %.0f (%.2f %%)", r.Bad, r.Total, 100*r.Bad/r.Total)
}
