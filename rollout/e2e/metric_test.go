//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/internal/process"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/analysis"
)

const prometheusConfig = `
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- job_name: pods
  http_sd_configs: [{url: %q, refresh_interval: 1s}]
`

// targets tells Prometheus the pods of the namespace. Debian's build of it
// cannot ask the API server itself.
func (w *world) targets(answer http.ResponseWriter, request *http.Request) {
	pods, err := kube.CoreV1().Pods(w.namespace).List(request.Context(), metav1.ListOptions{})
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadGateway)
		return
	}
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	groups := []group{}
	for _, pod := range pods.Items {
		if pod.Status.PodIP != "" {
			groups = append(groups, group{[]string{pod.Status.PodIP + ":8080"}, map[string]string{"pod": pod.Name}})
		}
	}
	answer.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(answer).Encode(groups) // Prometheus asks again
}

// prometheus runs a real one that scrapes the pods of the namespace.
func (w *world) prometheus() (address string) {
	w.Helper()
	dir := w.TempDir()
	discovery := httptest.NewServer(http.HandlerFunc(w.targets))
	w.Cleanup(discovery.Close)
	config := filepath.Join(dir, "prometheus.yml")
	require.NoError(w, os.WriteFile(config, fmt.Appendf(nil, prometheusConfig, discovery.URL), 0o600))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(w, err)
	host := listener.Addr().String()
	require.NoError(w, listener.Close())
	server, err := process.Start(w.ctx, filepath.Join(dir, "log"), "prometheus", "--config.file="+config,
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+host, "--log.level=warn")
	require.NoError(w, err, "the Debian package prometheus is needed")
	w.Cleanup(server.Stop)
	source, err := analysis.NewPrometheus("http://"+host, "")
	require.NoError(w, err)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := source.Query(w.ctx, "count(up == 1)")
		if err == nil {
			return "http://" + host
		}
		select {
		case <-tick.C:
			require.NoError(w, server.With(nil))
		case <-w.ctx.Done():
			require.NoError(w, err, "Prometheus never saw a pod")
		}
	}
}

// traffic sends requests to the Service until the test ends.
func (w *world) traffic() {
	w.Helper()
	service, err := kube.CoreV1().Services(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(w, err)
	ctx, cancel := context.WithCancel(w.ctx)
	var clients sync.WaitGroup
	w.Cleanup(func() {
		cancel()
		clients.Wait()
	})
	// A connection a request: kube-proxy balances connections.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	for range 4 {
		clients.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+service.Spec.ClusterIP, http.NoBody)
				if err != nil {
					return
				}
				if response, err := client.Do(request); err == nil {
					response.Body.Close()
				}
			}
		})
	}
}

func errorGate(address string) rollout.MetricGate {
	return rollout.MetricGate{
		Name: "errors", Prometheus: address, Interval: 5 * time.Second, Minimum: 50,
		Bad:   `sum(increase(shop_requests_total{pod=~"$pods",code="500"}[$interval]))`,
		Total: `sum(increase(shop_requests_total{pod=~"$pods"}[$interval]))`,
	}
}

func TestMetricsAgainstAFreshBaseline(t *testing.T) {
	w := newWorld(t)
	v1, good, bad := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3", "FAIL_EVERY=4")
	w.startVerified(v1)
	address := w.prometheus()
	w.traffic()

	request := w.request(good, time.Second, rollout.Step{Weight: 34})
	request.Strategy.Metrics = []rollout.MetricGate{errorGate(address)}
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	require.Len(t, result.Rollout.Analyses, 1)
	seen := result.Rollout.Analyses[0]
	require.Equal(t, analysis.Pass, seen.Verdict.Outcome, seen.Verdict.Why)
	require.NotEmpty(t, seen.Samples)
	require.Equal(t, "metric errors", result.Rollout.Gates[0].Kind, "the gate is recorded before the step's own")
	w.noCanary()
	_, err = kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop-baseline", metav1.GetOptions{})
	require.Error(t, err, "the baseline is gone")

	request = w.request(bad, time.Second, rollout.Step{Weight: 34, Hold: 2 * time.Minute})
	request.Strategy.Metrics = []rollout.MetricGate{errorGate(address)}
	result, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.MetricFailed, result.Rollout.Failure.Reason, result.Rollout.Failure.Message)
	require.Equal(t, rollout.RolledBack, result.Rollout.State)
	w.settles(map[string]int{good: 3})
}

func TestNoDataIsNoPass(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	most := 1.0
	request := w.request(v2, 0, rollout.Step{Weight: 34})
	request.Deadline = 30 * time.Second
	// Nothing listens there.
	request.Strategy.Metrics = []rollout.MetricGate{{Name: "load", HTTP: "http://127.0.0.1:1/load", Query: "response.load", Max: &most, Interval: time.Second}}
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.MetricInconclusive, result.Rollout.Failure.Reason)
	require.Contains(t, result.Rollout.Failure.Message, "connection refused")
	require.Equal(t, rollout.RolledBack, result.Rollout.State)
	w.settles(map[string]int{v1: 3})
}

func TestMetricGateThatMakesNoSense(t *testing.T) {
	w := newWorld(t)
	request := w.request(image(t, "VERSION=1"), 0, rollout.Step{Weight: 34})
	request.Strategy.Metrics = []rollout.MetricGate{{Name: "load", Prometheus: "prometheus:9090", Query: "up"}}
	_, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.True(t, errors.Is(err, rollout.ErrInvalid), "%v", err)
}
