package deploy

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/analysis"
)

func metricOf(t *testing.T, metric string) (rollout.MetricGate, error) {
	t.Helper()
	p, err := pipeline.Parse("p.yaml", []byte("version: 1\nname: shop\non: {manual: {}}\nstages:\n  prod:\n    deploy:\n      environment: prod\n      manifests: k8s/\n"+
		"      strategy: {canary: {steps: [{weight: 1}], gates: [{metric: {name: m, "+metric+"}}]}}\n"))
	if err != nil {
		return rollout.MetricGate{}, err
	}
	for _, stage := range p.Stages {
		if stage.Deploy != nil {
			return metrics(stage.Deploy.Strategy.Canary.Gates)[0], nil
		}
	}
	require.Fail(t, "no deploy")
	return rollout.MetricGate{}, nil
}

func TestServicesOfMetricsReachTheRollout(t *testing.T) {
	gate, err := metricOf(t, `datadog: {site: datadoghq.eu, secret: dd}, bad: a, total: b`)
	require.NoError(t, err)
	require.Equal(t, &rollout.DatadogSource{Site: "datadoghq.eu", Secret: "dd"}, gate.Datadog)
	gate, err = metricOf(t, `newrelic: {account: 42, region: eu, secret: nr}, value: SELECT count(*) FROM T, interval: 2m`)
	require.NoError(t, err)
	require.Equal(t, &rollout.NewRelicSource{Account: 42, Region: "eu", Secret: "nr"}, gate.NewRelic)
	require.Equal(t, 2*time.Minute, gate.Interval)
	gate, err = metricOf(t, `cloudwatch: {region: eu-central-1, secret: aws}, query: SELECT AVG(D) FROM Q, max: 1`)
	require.NoError(t, err)
	require.Equal(t, &rollout.CloudWatchSource{Region: "eu-central-1", Secret: "aws"}, gate.CloudWatch)
}

// What lint accepts of services is what the rollout accepts.
func TestLintAndRolloutAgreeOnServices(t *testing.T) {
	for _, site := range append(analysis.DatadogSites, "datadog.example.com") {
		_, lint := metricOf(t, fmt.Sprintf(`datadog: {site: %s, secret: dd}, query: a, max: 1`, site))
		_, judge := analysis.NewDatadog(site, "a", "b", analysis.Look{})
		require.Equal(t, judge == nil, lint == nil, "%s: %v, %v", site, lint, judge)
	}
	for _, region := range []string{"us", "eu", "mars"} {
		_, lint := metricOf(t, fmt.Sprintf(`newrelic: {account: 1, region: %s, secret: nr}, query: SELECT count(*) FROM T, max: 1`, region))
		_, judge := analysis.NewNewRelic(region, 1, "a", analysis.Look{})
		require.Equal(t, judge == nil, lint == nil, "%s: %v, %v", region, lint, judge)
	}
	for _, region := range []string{"eu-central-1", "us-gov-west-1", "cn-north-1", "Frankfurt", "eu-central", "eu-central-1.evil"} {
		_, lint := metricOf(t, fmt.Sprintf(`cloudwatch: {region: %s, secret: aws}, query: a, max: 1`, region))
		_, judge := analysis.NewCloudWatch(region, analysis.AWSKeys{}, analysis.Look{})
		require.Equal(t, judge == nil, lint == nil, "%s: %v, %v", region, lint, judge)
	}
}
