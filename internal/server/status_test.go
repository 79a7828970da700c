package server

import (
	"strings"
	"testing"
	"time"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

func TestStatusOf(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, test := range map[string]struct {
		run  journal.Summary
		want commitStatus
	}{
		"waiting":   {journal.Summary{Status: journal.Pending}, commitStatus{state: "pending", description: "abc: queued"}},
		"running":   {journal.Summary{Status: journal.Running, Message: "old"}, commitStatus{state: "pending", description: "abc: running"}},
		"succeeded": {journal.Summary{Status: journal.Succeeded, Started: start, Finished: start.Add(1500 * time.Millisecond)}, commitStatus{state: "success", description: "abc: succeeded in 1.5s"}},
		"failed":    {journal.Summary{Status: journal.Failed, Message: "unit: exit status 1"}, commitStatus{state: "failure", description: "abc: unit: exit status 1"}},
		"refused":   {journal.Summary{Status: journal.Refused}, commitStatus{state: "failure", description: "abc: refused"}},
		"cancelled": {journal.Summary{Status: journal.Cancelled}, commitStatus{state: "error", description: "abc: cancelled"}},
		"long":      {journal.Summary{Status: journal.Failed, Message: strings.Repeat("ä", 500)}, commitStatus{state: "failure", description: "abc: " + strings.Repeat("ä", 109) + "…"}},
	} {
		t.Run(name, func(t *testing.T) {
			test.run.ID, test.run.Pipeline, test.want.context = "abc", "shop", "tidegate/shop"
			if got := statusOf(test.run); got != test.want {
				t.Fatalf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
