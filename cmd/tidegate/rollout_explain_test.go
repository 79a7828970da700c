package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/health"
)

func explain(args ...string) (string, error) {
	command := newRolloutExplainCommand()
	var out bytes.Buffer
	command.SetOut(&out)
	command.SetErr(&out)
	command.SetArgs(args)
	err := command.Execute()
	return out.String(), err
}

func TestExplain(t *testing.T) {
	text, err := explain("imagepullfailed")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(text, "ImagePullFailed\n"), text)
	require.Contains(t, text, "**Do:**")
	require.NotContains(t, text, "###", "one section alone")
	text, err = explain()
	require.NoError(t, err)
	for _, reason := range []health.Reason{health.CrashLoop, health.Unschedulable, rollout.MetricFailed, rollout.ManifestRejected} {
		require.Contains(t, text, string(reason))
	}
	_, err = explain("Nonsense")
	require.ErrorContains(t, err, "lists them")
}

func TestStatusOfAFailureSaysWhereToReadMore(t *testing.T) {
	record := &rollout.Record{App: "shop", Namespace: "x", Verified: 1, Current: &rollout.Rollout{Revision: 2, Base: 1, State: rollout.RolledBack, Ending: rollout.EndedByFailure,
		Started: time.Now(), Failure: &rollout.Failure{Reason: health.ImagePullFailed, Message: "1 of 3 new pods: ErrImagePull: r/shop:2: not found"}}}
	var out bytes.Buffer
	printRecord(&out, record, "")
	require.Contains(t, out.String(), "ErrImagePull: r/shop:2: not found")
	require.Regexp(t, `reason +ImagePullFailed\n`, out.String())
	require.Regexp(t, `what to do +tidegate rollout explain ImagePullFailed\n`, out.String())
}
