package pipeline

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

const shop = `version: 1
name: shop
on:
  push: {branches: [main], paths-ignore: ["docs/**"]}
  pull_request: {branches: [main]}
  schedule: [{cron: "0 3 * * *", timezone: Europe/Berlin}]
  manual: {inputs: {version: {type: string}}}
concurrency: {group: "${{ ref }}", cancel-in-progress: true}
env:
  GOFLAGS: -mod=readonly
  PORT: 8080
stages:
  unit:
    image: golang:1.26
    run: go test ./...
    matrix: {race: [true, false]}
    cache: [~/.cache/go-build]
    retry: {max: 1, on: [infrastructure]}
    timeout: 10m
  image:
    needs: [unit]
    build: {context: ., push: registry.example.com/shop, platforms: [linux/amd64]}
  staging:
    needs: image
    deploy: {environment: staging, manifests: k8s/}
  production:
    needs: [staging]
    when: event.branch == "main"
    env: {IMAGE: "${{ stages.image.outputs.digest }}"}
    approve: {from: [ops], timeout: 24h}
    deploy:
      environment: production
      manifests: k8s/
      bake: 0s
      strategy:
        canary:
          steps: [{weight: 10, hold: 1m}, {weight: 50, hold: 2m}]
          gates:
            - metric: {name: load, http: "http://shop/load", query: response.load, max: 0.5, tolerate: 1}
            - metric: {name: errors, prometheus: "http://prometheus:9090", bad: sum(a), total: sum(b), ratio: 2, minimum: 100, interval: 5s, token: {name: prometheus, key: token}}
finally:
  notify:
    run: echo done
`

func TestParseReadsEveryPartOfAPipeline(t *testing.T) {
	p, err := Parse(".tidegate.yaml", []byte(shop))
	require.NoError(t, err)
	require.Equal(t, "shop", p.Name)
	require.Equal(t, []string{"main"}, p.On.Push.Branches)
	require.Equal(t, &Concurrency{Group: "${{ ref }}", CancelInProgress: true}, p.Concurrency)
	require.Equal(t, map[string]string{"GOFLAGS": "-mod=readonly", "PORT": "8080"}, p.Env)
	require.Equal(t, []string{"unit", "image", "staging", "production"}, stageNames(p.Stages))
	unit := p.Stages[0]
	require.Equal(t, &RunSpec{Command: "go test ./...", Image: "golang:1.26", Cache: []string{"~/.cache/go-build"}}, unit.Run)
	require.Equal(t, []MatrixAxis{{Name: "race", Values: []string{"true", "false"}}}, unit.Matrix)
	require.Equal(t, Retry{Max: 1, On: []Cause{CauseInfrastructure}}, unit.Retry)
	require.Equal(t, 10*time.Minute, unit.Timeout)
	require.Equal(t, Position{File: ".tidegate.yaml", Line: 13, Column: 3}, unit.Pos)
	require.Equal(t, []string{"image"}, p.Stages[2].Needs)
	require.Equal(t, []string{"k8s/"}, p.Stages[2].Deploy.Manifests)
	production := p.Stages[3]
	require.Equal(t, &ApproveSpec{From: []string{"ops"}, Timeout: 24 * time.Hour}, production.Approve)
	require.Equal(t, []CanaryStep{{Weight: 10, Hold: time.Minute}, {Weight: 50, Hold: 2 * time.Minute}}, production.Deploy.Strategy.Canary.Steps)
	half := 0.5
	require.Equal(t, []GateSpec{
		{Metric: &MetricSpec{Name: "load", HTTP: "http://shop/load", Query: "response.load", Max: &half, Tolerate: 1}},
		{Metric: &MetricSpec{Name: "errors", Prometheus: "http://prometheus:9090", Bad: "sum(a)", Total: "sum(b)", Ratio: 2, Minimum: 100, Interval: 5 * time.Second,
			Token: &SecretKey{Name: "prometheus", Key: "token"}}},
	}, production.Deploy.Strategy.Canary.Gates)
	require.NotNil(t, production.Deploy.Bake)
	require.Zero(t, *production.Deploy.Bake)
	require.Equal(t, []string{"notify"}, stageNames(p.Finally))
}

func push(branch string) event.Event {
	return event.Event{
		ID: "1", Forge: "github", Kind: event.Push, Repository: event.Repository{FullName: "octo/shop"},
		Ref: "refs/heads/" + branch, Branch: branch, Commit: "0123456789abcdef0123456789abcdef01234567", Trust: event.Own,
	}
}

func TestPlanForSplitsApprovalsAndExpandsTheMatrix(t *testing.T) {
	p, err := Parse(".tidegate.yaml", []byte(shop))
	require.NoError(t, err)
	plan, err := PlanFor(p, push("main"))
	require.NoError(t, err)
	var ids []string
	for _, s := range plan.Stages {
		ids = append(ids, s.ID)
	}
	require.Equal(t, []string{"unit (race=true)", "unit (race=false)", "image", "staging", "production/approval", "production", "notify"}, ids)
	require.Equal(t, "refs/heads/main", plan.ConcurrencyGroup)
	require.Equal(t, []string{"unit (race=true)", "unit (race=false)"}, plan.Stages[2].Needs)
	require.Equal(t, []string{"staging"}, plan.Stages[4].Needs)
	require.Equal(t, []string{"production/approval"}, plan.Stages[5].Needs)
	require.Empty(t, plan.Stages[4].When)
	require.Equal(t, "true", plan.Stages[0].Env["MATRIX_RACE"])
	require.Equal(t, "${{ stages.image.outputs.digest }}", plan.Stages[5].Env["IMAGE"])

	resolved, err := Resolve(plan.Stages[5], plan, map[string]StageResult{
		"image": {Status: "succeeded", Outputs: Outputs{"digest": "sha256:abc"}},
	})
	require.NoError(t, err)
	require.Equal(t, "sha256:abc", resolved.Env["IMAGE"])

	other, err := PlanFor(p, push("feature"))
	require.NoError(t, err)
	require.Equal(t, "false", other.Stages[4].When)
	require.Equal(t, "false", other.Stages[5].When)
}
