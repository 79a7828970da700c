package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/analysis"
)

// chartWidth is how many of the newest samples a chart shows.
const chartWidth = 40

var bars = []rune("▁▂▃▄▅▆▇█")

// printAnalyses shows what metric gates have judged, each as a small chart of
// its newest samples; · stands for a look that gave no data.
func printAnalyses(w io.Writer, analyses []rollout.Analysis) {
	for _, a := range analyses {
		fmt.Fprintf(w, "metric %s, step %d: %s: %s\n", printable(a.Gate), a.Step, a.Verdict.Outcome, printable(a.Verdict.Why))
		if a.Trouble != "" {
			fmt.Fprintf(w, "  no data: %s\n", printable(a.Trouble))
		}
		if len(a.Samples) == 0 {
			continue
		}
		samples := a.Samples[max(0, len(a.Samples)-chartWidth):]
		if samples[0].Value != nil || (samples[0].Canary == nil && samples[0].Baseline == nil) {
			printChart(w, "value", samples, func(s analysis.Sample) *float64 { return s.Value })
			continue
		}
		printChart(w, "canary", samples, func(s analysis.Sample) *float64 { return level(s.Canary) })
		printChart(w, "baseline", samples, func(s analysis.Sample) *float64 { return level(s.Baseline) })
	}
}

// level is what a chart shows of a reading: the share of requests that went
// wrong, or else the gauge.
func level(r *analysis.Reading) *float64 {
	switch {
	case r == nil:
		return nil
	case r.Total > 0:
		share := r.Bad / r.Total
		return &share
	}
	return &r.Value
}

func printChart(w io.Writer, label string, samples []analysis.Sample, of func(analysis.Sample) *float64) {
	var low, high float64
	first := true
	for _, s := range samples {
		if v := of(s); v != nil {
			if first {
				low, high, first = *v, *v, false
			}
			low, high = min(low, *v), max(high, *v)
		}
	}
	var chart strings.Builder
	for _, s := range samples {
		v := of(s)
		if v == nil {
			chart.WriteRune('·')
			continue
		}
		i := 0
		if high > low {
			i = int((*v - low) / (high - low) * float64(len(bars)-1))
		}
		chart.WriteRune(bars[i])
	}
	span := "no data"
	if !first {
		span = fmt.Sprintf("%.4g to %.4g", low, high)
	}
	fmt.Fprintf(w, "  %-8s %s  %s\n", label, chart.String(), span)
}
