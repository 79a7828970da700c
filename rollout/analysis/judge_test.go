package analysis

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func number(v float64) *float64 { return &v }

func values(v ...float64) []Sample {
	var samples []Sample
	for _, x := range v {
		samples = append(samples, Sample{Value: number(x)})
	}
	return samples
}

func counts(bad, total, badBase, totalBase float64, times int) []Sample {
	var samples []Sample
	for range times {
		samples = append(samples, Sample{Canary: &Reading{Bad: bad, Total: total}, Baseline: &Reading{Bad: badBase, Total: totalBase}})
	}
	return samples
}

func TestVerdicts(t *testing.T) {
	empty := make([]Sample, 20) // asked twenty times, never an answer
	for _, c := range []struct {
		name    string
		judge   Judge
		samples []Sample
		want    Outcome
	}{
		{"bound: nothing yet", Bound{Max: number(1)}, nil, Inconclusive},
		{"bound: no data is no pass", Bound{Max: number(1)}, empty, Inconclusive},
		{"bound: inside", Bound{Max: number(1), Min: number(0)}, values(0, 1), Pass},
		{"bound: above", Bound{Max: number(1)}, values(0, 2), Fail},
		{"bound: below", Bound{Min: number(1)}, values(0), Fail},
		{"bound: a blip is tolerated", Bound{Max: number(1), Tolerate: 1}, values(2, 0, 0), Pass},
		{"bound: blips count over all samples", Bound{Max: number(1), Tolerate: 1}, values(2, 0, 0, 2), Fail},
		{"bound: too few", Bound{Max: number(1), Minimum: 3}, values(0, 0), Inconclusive},
		{"counts: nothing", Counts{}, nil, Inconclusive},
		{"counts: no data is no pass", Counts{}, empty, Inconclusive},
		{"counts: no traffic is no pass", Counts{}, counts(0, 0, 0, 0, 20), Inconclusive},
		{"counts: traffic on one side is no pass", Counts{}, counts(0, 100, 0, 0, 20), Inconclusive},
		{"counts: alike", Counts{Minimum: 100}, counts(1, 100, 1, 100, 20), Pass},
		{"counts: much worse", Counts{}, counts(10, 100, 1, 100, 5), Fail},
		{"counts: worse, as is tolerated", Counts{Tolerate: 12}, counts(10, 100, 1, 100, 5), Pass},
		{"counts: too few requests", Counts{Minimum: 100}, counts(0, 50, 0, 500, 1), Inconclusive},
		{"counts: nonsense is not believed", Counts{}, counts(200, 100, 1, 100, 5), Inconclusive},
		{"values: nothing", Values{}, nil, Inconclusive},
		{"values: no data is no pass", Values{}, empty, Inconclusive},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.judge.Judge(c.samples)
			require.Equal(t, c.want, got.Outcome, got.Why)
			require.NotEmpty(t, got.Why)
		})
	}
}

func TestValuesFindWhatIsAlwaysWorse(t *testing.T) {
	var samples []Sample
	for range 12 {
		samples = append(samples, Sample{Canary: &Reading{Value: 2}, Baseline: &Reading{Value: 1}})
	}
	require.Equal(t, Fail, Values{}.Judge(samples).Outcome)
	require.Equal(t, Pass, Values{Tolerate: 2}.Judge(samples).Outcome)
	require.Equal(t, Pass, Values{HigherIsBetter: true}.Judge(samples).Outcome)
}

// Whatever was measured: a judge that has failed a release stays with it, and
// one more sample without data never turns into a pass.
func TestJudgesAreSteadfast(t *testing.T) {
	reading := rapid.Custom(func(t *rapid.T) *Reading {
		if rapid.IntRange(0, 4).Draw(t, "measured") == 0 {
			return nil
		}
		return &Reading{Bad: rapid.Float64Range(0, 50).Draw(t, "bad"), Total: rapid.Float64Range(0, 100).Draw(t, "total"), Value: rapid.Float64().Draw(t, "value")}
	})
	rapid.Check(t, func(t *rapid.T) {
		judges := []Judge{Bound{Max: number(10), Tolerate: 2}, Counts{}, Values{}}
		failed := make([]bool, len(judges))
		before := make([]Outcome, len(judges))
		var samples []Sample
		for range rapid.IntRange(1, 60).Draw(t, "samples") {
			s := Sample{Canary: reading.Draw(t, "canary"), Baseline: reading.Draw(t, "baseline")}
			if rapid.Bool().Draw(t, "has a value") {
				s.Value = number(rapid.Float64Range(0, 11).Draw(t, "value"))
			}
			samples = append(samples, s)
			for i, judge := range judges {
				v := judge.Judge(samples)
				if failed[i] && v.Outcome != Fail {
					t.Fatalf("%T took its failure back", judge)
				}
				failed[i] = failed[i] || v.Outcome == Fail
				if s.Canary == nil && s.Baseline == nil && s.Value == nil && before[i] != Pass && v.Outcome == Pass {
					t.Fatalf("%T made a pass from no data", judge)
				}
				if (v.Score >= 1) != (v.Outcome == Fail) {
					t.Fatalf("%T scores %g for %s", judge, v.Score, v.Outcome)
				}
				before[i] = v.Outcome
			}
		}
	})
}
