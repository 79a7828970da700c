package deploy

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

const smokeJob = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: smoke}\nspec: {template: {spec: {containers: [{name: c, image: shop}]}}}\n"

func TestGatesOfTheStage(t *testing.T) {
	a := attempt(t, pod)
	require.NoError(t, os.WriteFile(filepath.Join(a.Workspace, "smoke.yaml"), []byte(smokeJob), 0o600))
	a.Stage.Deploy.Strategy.Canary.Gates = []pipeline.GateSpec{
		{Job: &pipeline.JobGateSpec{Name: "smoke", Manifest: "smoke.yaml", Timeout: time.Minute, Steps: []int{1}}},
		{Webhook: &pipeline.WebhookGateSpec{Name: "load", URL: "https://x/y", Secret: &pipeline.SecretKey{Name: "s", Key: "k"}, Interval: time.Second, Advisory: true}},
		{Approval: &pipeline.ApprovalGateSpec{Name: "boss", From: []string{"ops"}, Message: "look"}},
		{CEL: &pipeline.CELGateSpec{Name: "all", Pass: "true", Fail: "false"}},
	}
	request, err := New(Options{}).render(t, a, "n")
	require.NoError(t, err)
	checks := request.Strategy.Checks
	require.Len(t, checks, 4)
	require.Equal(t, []string{"127.0.0.1:5000/shop" + digest}, manifest.Images([]*unstructured.Unstructured{checks[0].Job.Manifest}), "pinned to what the run built")
	checks[0].Job = nil
	require.Equal(t, []rollout.CheckGate{
		{Name: "smoke", Timeout: time.Minute, Steps: []int{1}},
		{Name: "load", Advisory: true, Webhook: &rollout.WebhookGate{URL: "https://x/y", Interval: time.Second, Secret: &rollout.SecretKey{Name: "s", Key: "k"}}},
		{Name: "boss", Approval: &rollout.ApprovalGate{From: []string{"ops"}, Message: "look"}},
		{Name: "all", CEL: &rollout.CELGate{Pass: "true", Fail: "false"}},
	}, checks)

	require.NoError(t, os.WriteFile(filepath.Join(a.Workspace, "smoke.yaml"), []byte(pod), 0o600))
	_, err = New(Options{}).render(t, a, "n")
	require.ErrorContains(t, err, "smoke.yaml: it must hold one Job")
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
}

// What lint says of an expression is what the rollout says.
func TestLintAndRolloutAgreeOnExpressions(t *testing.T) {
	for expression, fine := range map[string]bool{
		`metrics.errors.value < 0.5 && jobs.smoke.outcome == "pass"`: true,
		`webhooks.load.facts.p99 < 1 || approvals.boss.by == "ann"`:  true,
		`health.restarts == 0 && stable.ready >= health.ready`:       true,
		`step == 1 && weight > 5 && serving > duration("1m")`:        true,
		`step`: false, `metric.errors.value < 1`: false, `1 +`: false, `weight == "5"`: false,
	} {
		file := "version: 1\nname: shop\non: {push: {branches: [main]}}\nstages:\n  p:\n    deploy:\n      environment: e\n      manifests: k\n" +
			"      strategy: {canary: {steps: [{weight: 1}], gates: [{cel: {name: c, pass: '" + expression + "'}}]}}\n"
		_, lint := pipeline.Parse("ci.yaml", []byte(file))
		require.Equal(t, fine, lint == nil, "%s: %v", expression, lint)
		require.Equal(t, fine, rollout.CheckExpression(expression) == nil, expression)
	}
}
