package analysis

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// The setting in which judges are compared: a canary with 5 and a baseline with
// 45 requests a second, a look every 10 s, for 15 minutes.
const (
	canaryRequests   = 50
	baselineRequests = 450
	looks            = 90
)

func binomial(r *rand.Rand, n int, p float64) float64 {
	// Waiting times between successes: fast for rare failures.
	if p <= 0 {
		return 0
	}
	var k float64
	for i := 0; ; {
		i += int(math.Log1p(-r.Float64())/math.Log1p(-p)) + 1
		if i > n {
			return k
		}
		k++
	}
}

// found tells at which look a judge failed the canary; 0 means never.
func found(r *rand.Rand, judge Judge, canary, baseline float64) int {
	var samples []Sample
	for look := 1; look <= looks; look++ {
		samples = append(samples, Sample{
			At:       time.Unix(int64(10*look), 0),
			Canary:   &Reading{Bad: binomial(r, canaryRequests, canary), Total: canaryRequests},
			Baseline: &Reading{Bad: binomial(r, baselineRequests, baseline), Total: baselineRequests},
		})
		if judge.Judge(samples).Outcome == Fail {
			return look
		}
	}
	return 0
}

// TestCountsWhenPeeked is the promise of the count judge: peeked at every look,
// it seldom fails a good release and finds a bad one soon. The seed is fixed.
func TestCountsWhenPeeked(t *testing.T) {
	const releases = 2000
	r := rand.New(rand.NewPCG(1, 2))
	judge := Counts{Minimum: 100}
	alarms := 0
	for range releases {
		if found(r, judge, 0.001, 0.001) > 0 {
			alarms++
		}
	}
	seconds, missed := 0, 0
	for range releases {
		look := found(r, judge, 0.01, 0.001)
		if look == 0 {
			missed++
		}
		seconds += 10 * look
	}
	falseAlarms := 100 * float64(alarms) / releases
	mean := float64(seconds) / float64(releases-missed)
	t.Logf("false alarms %.2f %%, missed %.2f %%, found after %.0f s on average", falseAlarms, 100*float64(missed)/releases, mean)
	if falseAlarms > 3 {
		t.Errorf("false alarms in %.2f %% of good releases, want at most 3 %%", falseAlarms)
	}
	if 100*float64(missed)/releases > 1 {
		t.Errorf("%d of %d bad releases missed", missed, releases)
	}
	if mean > 80 {
		t.Errorf("a bad release is found after %.0f s on average, want at most 80 s", mean)
	}
}

// TestValuesWhenPeeked is the same for gauges: latencies with heavy tails.
func TestValuesWhenPeeked(t *testing.T) {
	const releases = 2000
	r := rand.New(rand.NewPCG(3, 4))
	latency := func(median float64) float64 { return median * math.Exp(0.5*r.NormFloat64()) }
	run := func(canary, baseline float64) int {
		var samples []Sample
		for look := 1; look <= looks; look++ {
			samples = append(samples, Sample{Canary: &Reading{Value: latency(canary)}, Baseline: &Reading{Value: latency(baseline)}})
			if (Values{}).Judge(samples).Outcome == Fail {
				return look
			}
		}
		return 0
	}
	alarms, missed := 0, 0
	for range releases {
		if run(0.1, 0.1) > 0 {
			alarms++
		}
		if run(0.2, 0.1) == 0 {
			missed++
		}
	}
	t.Logf("false alarms %.2f %%, missed %.2f %%", 100*float64(alarms)/releases, 100*float64(missed)/releases)
	if share := float64(alarms) / releases; share > DefaultRisk {
		t.Errorf("false alarms in %.2f %% of good releases, more than the risk of %.0f %%", 100*share, 100*DefaultRisk)
	}
	if share := float64(missed) / releases; share > 0.01 {
		t.Errorf("%.2f %% of releases with doubled latency missed", 100*share)
	}
}
