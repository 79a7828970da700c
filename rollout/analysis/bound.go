package analysis

import "fmt"

// Bound wants a metric within fixed limits.
type Bound struct {
	// Min and Max are inclusive; nil means unbounded.
	Min, Max *float64
	// Tolerate is how many samples in all may lie outside; 0 fails at the first.
	Tolerate int
	// Minimum is how many samples are needed to pass; 0 means 1.
	Minimum int
}

// Judge implements Judge.
func (b Bound) Judge(samples []Sample) Verdict {
	var seen, outside int
	last := ""
	for _, s := range samples {
		if s.Value == nil || !finite(*s.Value) {
			continue
		}
		seen++
		if why := b.outside(*s.Value); why != "" {
			outside++
			last = why
		}
	}
	score := float64(outside) / float64(b.Tolerate+1)
	switch {
	case outside > b.Tolerate:
		return Verdict{Outcome: Fail, Score: score, Why: fmt.Sprintf("%s; %d of %d samples out of bounds, %d tolerated", last, outside, seen, b.Tolerate)}
	case seen < max(b.Minimum, 1):
		return inconclusive(score, "too few samples: %d, at least %d needed", seen, max(b.Minimum, 1))
	}
	return Verdict{Outcome: Pass, Score: score, Why: fmt.Sprintf("%d of %d samples within bounds", seen-outside, seen)}
}

func (b Bound) outside(value float64) string {
	switch {
	case b.Max != nil && value > *b.Max:
		return fmt.Sprintf("%g is above %g", value, *b.Max)
	case b.Min != nil && value < *b.Min:
		return fmt.Sprintf("%g is below %g", value, *b.Min)
	}
	return ""
}
