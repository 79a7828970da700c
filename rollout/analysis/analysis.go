// Package analysis judges what was measured of a release while it serves.
//
// A judge is a pure function of all samples since the analysis began: whoever
// continues a rollout after a crash folds the recorded samples again and comes
// to the same verdict. Judges that compare may be asked after every sample
// without raising false alarms: they are always-valid sequential tests, whose
// bound on wrongly failing a good release holds over all looks together.
package analysis

import (
	"fmt"
	"time"
)

// Outcome is what a judge says.
type Outcome string

// The outcomes. No outcome is made from absent data: too few samples are
// Inconclusive, and what is still inconclusive at its deadline has not passed.
const (
	Inconclusive Outcome = "inconclusive"
	Pass         Outcome = "pass"
	Fail         Outcome = "fail"
)

// Verdict is an outcome with the sentence a person needs.
type Verdict struct {
	Outcome Outcome `json:"outcome"`
	Why     string  `json:"why"`
	// Score is how far the evidence against the release has come, 1 being where
	// the judge fails it.
	Score float64 `json:"score"`
}

// Sample is one look at the metric. A nil field was not measured: the source
// had no data, which is not the same as zero.
type Sample struct {
	At time.Time `json:"at"`
	// Value is for judges with an absolute bound.
	Value *float64 `json:"value,omitempty"`
	// Canary and Baseline are for judges that compare.
	Canary   *Reading `json:"canary,omitempty"`
	Baseline *Reading `json:"baseline,omitempty"`
}

// Reading is what one side showed since the sample before.
type Reading struct {
	// Bad of Total requests failed, or were slow. Both are counts of the time
	// since the sample before, not rates.
	Bad   float64 `json:"bad,omitempty"`
	Total float64 `json:"total,omitempty"`
	// Value is a gauge, such as a latency in seconds, for judges that compare those.
	Value float64 `json:"value,omitempty"`
}

// Judge decides on all samples of an analysis, oldest first.
type Judge interface {
	Judge(samples []Sample) Verdict
}

// DefaultRisk is the chance that a comparison ever fails a release that is no
// worse than its baseline, over all looks together.
const DefaultRisk = 0.05

func inconclusive(score float64, format string, args ...any) Verdict {
	return Verdict{Outcome: Inconclusive, Score: score, Why: fmt.Sprintf(format, args...)}
}
