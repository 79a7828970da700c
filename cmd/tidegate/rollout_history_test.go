package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout"
)

func TestHistoryTellsWhoWhatWhyAndHowLong(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := rollout.Rollout{Revision: 7, State: rollout.RolledBack, By: "ann\x1b[31m", Commit: "0123456789abcdef", Started: start, Finished: start.Add(90 * time.Second),
		Gates:   []rollout.Gate{{Kind: "health", Passed: true}, {Kind: "metric errors", Passed: true}, {Kind: "webhook load"}, {Kind: "health", Passed: true}},
		Failure: &rollout.Failure{Message: "it crashes"},
		Path:    []rollout.Passage{{State: rollout.Canary, Step: 1, At: start.Add(time.Second)}, {State: rollout.RollingBack, At: start.Add(61 * time.Second)}, {State: rollout.RolledBack, At: start.Add(90 * time.Second)}}}
	promoted := rollout.Rollout{Revision: 6, State: rollout.Verified, From: &rollout.Provenance{Environment: "staging", App: "shop", Namespace: "s", Revision: 3}}
	var out strings.Builder
	printHistory(&out, []rollout.Rollout{r, promoted})
	lines := strings.Split(out.String(), "\n")
	for _, part := range []string{"7", "2026-01-02 03:04:05", "1m30s", "rolled_back", "ann [31m", "0123456789", "health ×2, metric errors", "it crashes"} {
		require.Contains(t, lines[1], part)
	}
	require.Contains(t, lines[2], "promoted from revision 3 of shop in environment staging (namespace s)")
	require.NotContains(t, out.String(), "\x1b")
	require.Equal(t, "pending 1s → canary 1 1m0s → rolling_back 29s → rolled_back", pathText(&r))
	require.Empty(t, pathText(&promoted))
}
