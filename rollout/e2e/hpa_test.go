//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/tidegate-ci/tidegate/internal/kwok"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// load is what all pods of the shop use together, in thousandths of a core: a
// load balancer gives each of them the same part.
type load struct {
	w *world
	atomic.Int64
}

const metricsPath = "/apis/metrics.k8s.io/v1beta1"

// ServeHTTP answers as a metrics server does.
func (l *load) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	answer.Header().Set("Content-Type", "application/json")
	if request.URL.Path == metricsPath {
		_ = json.NewEncoder(answer).Encode(map[string]any{"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1",
			"resources": []map[string]any{{"name": "pods", "singularName": "", "namespaced": true, "kind": "PodMetrics", "verbs": []string{"get", "list"}}}})
		return
	}
	if request.URL.Path != metricsPath+"/namespaces/"+l.w.namespace+"/pods" {
		http.NotFound(answer, request)
		return
	}
	pods, err := kube.CoreV1().Pods(l.w.namespace).List(request.Context(), metav1.ListOptions{LabelSelector: request.URL.Query().Get("labelSelector")})
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadGateway)
		return
	}
	var serving []string
	for _, pod := range pods.Items {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil {
				serving = append(serving, pod.Name)
			}
		}
	}
	items := []map[string]any{}
	for _, name := range serving {
		items = append(items, map[string]any{
			"metadata": map[string]any{"name": name, "namespace": l.w.namespace}, "timestamp": time.Now().UTC().Format(time.RFC3339), "window": "1s",
			"containers": []map[string]any{{"name": "shop", "usage": map[string]any{"cpu": fmt.Sprintf("%dm", l.Load()/int64(len(serving))), "memory": "1Mi"}}}})
	}
	_ = json.NewEncoder(answer).Encode(map[string]any{"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": map[string]any{}, "items": items})
}

const metricsService = `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: metrics, namespace: %s, port: 443}
`

// metrics serves the metrics API of the whole cluster for the test's time.
func (w *world) metrics() *load {
	w.Helper()
	nodes, err := kube.CoreV1().Nodes().List(w.ctx, metav1.ListOptions{LabelSelector: "!" + kwok.Played})
	require.NoError(w, err)
	address := ""
	for _, a := range nodes.Items[0].Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			address = a.Address
		}
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	require.NoError(w, err)
	l := &load{w: w}
	server := httptest.NewUnstartedServer(l)
	require.NoError(w, server.Listener.Close())
	server.Listener = listener
	server.StartTLS()
	w.Cleanup(server.Close)
	_, text, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(w, err)
	number, err := strconv.ParseInt(text, 10, 32)
	require.NoError(w, err)
	port, name, ready := int32(number), "https", true
	_, err = kube.CoreV1().Services(w.namespace).Create(w.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "metrics"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: name, Port: 443}}}}, metav1.CreateOptions{})
	require.NoError(w, err)
	_, err = kube.DiscoveryV1().EndpointSlices(w.namespace).Create(w.ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "metrics", Labels: map[string]string{discoveryv1.LabelServiceName: "metrics"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}}, metav1.CreateOptions{})
	require.NoError(w, err)
	client, err := dynamic.NewForConfig(config)
	require.NoError(w, err)
	services := client.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	objects, err := manifest.Parse("metrics.yaml", fmt.Appendf(nil, metricsService, w.namespace))
	require.NoError(w, err)
	_, err = services.Create(w.ctx, objects[0], metav1.CreateOptions{})
	require.NoError(w, err, "another metrics API is there already")
	w.Cleanup(func() {
		require.NoError(w, services.Delete(context.Background(), "v1beta1.metrics.k8s.io", metav1.DeleteOptions{}))
	})
	return l
}

// scaler tells what the real autoscaler has seen and wants, in the order of it.
type scaler struct {
	w     *world
	watch watch.Interface
}

func (w *world) scaler() *scaler {
	w.Helper()
	seen, err := kube.AutoscalingV2().HorizontalPodAutoscalers(w.namespace).Watch(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	w.Cleanup(seen.Stop)
	return &scaler{w, seen}
}

// decided waits until the autoscaler sees so much use of a pod, and returns what it
// wants then.
func (s *scaler) decided(average string) int32 {
	s.w.Helper()
	last := ""
	for event := range s.watch.ResultChan() {
		h, ok := event.Object.(*autoscalingv2.HorizontalPodAutoscaler)
		if !ok || len(h.Status.CurrentMetrics) == 0 || h.Status.CurrentMetrics[0].Resource == nil {
			continue
		}
		if last = h.Status.CurrentMetrics[0].Resource.Current.AverageValue.String(); last == average {
			return h.Status.DesiredReplicas
		}
	}
	require.Fail(s.w, "the autoscaler never saw it", "want %s, last saw %s", average, last)
	return 0
}

// An autoscaler that selects by the stable labels counts the canary's pods, too.
// What it makes of that is a stable workload that carries the whole load alone:
// the canary comes on top, and nothing is missing when it goes.
func TestAutoscalerSizesTheStableWorkloadForTheWholeLoad(t *testing.T) {
	w := newWorld(t)
	l, scaler := w.metrics(), w.scaler()
	l.Store(200)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	manifests := strings.Replace(shop, "replicas: 3", "replicas: 2", 1) + `
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: shop}
spec:
  minReplicas: 1
  maxReplicas: 6
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}
  metrics: [{type: Resource, resource: {name: cpu, target: {type: AverageValue, averageValue: 100m}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
`
	request := w.request(v1, 0)
	request.Release = w.release(manifests, v1)
	_, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	require.EqualValues(t, 2, scaler.decided("100m"))

	request = w.request(v2, 0, rollout.Step{Weight: 50, Hold: time.Hour})
	request.Release = w.release(manifests, v2)
	controller, tell, ended := w.controller(), w.told(), make(chan error, 1)
	go func() {
		_, err := controller.Start(w.ctx, request, w.log(tell))
		ended <- err
	}()
	w.await(tell, rollout.Canary, "held until")
	require.EqualValues(t, 2, scaler.decided("66m"), "two stable pods and one of the canary share it; two are needed")
	l.Store(400)
	require.EqualValues(t, 4, scaler.decided("133m"), "three pods share it; four are needed")
	w.sized("shop", 4)
	w.sized("shop-canary", 2)
	require.EqualValues(t, 4, scaler.decided("66m"), "six pods share it; four are needed still")
	_, err = w.cli("rollout", "abort", "shop")
	require.NoError(t, err)
	require.ErrorIs(t, <-ended, rollout.ErrAborted)
	require.EqualValues(t, 4, scaler.decided("100m"), "what is left carries all of it")
	w.settles(map[string]int{v1: 4})
	w.notOurs()
}
