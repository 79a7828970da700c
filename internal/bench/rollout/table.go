package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
)

// result is one figure of one subject.
type result struct {
	Row     string  `json:"row"`
	Who     string  `json:"who"`
	Measure string  `json:"measure"`
	Unit    string  `json:"unit,omitempty"`
	Value   float64 `json:"value"`
	// Over tells that it was not over when the patience was: the value is a lower bound.
	Over bool `json:"over,omitempty"`
	// All are the values of every round; Value is their median.
	All     []float64 `json:"rounds,omitempty"`
	Target  float64   `json:"target,omitempty"`
	Of      string    `json:"of,omitempty"`
	AtLeast bool      `json:"atLeast,omitempty"`
	Has     bool      `json:"hasTarget,omitempty"`
	Note    string    `json:"note,omitempty"`
}

// ours is a figure of Tidegate's with a target; of names another subject, or is empty.
func (r result) aim(target float64, of string) result {
	r.Target, r.Of, r.Has = target, of, true
	return r
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		return 0
	}
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// printRow prints a line for each figure; ratios are to Tidegate's of the same measure.
func printRow(to io.Writer, r row, results []result, first bool) {
	if first {
		fmt.Fprintln(to, "| row | who | measure | value | × tidegate | target | note |")
		fmt.Fprintln(to, "|---|---|---|---|---|---|---|")
	}
	for _, one := range results {
		value := format(one.Value) + " " + one.Unit
		if one.Over {
			value = "> " + value
		}
		ratio := ""
		if base := find(results, one.Measure, "tidegate"); base != nil && base.Who != one.Who && base.Value > 0 {
			ratio = fmt.Sprintf("%.2f", one.Value/base.Value)
		}
		fmt.Fprintf(to, "| %s | %s | %s | %s | %s | %s | %s |\n", r.name, one.Who, one.Measure, value, ratio, one.verdict(results), one.Note)
	}
}

// verdict says whether the target is met.
func (r result) verdict(all []result) string {
	if !r.Has {
		return ""
	}
	bound, text := r.Target, format(r.Target)
	if r.Of != "" {
		text = fmt.Sprintf("%s × %s", format(r.Target), r.Of)
		peer := find(all, r.Measure, r.Of)
		if peer == nil {
			return "≤ " + text + " (not measured)"
		}
		bound = r.Target * peer.Value
	}
	met := r.Value <= bound && !r.Over
	sign := "≤ "
	if r.AtLeast {
		met, sign = r.Value >= bound, "≥ "
	}
	if !met {
		return sign + text + " **missed**"
	}
	return sign + text + " met"
}

func find(results []result, measure, who string) *result {
	for i := range results {
		if results[i].Measure == measure && results[i].Who == who {
			return &results[i]
		}
	}
	return nil
}

func format(value float64) string {
	switch {
	case value == float64(int64(value)):
		return fmt.Sprint(int64(value))
	case value < 10:
		return fmt.Sprintf("%.2f", value)
	}
	return fmt.Sprintf("%.1f", value)
}

func writeJSON(name string, results []result) error {
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o644)
}
