package rollout

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestGatesOnCloudServices(t *testing.T) {
	most := 1.0
	datadog := MetricGate{Name: "errors", Datadog: &DatadogSource{Site: "datadoghq.eu", Secret: "datadog"}, Bad: "sum:bad{pod_name IN ($podlist)}.as_count()", Total: "sum:all{pod_name IN ($podlist)}.as_count()"}
	relic := MetricGate{Name: "latency", NewRelic: &NewRelicSource{Account: 42, Region: "eu", Secret: "newrelic"}, Value: "SELECT percentile(duration, 95) FROM Transaction WHERE podName RLIKE '$pods'"}
	watch := MetricGate{Name: "queue", CloudWatch: &CloudWatchSource{Region: "eu-central-1", Secret: "aws"}, Query: `SELECT AVG(Depth) FROM "AWS/SQS"`, Max: &most}
	for _, gate := range []MetricGate{datadog, relic, watch} {
		require.NoError(t, gate.check(), gate.Name)
		require.Equal(t, MinCloudInterval, gate.Interval, "asked once a minute by default")
		_, err := gate.source(Target{}, nil, credentials{})
		require.NoError(t, err)
		encoded, err := json.Marshal(gate)
		require.NoError(t, err)
		var back MetricGate
		require.NoError(t, json.Unmarshal(encoded, &back))
		require.Equal(t, gate, back)
	}
	require.Equal(t, "{a,b} a|b 60s", (&MetricGate{Interval: time.Minute}).fill("{$podlist} $pods $interval", Target{}, []string{"a", "b"}))

	for says, change := range map[string]func() MetricGate{
		"one source":            func() MetricGate { g := datadog; g.Prometheus = "http://x"; return g },
		"name the Secret":       func() MetricGate { g := datadog; g.Datadog = &DatadogSource{}; return g },
		"once a minute at most": func() MetricGate { g := relic; g.Interval = 10 * time.Second; return g },
		"token belongs to":      func() MetricGate { g := relic; g.Token = &SecretKey{Name: "a", Key: "b"}; return g },
		"knows no pods":         func() MetricGate { g := watch; g.Query, g.Max, g.Value = "", nil, "x"; return g },
		"use one of":            func() MetricGate { g := datadog; g.Datadog = &DatadogSource{Site: "evil.com", Secret: "x"}; return g },
		"use us or eu": func() MetricGate {
			g := relic
			g.NewRelic = &NewRelicSource{Account: 1, Region: "mars", Secret: "x"}
			return g
		},
		"AWS region":      func() MetricGate { g := watch; g.CloudWatch = &CloudWatchSource{Region: "x", Secret: "x"}; return g },
		"leave SINCE out": func() MetricGate { g := relic; g.Value += " SINCE 1 hour ago"; return g },
	} {
		gate := change()
		require.ErrorContains(t, gate.check(), says)
	}
}

func TestKeysOfASource(t *testing.T) {
	keys, err := pick(map[string][]byte{"access-key-id": []byte("id"), "secret-access-key": []byte("s3cret"), "session-token": []byte("session"), "other": []byte("x")}, []string{accessKeyID, secretAccessKey})
	require.NoError(t, err)
	require.Equal(t, credentials{"access-key-id": "id", "secret-access-key": "s3cret", "session-token": "session"}, keys)
	_, err = pick(map[string][]byte{"api-key": []byte("s3cret"), "app-key": nil}, []string{apiKey, appKey})
	require.ErrorContains(t, err, `no "app-key"`)
	require.NotContains(t, err.Error(), "s3cret")
}
