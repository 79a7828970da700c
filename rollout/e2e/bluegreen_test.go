//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/health"
)

// graceful pods serve on while the news of their end spreads, as every workload
// should whose Service is to lose no request.
var graceful = strings.NewReplacer("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 10",
	"        envFrom:", "        lifecycle: {preStop: {sleep: {seconds: 3}}}\n        envFrom:").Replace(shop)

func (w *world) blueGreen(image string, bake, hold, keep time.Duration) rollout.Request {
	r := w.request(image, bake)
	r.Release = w.release(graceful, image)
	r.Strategy = rollout.Strategy{Kind: rollout.BlueGreenStrategy, BlueGreen: &rollout.BlueGreen{Hold: hold, KeepOld: &keep}}
	return r
}

func (w *world) gracefulVerified(image string) {
	w.Helper()
	r := w.request(image, 0)
	r.Release = w.release(graceful, image)
	_, err := w.controller().Start(w.ctx, r, w.log(nil))
	require.NoError(w, err)
	w.answersWith("shop", "1") // kube-proxy has seen the new Service
}

func (w *world) version(kind, name string) string {
	w.Helper()
	var object metav1.Object
	var err error
	switch kind {
	case "Service":
		object, err = kube.CoreV1().Services(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
	case "Deployment":
		object, err = kube.AppsV1().Deployments(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
	}
	require.NoError(w, err)
	return object.GetResourceVersion()
}

// nothingLeft waits until no trace of blue-green is left.
func (w *world) nothingLeft() {
	w.Helper()
	live, err := kube.CoreV1().Services(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(w, err)
	require.Equal(w, map[string]string{"app": "shop"}, live.Spec.Selector)
	_, err = kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop-preview", metav1.GetOptions{})
	require.True(w, apierrors.IsNotFound(err), "the preview is still there: %v", err)
	watch, err := kube.CoreV1().Services(w.namespace).Watch(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	defer watch.Stop()
	for {
		_, err = kube.CoreV1().Services(w.namespace).Get(w.ctx, "shop-preview", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return
		}
		_, ok := <-watch.ResultChan()
		require.True(w, ok, "the preview Service is still there")
	}
}

func switched(r *rollout.Record) bool {
	return r.Live() && r.Current.State == rollout.Switched && !r.Current.StepReadyAt.IsZero()
}

func TestBlueGreenSwitchesAtOnce(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.gracefulVerified(v1)
	service, deployment := w.version("Service", "shop"), w.version("Deployment", "shop")
	live := w.stream("shop")
	tell := w.told()
	done := make(chan error, 1)
	var result rollout.Result
	go func() {
		var err error
		result, err = w.controller().Start(w.ctx, w.blueGreen(v2, time.Second, 3*time.Second, 3*time.Second), w.log(tell))
		done <- err
	}()
	w.await(tell, rollout.Preview, "all pods are up")
	w.answersWith("shop-preview", "2")
	require.Equal(t, service, w.version("Service", "shop"), "the live Service was not written to")
	require.Equal(t, deployment, w.version("Deployment", "shop"), "the stable workload was not written to")
	w.await(tell, rollout.Switched, "switched: ")
	w.answersWith("shop", "2")
	require.Equal(t, 3, w.pods()[v1], "the old pods are kept")
	require.Equal(t, deployment, w.version("Deployment", "shop"), "the stable workload was not written to")
	require.NoError(t, <-done)
	answered, mixed := live.end("1", "2")
	t.Logf("answered %v", answered)
	require.Empty(t, live.failures)
	require.Zero(t, mixed, "requests went to the old version after the switch")
	require.Len(t, result.Rollout.Gates, 3)
	w.settles(map[string]int{v2: 3})
	w.nothingLeft()
}

func TestBlueGreenReturnsInOneWrite(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.gracefulVerified(v1)
	deployment := w.version("Deployment", "shop")
	live := w.stream("shop")
	command, out := w.startFile(graceful, v2, "--strategy", "blue-green", "--keep-old", "1h", "--bake", "1s")
	w.until("switched", switched)
	w.answersWith("shop", "2")
	text, err := w.cli("rollout", "status", "shop")
	require.NoError(t, err)
	require.Contains(t, text, "kept until")
	require.Contains(t, text, "Service/shop (preview: shop-preview)")
	began := time.Now()
	_, err = w.cli("rollout", "abort", "shop")
	require.NoError(t, err)
	w.answersWith("shop", "1")
	t.Logf("from the command to the old version's answer: %s", time.Since(began).Round(time.Millisecond))
	require.Error(t, command.Wait(), "%s", out)
	require.Contains(t, out.String(), "aborted by oncall")
	w.settles(map[string]int{v1: 3})
	back, _ := live.end("2", "none")
	t.Logf("answered %v", back)
	require.Empty(t, live.failures)
	require.Equal(t, deployment, w.version("Deployment", "shop"), "the stable workload was not written to")
	w.nothingLeft()
}

// With no setting at all, a version that turns ready and crashes 2 s later never
// answers a request.
func TestBlueGreenCrashAfterReadyGetsNoTraffic(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2", "CRASH_AFTER_READY=2s")
	w.gracefulVerified(v1)
	service, deployment := w.version("Service", "shop"), w.version("Deployment", "shop")
	live := w.stream("shop")
	request := w.blueGreen(v2, 0, 0, 0)
	request.Bake, request.Strategy.BlueGreen = nil, nil
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, health.CrashedAfterReady, result.Rollout.Failure.Reason)
	require.Contains(t, result.Rollout.Failure.Log, "fatal: out of cheese")
	answered, _ := live.end("1", "2")
	require.Empty(t, live.failures)
	require.Zero(t, answered["2"])
	require.Equal(t, service, w.version("Service", "shop"))
	require.Equal(t, deployment, w.version("Deployment", "shop"))
	require.Equal(t, 3, w.pods()[v1])
	w.nothingLeft()
}

// What breaks under live traffic is taken back by the same write.
func TestBlueGreenFailsAfterTheSwitch(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2", "CRASH_AFTER_REQUEST=1s")
	w.gracefulVerified(v1)
	deployment := w.version("Deployment", "shop")
	tell := w.told()
	done := make(chan error, 1)
	var result rollout.Result
	go func() {
		var err error
		result, err = w.controller().Start(w.ctx, w.blueGreen(v2, time.Second, 0, time.Hour), w.log(tell))
		done <- err
	}()
	w.await(tell, rollout.Switched, "switched: ")
	w.answersWith("shop", "2")
	require.ErrorIs(t, <-done, rollout.ErrFailed)
	require.Equal(t, health.CrashedAfterReady, result.Rollout.Failure.Reason)
	w.answersWith("shop", "1")
	require.Equal(t, deployment, w.version("Deployment", "shop"))
	require.Equal(t, 3, w.pods()[v1])
	w.nothingLeft()
}

func TestBlueGreenIsContinuedAndSuperseded(t *testing.T) {
	w := newWorld(t)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	w.gracefulVerified(v1)
	live := w.stream("shop")
	command, out := w.startFile(graceful, v2, "--strategy", "blue-green", "--keep-old", "4s", "--bake", "1s")
	w.until("switched", switched)
	require.NoError(t, command.Process.Kill())
	require.Error(t, command.Wait(), "%s", out)
	result, err := w.controller().Continue(w.ctx, w.target(), w.log(nil))
	require.NoError(t, err)
	require.Equal(t, rollout.Verified, result.Rollout.State)
	w.settles(map[string]int{v2: 3})

	command, out = w.startFile(graceful, v3, "--strategy", "blue-green", "--keep-old", "1h", "--bake", "1s")
	w.until("switched", switched)
	w.answersWith("shop", "3")
	result, err = w.controller().Start(w.ctx, w.blueGreen(image(t, "VERSION=4"), time.Second, 0, time.Second), w.log(nil))
	require.NoError(t, err)
	require.Equal(t, 2, result.Rollout.Base, "the one to go back to is the last verified one")
	require.Error(t, command.Wait(), "%s", out)
	w.answersWith("shop", "4")
	answered, _ := live.end("", "")
	t.Logf("answered %v", answered)
	require.Empty(t, live.failures)
	w.nothingLeft()
}

func TestBlueGreenKeepsOthersServices(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.gracefulVerified(v1)
	_, err := kube.CoreV1().Services(w.namespace).Create(w.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "shop-preview"},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "other"}, Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = w.controller().Start(w.ctx, w.blueGreen(v2, 0, 0, 0), w.log(nil))
	require.ErrorIs(t, err, rollout.ErrRejected)
	require.ErrorContains(t, err, "shop-preview")
	require.Equal(t, 3, w.pods()[v1])
}
