//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/internal/kwok"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// unscheduledPods waits until the scheduler has found no node for n pods.
func (w *world) unscheduledPods(n int) []corev1.Pod {
	w.Helper()
	watch, err := kube.CoreV1().Pods(w.namespace).Watch(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	defer watch.Stop()
	found := map[string]corev1.Pod{}
	for event := range watch.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok {
			continue
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
				found[pod.Name] = *pod
			}
		}
		if len(found) == n {
			break
		}
	}
	require.Len(w, found, n)
	var pods []corev1.Pod
	for name := range found {
		pods = append(pods, found[name])
	}
	return pods
}

// says is what a cluster autoscaler says of a pod.
func (w *world) says(pod *corev1.Pod, reason, message string) {
	w.Helper()
	now := metav1.Now()
	_, err := kube.CoreV1().Events(w.namespace).Create(w.ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{GenerateName: "autoscaler-"}, Type: corev1.EventTypeNormal,
		Reason: reason, Message: message, Count: 1, FirstTimestamp: now, LastTimestamp: now, Source: corev1.EventSource{Component: "cluster-autoscaler"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: w.namespace, Name: pod.Name, UID: pod.UID, APIVersion: "v1"}}, metav1.CreateOptions{})
	require.NoError(w, err)
}

// Pods that have no node are waited for while an autoscaler brings one; what it
// cannot bring is said in its own words.
func TestNodesOfAnAutoscalerAreWaitedFor(t *testing.T) {
	w := newWorld(t)
	request := w.request(image(t, "VERSION=1"), 0)
	request.Release = w.release(w.onPlayedNodes(2), image(t, "VERSION=1"))
	controller, tell, ended := w.controller(), w.told(), make(chan error, 1)
	go func() {
		_, err := controller.Start(w.ctx, request, w.log(tell))
		ended <- err
	}()
	pods := w.unscheduledPods(2)
	for i := range pods {
		w.says(&pods[i], "TriggeredScaleUp", "pod triggered scale-up: [{pool 1->2 (max: 5)}]")
	}
	w.await(tell, rollout.Rolling, "waiting for a node that the cluster autoscaler brings: TriggeredScaleUp: pod triggered scale-up: [{pool 1->2 (max: 5)}]")
	w.playedNode("a")
	require.NoError(t, <-ended)

	large := strings.Replace(w.onPlayedNodes(2), "        image: shop", "        image: shop\n        resources: {requests: {cpu: 5000}}", 1)
	request = w.request(image(t, "VERSION=2"), 0, rollout.Step{Weight: 50, Hold: time.Hour})
	request.Release = w.release(large, image(t, "VERSION=2"))
	tell = w.told()
	go func() {
		_, err := controller.Start(w.ctx, request, w.log(tell))
		ended <- err
	}()
	pods = w.unscheduledPods(1)
	w.says(&pods[0], "NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached")
	w.await(tell, rollout.Canary, "the cluster autoscaler brings no node: pod didn't trigger scale-up: 1 max node group size reached")
	_, err := w.cli("rollout", "abort", "shop")
	require.NoError(t, err)
	require.ErrorIs(t, <-ended, rollout.ErrAborted)
}

// What the cluster does to pods, an eviction or a node that is lost, is not held
// against the version that they run.
func TestPodsThatTheClusterTakesAwayAreReplaced(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	evicted := w.doom(kwok.Evicted, func(pod *corev1.Pod) bool { return strings.HasPrefix(pod.Name, "shop-canary-") })
	first := w.playedNode("a")
	request := w.request(v1, 0)
	request.Release = w.release(w.onPlayedNodes(4), v1)
	_, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)

	request = w.request(v2, 0, rollout.Step{Weight: 50, Hold: time.Hour})
	request.Release = w.release(w.onPlayedNodes(4), v2)
	controller, tell, ended := w.controller(), w.told(), make(chan error, 1)
	go func() {
		_, err := controller.Start(w.ctx, request, w.log(tell))
		ended <- err
	}()
	w.met(evicted, "the eviction")
	w.await(tell, rollout.Canary, "held until")
	w.settles(map[string]int{v1: 4, v2: 2})
	w.playedNode("b")
	first.lose()
	w.settles(map[string]int{v1: 4, v2: 2}) // on the other node
	w.await(tell, rollout.Canary, "held until")
	_, err = w.cli("rollout", "promote", "shop")
	require.NoError(t, err)
	require.NoError(t, <-ended)
	w.settles(map[string]int{v2: 4})
}

// A hundred pods: one that crashes after it was ready is found among ten, and
// the version that mends it goes out.
func TestAHundredPods(t *testing.T) {
	w := newWorld(t)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	crashed := w.doom(kwok.Crashed, func(pod *corev1.Pod) bool { return pod.Spec.Containers[0].Image == v2 })
	w.playedNode("a")
	start := func(image string, steps ...rollout.Step) (rollout.Result, error) {
		request := w.request(image, 0, steps...)
		request.Release = w.release(strings.Replace(w.onPlayedNodes(100), "maxSurge: 1", "maxSurge: 25%", 1), image)
		began := time.Now()
		result, err := w.controller().Start(w.ctx, request, w.log(nil))
		t.Logf("%s in %s", result.Rollout.State, time.Since(began).Round(10*time.Millisecond))
		return result, err
	}
	_, err := start(v1)
	require.NoError(t, err)
	before := w.version("Deployment", "shop")
	result, err := start(v2, rollout.Step{Weight: 10, Hold: time.Minute})
	w.met(crashed, "the crash")
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, health.CrashedAfterReady, result.Rollout.Failure.Reason)
	require.Equal(t, before, w.version("Deployment", "shop"), "the stable workload was not written to")
	require.Equal(t, 100, w.pods()[v1])
	_, err = start(v3, rollout.Step{Weight: 10}, rollout.Step{Weight: 50})
	require.NoError(t, err)
	w.settles(map[string]int{v3: 100})
}

// The controller of a StatefulSet says by events alone that its pods are refused.
func TestQuotaOfAStatefulSetFailsFast(t *testing.T) {
	w := newWorld(t)
	_, err := kube.CoreV1().ResourceQuotas(w.namespace).Create(w.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "full"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	objects, err := manifest.Parse("db.yaml", fmt.Appendf(nil, `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: db, image: %q}]}
`, image(t, "VERSION=1")))
	require.NoError(t, err)
	request := w.request(image(t, "VERSION=1"), 0)
	request.Deadline = 4 * time.Minute
	request.Release, err = manifest.New(w.ctx, objects, manifest.Options{Namespace: w.namespace})
	require.NoError(t, err)
	began := time.Now()
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, health.PodCreationRefused, result.Rollout.Failure.Reason)
	require.Contains(t, result.Rollout.Failure.Message, "exceeded quota")
	require.Less(t, result.Rollout.Finished.Sub(result.Rollout.Started), request.Deadline)
	t.Logf("failed after %s", time.Since(began).Round(time.Millisecond))
}
