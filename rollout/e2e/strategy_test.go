//go:build e2e

package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/health"
)

const stateful = `
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: db
        image: shop
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
`

func (w *world) statefulRequest(image string, bake time.Duration, steps ...rollout.Step) rollout.Request {
	r := w.request(image, bake, steps...)
	r.Release = w.release(stateful, image)
	return r
}

// lowest watches how few pods with the label ever serve until the returned
// function is called.
func (w *world) lowest(label string) func() int {
	w.Helper()
	watch, err := kube.CoreV1().Pods(w.namespace).Watch(w.ctx, metav1.ListOptions{LabelSelector: label})
	require.NoError(w, err)
	serving, lowest, started := map[string]bool{}, 0, false
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range watch.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			delete(serving, string(pod.UID))
			for _, c := range pod.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil {
					serving[string(pod.UID)] = true
				}
			}
			if !started { // until all that there are have been listed
				if started = len(serving) == 3; started {
					lowest = 3
				}
				continue
			}
			lowest = min(lowest, len(serving))
		}
	}()
	return func() int { watch.Stop(); <-done; return lowest }
}

func (w *world) set() *appsv1.StatefulSet {
	w.Helper()
	s, err := kube.AppsV1().StatefulSets(w.namespace).Get(w.ctx, "db", metav1.GetOptions{})
	require.NoError(w, err)
	return s
}

// ownSettings checks that the StatefulSet has back what a rollout changed.
func (w *world) ownSettings() {
	w.Helper()
	s := w.set()
	require.Zero(w, s.Spec.MinReadySeconds)
	if rolling := s.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
		require.Zero(w, *rolling.Partition)
	}
	require.Empty(w, s.Annotations["tidegate.dev/strategy"])
}

func TestStatefulSetMovesInBatches(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	_, err := w.controller().Start(w.ctx, w.statefulRequest(v1, 0), w.log(nil))
	require.NoError(t, err)
	w.settles(map[string]int{v1: 3})
	lowest := w.lowest("app=db")
	request := w.statefulRequest(v2, 2*time.Second)
	request.Strategy.Batch = "1"
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	require.Equal(t, 2, lowest(), "one pod at a time")
	w.settles(map[string]int{v2: 3})
	require.Len(t, result.Rollout.Gates, 3)
	require.Equal(t, rollout.BatchGate, result.Rollout.Gates[0].Kind)
	w.ownSettings()
	text, err := w.cli("rollout", "status", "shop")
	require.NoError(t, err)
	require.Contains(t, text, "in batches: StatefulSet/db")
	require.Contains(t, text, "batch 2: passed at")
}

// With no setting at all, a version that turns ready and crashes 2 s later
// costs one pod, and that comes back.
func TestStatefulSetCrashAfterReady(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2", "CRASH_AFTER_READY=2s")
	_, err := w.controller().Start(w.ctx, w.statefulRequest(v1, 0), w.log(nil))
	require.NoError(t, err)
	w.settles(map[string]int{v1: 3})
	lowest := w.lowest("app=db")
	request := w.statefulRequest(v2, 0)
	request.Bake = nil
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.RolledBack, result.Rollout.State, "%v", err)
	require.Equal(t, health.CrashLoop, result.Rollout.Failure.Reason)
	require.Equal(t, 2, lowest(), "never below the workload's own floor")
	w.settles(map[string]int{v1: 3})
	w.ownSettings()
}

// The StatefulSet controller waits for ever for a pod whose image cannot be
// pulled; going back does not.
func TestStatefulSetGoesBackPastAStuckPod(t *testing.T) {
	w := newWorld(t)
	v1 := image(t, "VERSION=1")
	_, err := w.controller().Start(w.ctx, w.statefulRequest(v1, 0), w.log(nil))
	require.NoError(t, err)
	// A budget that spares no pod does not keep a pod that serves nobody.
	none := intstr.FromInt32(0)
	_, err = kube.PolicyV1().PodDisruptionBudgets(w.namespace).Create(w.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &none, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	result, err := w.controller().Start(w.ctx, w.statefulRequest(images.Missing(), time.Second), w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, health.ImagePullFailed, result.Rollout.Failure.Reason)
	require.Equal(t, rollout.RolledBack, result.Rollout.State, "%v", err)
	w.settles(map[string]int{v1: 3})
	w.ownSettings()
}

// A verified version that breaks later must not keep its fix out.
func TestStatefulSetThatBrokeIsMended(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1", "CRASH_AFTER=15s"), image(t, "VERSION=2")
	_, err := w.controller().Start(w.ctx, w.statefulRequest(v1, 0), w.log(nil))
	require.NoError(t, err)
	watch, err := kube.CoreV1().Pods(w.namespace).Watch(w.ctx, metav1.ListOptions{LabelSelector: "app=db"})
	require.NoError(t, err)
	for event := range watch.ResultChan() {
		pod := event.Object.(*corev1.Pod)
		if len(pod.Status.ContainerStatuses) > 0 && pod.Name == "db-0" && pod.Status.ContainerStatuses[0].RestartCount >= 2 {
			break
		}
	}
	watch.Stop()
	request := w.statefulRequest(v2, time.Second)
	request.Deadline = 2 * time.Minute
	_, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	w.settles(map[string]int{v2: 3})
}

func TestStatefulSetCanary(t *testing.T) {
	w := newWorld(t)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	_, err := w.controller().Start(w.ctx, w.statefulRequest(v1, 0), w.log(nil))
	require.NoError(t, err)
	command, out := w.startFile(stateful, v2, "--canary", "20:3s", "--canary", "60:1s", "--bake", "1s")
	w.until("canary", func(r *rollout.Record) bool { return inCanary(1)(r) && !r.Current.StepReadyAt.IsZero() })
	require.Equal(t, map[string]int{v1: 2, v2: 1}, w.pods())
	require.NoError(t, command.Process.Kill())
	require.Error(t, command.Wait(), "%s", out)
	result, err := w.controller().Continue(w.ctx, w.target(), w.log(nil))
	require.NoError(t, err)
	require.Equal(t, rollout.Verified, result.Rollout.State)
	w.settles(map[string]int{v2: 3})
	w.ownSettings()

	command, out = w.startFile(stateful, v3, "--canary", "20:1h", "--bake", "1s")
	w.until("canary", func(r *rollout.Record) bool { return inCanary(1)(r) && !r.Current.StepReadyAt.IsZero() })
	_, err = w.cli("rollout", "abort", "shop")
	require.NoError(t, err)
	require.Error(t, command.Wait(), "%s", out)
	w.settles(map[string]int{v2: 3})
	w.ownSettings()
}

func TestDaemonSetCrashAfterReady(t *testing.T) {
	w := newWorld(t)
	daemon := strings.NewReplacer("StatefulSet", "DaemonSet", "  replicas: 3\n", "", "  serviceName: db\n", "").Replace(stateful)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2", "CRASH_AFTER_READY=2s"), image(t, "VERSION=3")
	request := w.request(v1, 0)
	request.Release = w.release(daemon, v1)
	_, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	request.Release, request.Bake = w.release(daemon, v2), nil
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.RolledBack, result.Rollout.State)
	w.settles(map[string]int{v1: 1})
	bake := time.Second
	request.Release, request.Bake = w.release(daemon, v3), &bake
	_, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	d, err := kube.AppsV1().DaemonSets(w.namespace).Get(w.ctx, "db", metav1.GetOptions{})
	require.NoError(t, err)
	require.Zero(t, d.Spec.MinReadySeconds, "its own setting came back")
}

func TestRecreate(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	watch, err := kube.CoreV1().Pods(w.namespace).Watch(w.ctx, metav1.ListOptions{LabelSelector: "app=shop"})
	require.NoError(t, err)
	together := make(chan bool, 1)
	go func() {
		running, both := map[string]string{}, false
		for event := range watch.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			delete(running, string(pod.UID))
			for _, s := range pod.Status.ContainerStatuses {
				if s.State.Running != nil {
					running[string(pod.UID)] = pod.Spec.Containers[0].Image
				}
			}
			versions := map[string]bool{}
			for _, version := range running {
				versions[version] = true
			}
			both = both || len(versions) > 1
		}
		together <- both
	}()
	command, out := w.start(v2, "--strategy", "recreate", "--bake", "1s")
	require.NoError(t, command.Wait(), "%s", out)
	require.Contains(t, out.String(), "recreate has an outage")
	w.settles(map[string]int{v2: 3})
	watch.Stop()
	require.False(t, <-together, "two versions ran at once")
	rolls := func() {
		d, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, appsv1.RollingUpdateDeploymentStrategyType, d.Spec.Strategy.Type, "its own strategy came back")
		require.EqualValues(t, 1, d.Spec.Strategy.RollingUpdate.MaxSurge.IntValue())
		require.Zero(t, d.Spec.MinReadySeconds)
	}
	rolls()

	command, out = w.start(images.Missing(), "--strategy", "recreate", "--bake", "1s")
	var exit *exec.ExitError
	require.ErrorAs(t, command.Wait(), &exit, "%s", out)
	require.Equal(t, 1, exit.ExitCode())
	w.settles(map[string]int{v2: 3})
	rolls()
}
