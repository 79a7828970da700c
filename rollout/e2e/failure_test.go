//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// firstPullError returns when the kubelet first reported that it cannot pull.
func (w *world) firstPullError(ctx context.Context) <-chan time.Time {
	seen := make(chan time.Time, 1)
	watch, err := kube.CoreV1().Pods(w.namespace).Watch(ctx, metav1.ListOptions{})
	require.NoError(w, err)
	go func() {
		defer watch.Stop()
		for event := range watch.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			for _, s := range pod.Status.ContainerStatuses {
				if s.State.Waiting != nil && strings.Contains(s.State.Waiting.Reason, "ImagePull") {
					seen <- time.Now()
					return
				}
			}
		}
	}()
	return seen
}

func TestImageThatCannotBePulled(t *testing.T) {
	for name, steps := range map[string][]rollout.Step{"rolling": nil, "canary": {{Weight: 20}}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			v1 := image(t, "VERSION=1")
			w.startVerified(v1)
			ctx, cancel := context.WithCancel(w.ctx)
			defer cancel()
			seen := w.firstPullError(ctx)
			result, err := w.controller().Start(w.ctx, w.request(images.Missing(), 10*time.Second, steps...), w.log(nil))
			ended := time.Now()
			require.ErrorIs(t, err, rollout.ErrFailed)
			require.Equal(t, health.ImagePullFailed, result.Rollout.Failure.Reason)
			require.Contains(t, err.Error(), "not found")
			require.Equal(t, 3, w.pods()[v1], "all old pods serve")
			w.noCanary()
			t.Logf("from the kubelet's first report to rolled back: %s", ended.Sub(<-seen).Round(time.Millisecond))
		})
	}
}

func TestRejectedManifestChangesNothing(t *testing.T) {
	w := newWorld(t)
	v1 := image(t, "VERSION=1")
	w.startVerified(v1)
	before, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	bad := strings.Replace(shop, "port: 80,", "port: 99999,", 1)
	bad = strings.Replace(bad, "GREETING: hello", "GREETING: good bye", 1)
	request := w.request(v1, 0)
	request.Release = w.release(bad, image(t, "VERSION=2"))
	_, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrRejected)
	require.Contains(t, err.Error(), "Service/shop")
	after, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, before.ResourceVersion, after.ResourceVersion)
	maps, err := kube.CoreV1().ConfigMaps(w.namespace).List(w.ctx, metav1.ListOptions{LabelSelector: manifest.LabelApp + "=shop,!tidegate.dev/record"})
	require.NoError(t, err)
	require.Len(t, maps.Items, 1)
	history, err := w.controller().History(w.ctx, w.target())
	require.NoError(t, err)
	require.Equal(t, rollout.ManifestRejected, history[0].Failure.Reason)
}

func TestFirstReleaseFails(t *testing.T) {
	w := newWorld(t)
	result, err := w.controller().Start(w.ctx, w.request(images.Missing(), 0), w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.Failed, result.Rollout.State)
	v2 := image(t, "VERSION=2")
	w.startVerified(v2)
	w.settles(map[string]int{v2: 3})
}

func TestTakenOverDeploymentIsPutBack(t *testing.T) {
	w := newWorld(t)
	v1 := image(t, "VERSION=1")
	plain := strings.ReplaceAll(shop, "image: shop", "env: [{name: OLD, value: \"1\"}]\n        image: "+v1)
	apply := exec.CommandContext(w.ctx, "kubectl", "apply", "-n", w.namespace, "-f", "-")
	apply.Stdin = strings.NewReader(plain)
	out, err := apply.CombinedOutput()
	require.NoError(t, err, "%s", out)
	wait := exec.CommandContext(w.ctx, "kubectl", "rollout", "status", "-n", w.namespace, "deployment/shop")
	out, err = wait.CombinedOutput()
	require.NoError(t, err, "%s", out)

	_, err = w.controller().Start(w.ctx, w.request(images.Missing(), 0), w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	w.settles(map[string]int{v1: 3})
	d, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "shop", d.Spec.Template.Spec.Containers[0].EnvFrom[0].ConfigMapRef.Name, "with the configuration it had")
	require.Len(t, d.Spec.Template.Spec.Containers[0].EnvFrom, 1)
	require.Len(t, d.Spec.Template.Spec.Containers[0].Env, 1)

	w.startVerified(v1)
	d, err = kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	require.Empty(t, d.Spec.Template.Spec.Containers[0].Env, "what the manifests leave out is gone")
}

// start runs the real binary in the background.
func (w *world) start(image string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	w.Helper()
	return w.startFile(shop, image, args...)
}

func (w *world) startFile(manifests, image string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	w.Helper()
	dir := w.TempDir()
	require.NoError(w, os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte(manifests), 0o600))
	command := exec.Command(tidegate, append([]string{"rollout", "start", "shop", "-n", w.namespace, "-f", "shop.yaml", "--image", "shop=" + image}, args...)...)
	command.Dir = dir
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	require.NoError(w, command.Start())
	return command, &out
}

// until waits until the record says so.
func (w *world) until(what string, check func(*rollout.Record) bool) {
	w.Helper()
	for {
		err := w.controller().Watch(w.ctx, w.target(), func(record *rollout.Record) bool { return !check(record) })
		if err == nil {
			return
		}
		require.True(w, errors.Is(err, rollout.ErrNotFound) && w.ctx.Err() == nil, "%s: %v", what, err)
	}
}

func inCanary(step int) func(*rollout.Record) bool {
	return func(r *rollout.Record) bool {
		return r.Live() && r.Current.State == rollout.Canary && r.Current.Step == step
	}
}

func TestKilledInCanaryIsContinued(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	command, out := w.start(v2, "--canary", "20:3s", "--canary", "50", "--bake", "1s")
	w.until("canary", func(r *rollout.Record) bool { return inCanary(1)(r) && !r.Current.StepReadyAt.IsZero() })
	require.NoError(t, command.Process.Kill())
	require.Error(t, command.Wait(), "%s", out)
	result, err := w.controller().Continue(w.ctx, w.target(), w.log(nil))
	require.NoError(t, err)
	require.Equal(t, rollout.Verified, result.Rollout.State)
	w.settles(map[string]int{v2: 3})
	w.noCanary()
}

func TestNewerReleaseSupersedesCanary(t *testing.T) {
	w := newWorld(t)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	w.startVerified(v1)
	command, out := w.start(v2, "--canary", "20:1h", "--bake", "0s")
	w.until("canary", inCanary(1))
	result, err := w.controller().Start(w.ctx, w.request(v3, 0, rollout.Step{Weight: 50}), w.log(nil))
	require.NoError(t, err)
	require.Equal(t, 3, result.Rollout.Revision)
	require.Equal(t, 1, result.Rollout.Base, "the one to go back to is the last verified one")
	var exit *exec.ExitError
	require.ErrorAs(t, command.Wait(), &exit)
	require.Equal(t, 4, exit.ExitCode(), "%s", out)
	w.settles(map[string]int{v3: 3})
	w.noCanary()
}

func (w *world) cli(args ...string) (string, error) {
	out, err := exec.CommandContext(w.ctx, tidegate, append(args, "-n", w.namespace, "--by", "oncall")...).CombinedOutput()
	w.Logf("%v: %s", args, out)
	return string(out), err
}

func TestCommandsFromAnotherProcess(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)

	first, out := w.start(v2, "--canary", "20:1h", "--canary", "50:1h", "--bake", "0s")
	w.until("step 1", inCanary(1))
	_, err := w.cli("rollout", "pause", "shop")
	require.NoError(t, err)
	_, err = w.cli("rollout", "promote", "shop")
	require.NoError(t, err)
	w.until("step 2", inCanary(2))
	_, err = w.cli("rollout", "abort", "shop")
	require.NoError(t, err)
	require.Error(t, first.Wait(), "%s", out)
	require.Contains(t, out.String(), "aborted by oncall")
	_, err = w.cli("rollout", "abort", "shop") // repeats harmlessly
	require.NoError(t, err)
	text, err := w.cli("rollout", "promote", "shop")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 3, exit.ExitCode())
	require.Contains(t, text, "rolled back")
	w.settles(map[string]int{v1: 3})
	w.noCanary()

	second, out := w.start(v2, "--canary", "20:1h", "--canary", "50:1h", "--bake", "0s")
	w.until("step 1", inCanary(1))
	_, err = w.cli("rollout", "promote", "shop", "--full")
	require.NoError(t, err)
	require.NoError(t, second.Wait(), "%s", out)
	w.settles(map[string]int{v2: 3})
	_, err = w.cli("rollout", "history", "shop")
	require.NoError(t, err)
	_, err = w.cli("rollout", "status", "shop")
	require.NoError(t, err)

	// With no process driving it, the command line does.
	third, _ := w.start(image(t, "VERSION=3"), "--canary", "20:1h", "--bake", "0s")
	w.until("step 1", inCanary(1))
	require.NoError(t, third.Process.Signal(os.Interrupt))
	require.Error(t, third.Wait())
	_, err = w.cli("rollout", "abort", "shop")
	require.NoError(t, err)
	w.settles(map[string]int{v2: 3})
	w.noCanary()
	_, err = w.cli("rollout", "rollback", "shop", "--to", "1")
	require.NoError(t, err)
	w.settles(map[string]int{v1: 3})
}

func TestReplicasBelongToTheAutoscaler(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	scaled := shop + `
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: shop}
spec: {minReplicas: 4, maxReplicas: 6, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}}
`
	request := w.request(v2, 0)
	request.Release = w.release(scaled, v2)
	_, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	watch, err := kube.AppsV1().Deployments(w.namespace).Watch(w.ctx, metav1.ListOptions{})
	require.NoError(t, err)
	defer watch.Stop()
	for event := range watch.ResultChan() { // the autoscaler's own period decides when
		replicas := *event.Object.(*appsv1.Deployment).Spec.Replicas
		require.GreaterOrEqual(t, replicas, int32(3))
		if replicas == 4 {
			break
		}
	}
	request.Release = w.release(scaled, image(t, "VERSION=3"))
	_, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	live, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 4, *live.Spec.Replicas)
}
