package pipeline

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGatesFile(t *testing.T) {
	gates, err := ParseGates("gates.yaml", []byte(`
gates:
  - approval: {name: boss, from: [ops], steps: [2], timeout: 1h}
  - cel: {name: all, pass: 'approvals.boss.outcome == "pass"'}
hooks:
  before: [{name: migrate, manifest: jobs/migrate.yaml}]
`), 2, true)
	require.NoError(t, err)
	require.Len(t, gates.Gates, 2)
	require.Equal(t, &ApprovalGateSpec{Name: "boss", From: []string{"ops"}, Steps: []int{2}, Timeout: time.Hour}, gates.Gates[0].Approval)
	require.Equal(t, "jobs/migrate.yaml", gates.Hooks.Before[0].Manifest)

	for text, says := range map[string]string{
		"": "gates.yaml:1:1",
		"gates: [{approval: {name: a, steps: [3]}}]":                                   "no step 3",
		"gates: [{approval: {name: a}}, {approval: {name: a}}]":                        "two gates are named",
		"gates: [{aproval: {name: a}}]":                                                "did you mean", //nolint:misspell // on purpose
		"gates: [{approval: {name: a, message: '${{ event.commit }}'}}]":               "no event",
		"hooks: {before: [{name: a, manifest: x}, {name: a, manifest: y}]}":            "two hooks are named",
		"gates: [{metric: {name: m, prometheus: 'http://p', bad: x, total: y}}]":       "only a canary has one",
		"strategy: {canary: {steps: [{weight: 1}]}}\ngates: [{approval: {name: a}}]\n": "unknown key",
	} {
		_, err := ParseGates("gates.yaml", []byte(text), 2, false)
		require.ErrorContains(t, err, says, text)
		require.Equal(t, CauseInvalid, CauseOf(err))
	}
}
