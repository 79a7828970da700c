//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegate-ci/tidegate/rollout"
)

// asks runs the real binary against the world's namespace and returns its
// standard output and exit status.
func (w *world) asks(args ...string) (string, int) {
	w.Helper()
	command := exec.CommandContext(w.ctx, tidegate, append([]string{"rollout", "-n", w.namespace, "--by", "oncall"}, args...)...)
	out, err := command.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		w.Logf("tidegate rollout %s: %s", strings.Join(args, " "), failed.Stderr)
		return string(out), failed.ExitCode()
	}
	require.NoError(w, err)
	return string(out), 0
}

// podNames are those of the pods that are not ending, Jobs' aside.
func (w *world) podNames() map[string]bool {
	w.Helper()
	pods, err := kube.CoreV1().Pods(w.namespace).List(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	all := map[string]bool{}
	for _, pod := range pods.Items {
		if owner := metav1.GetControllerOf(&pod); pod.DeletionTimestamp == nil && (owner == nil || owner.Kind != "Job") {
			all[pod.Name] = true
		}
	}
	return all
}

const secretShop = shop + `
---
apiVersion: v1
kind: Secret
metadata: {name: password, annotations: {tidegate.dev/versioned: "false"}}
stringData: {password: c4n4ry-before}
`

func TestDiffShowsDriftAndNoSecret(t *testing.T) {
	w := newWorld(t)
	v1 := image(t, "VERSION=1")
	request := w.request(v1, 0)
	request.Release = w.release(secretShop, v1)
	_, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	out, code := w.asks("diff", "shop")
	require.Zero(t, code, out)
	require.Contains(t, out, "as revision 1 has it")

	for _, patch := range []struct{ kind, name, body string }{
		{"deployments", "shop", `{"spec":{"replicas":4}}`},
		{"secrets", "password", `{"stringData":{"password":"c4n4ry-after"}}`},
	} {
		client := kube.AppsV1().RESTClient()
		if patch.kind == "secrets" {
			client = kube.CoreV1().RESTClient()
		}
		require.NoError(t, client.Patch(types.StrategicMergePatchType).Namespace(w.namespace).Resource(patch.kind).Name(patch.name).
			Param("fieldManager", "somebody").Body([]byte(patch.body)).Do(w.ctx).Error())
	}
	require.NoError(t, kube.CoreV1().Services(w.namespace).Delete(w.ctx, "shop", metav1.DeleteOptions{}))
	out, code = w.asks("diff", "shop")
	require.Equal(t, 1, code, out)
	for _, part := range []string{"Service/shop", "does not exist", "Deployment/shop", "somebody", "spec.replicas", "Secret/password", "data.password"} {
		require.Contains(t, out, part)
	}
	encoded, code := w.asks("diff", "shop", "-o", "json")
	require.Equal(t, 1, code)
	var drift rollout.Drift
	require.NoError(t, json.Unmarshal([]byte(encoded), &drift))
	require.Len(t, drift.Objects, 3)
	for _, text := range []string{out, encoded} {
		require.NotContains(t, text, "c4n4ry")
		require.NotContains(t, text, "YzRuNHJ5") // the same in base64
	}
	request.Force = true
	_, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	out, code = w.asks("diff", "shop")
	require.Zero(t, code, out)
}

func TestRetryAfterTheCauseIsGone(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	// No room for one pod more: the rolling update cannot begin.
	quota, err := kube.CoreV1().ResourceQuotas(w.namespace).Create(w.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "full"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("3")}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = w.controller().Start(w.ctx, w.request(v2, 0), w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	w.settles(map[string]int{v1: 3})
	require.NoError(t, kube.CoreV1().ResourceQuotas(w.namespace).Delete(w.ctx, quota.Name, metav1.DeleteOptions{}))
	out, code := w.asks("retry", "shop")
	require.Zero(t, code, out)
	w.settles(map[string]int{v2: 3})
	record, _, err := w.controller().Status(w.ctx, w.target())
	require.NoError(t, err)
	require.Equal(t, 3, record.Verified)
	require.Equal(t, "oncall", record.Current.By)
	require.Contains(t, record.Current.Note, "revision 2 again")
	out, code = w.asks("retry", "shop")
	require.Zero(t, code)
	require.Contains(t, out, "nothing to do")
}

func TestRestartReplacesAllPodsOnce(t *testing.T) {
	w := newWorld(t)
	v1 := image(t, "VERSION=1")
	w.startVerified(v1)
	before := w.podNames()
	out, code := w.asks("restart", "shop")
	require.Zero(t, code, out)
	w.settles(map[string]int{v1: 3})
	after := w.podNames()
	for name := range after {
		require.NotContains(t, before, name)
	}
	record, _, err := w.controller().Status(w.ctx, w.target())
	require.NoError(t, err)
	require.Equal(t, 2, record.Verified)
	require.NotEmpty(t, record.Current.Gates, "it passed a gate")
	// The same release again changes nothing: the restart is not undone.
	result, err := w.controller().Start(w.ctx, w.request(v1, 0), w.log(nil))
	require.NoError(t, err)
	require.True(t, result.Unchanged)
	out, code = w.asks("diff", "shop")
	require.Zero(t, code, out)
}

func TestForgetLeavesWhatRunsAsItIs(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	ctx := w.ctx
	before, err := kube.AppsV1().Deployments(w.namespace).Get(ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)

	names := w.podNames()

	// Refused while something is under way.
	tell := w.told()
	ended := make(chan error, 1)
	go func() {
		_, err := w.controller().Start(ctx, w.request(v2, 0, rollout.Step{Weight: 34, Hold: time.Minute}), w.log(tell))
		ended <- err
	}()
	w.await(tell, rollout.Canary, "held")
	_, code := w.asks("forget", "shop")
	require.Equal(t, 3, code)
	_, code = w.asks("abort", "shop")
	require.Zero(t, code)
	require.ErrorIs(t, <-ended, rollout.ErrAborted)

	out, code := w.asks("forget", "shop")
	require.Zero(t, code, out)
	after, err := kube.AppsV1().Deployments(w.namespace).Get(ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, before.Spec, after.Spec)
	require.Equal(t, before.UID, after.UID)
	require.Equal(t, names, w.podNames(), "no pod was replaced")
	for key := range after.Labels {
		require.NotContains(t, key, "tidegate.dev")
	}
	for key := range after.Annotations {
		require.NotContains(t, key, "tidegate.dev")
	}
	for _, owner := range after.ManagedFields {
		require.NotContains(t, owner.Manager, "tidegate")
	}
	require.Equal(t, 3, w.pods()[v1])
	name := "tidegate-shop"
	_, err = kube.CoreV1().ConfigMaps(w.namespace).Get(ctx, name, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	leases, err := kube.CoordinationV1().Leases(w.namespace).List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Empty(t, leases.Items)
	secrets, err := kube.CoreV1().Secrets(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: "tidegate.dev/record=true"})
	require.NoError(t, err)
	require.Empty(t, secrets.Items)
	events, err := kube.CoreV1().Events(w.namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=Forgotten"})
	require.NoError(t, err)
	require.Len(t, events.Items, 1)
	require.Contains(t, events.Items[0].Message, "oncall")

	out, code = w.asks("forget", "shop")
	require.Zero(t, code, "repeats harmlessly")
	require.Contains(t, out, "nothing is known")
	// It can be taken over again, and what ran before is the revision to go back to.
	result := w.startVerified(v2)
	require.Equal(t, 2, result.Rollout.Revision)
}

// The plan of a release names the steps and writes that the release then
// makes, and planning changes nothing.
func TestPlanWritesNothingAndComesTrue(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	everything := func() map[string]string {
		versions := map[string]string{}
		deployments, err := kube.AppsV1().Deployments(w.namespace).List(w.ctx, metav1.ListOptions{})
		require.NoError(t, err)
		for _, d := range deployments.Items {
			versions["Deployment/"+d.Name] = d.ResourceVersion
		}
		configs, err := kube.CoreV1().ConfigMaps(w.namespace).List(w.ctx, metav1.ListOptions{LabelSelector: "tidegate.dev/app"})
		require.NoError(t, err)
		for _, c := range configs.Items {
			versions["ConfigMap/"+c.Name] = c.ResourceVersion
		}
		secrets, err := kube.CoreV1().Secrets(w.namespace).List(w.ctx, metav1.ListOptions{LabelSelector: "tidegate.dev/app"})
		require.NoError(t, err)
		for _, s := range secrets.Items {
			versions["Secret/"+s.Name] = s.ResourceVersion
		}
		leases, err := kube.CoordinationV1().Leases(w.namespace).List(w.ctx, metav1.ListOptions{})
		require.NoError(t, err)
		for _, l := range leases.Items {
			versions["Lease/"+l.Name] = l.ResourceVersion
		}
		return versions
	}
	first, err := w.controller().Plan(w.ctx, w.request(v1, 0))
	require.NoError(t, err)
	require.Equal(t, 1, first.Revision)
	require.Empty(t, everything())
	w.startVerified(v1)

	before := everything()
	request := w.request(v2, time.Second, rollout.Step{Weight: 34}, rollout.Step{Weight: 67, Hold: 2 * time.Second})
	plan, err := w.controller().Plan(w.ctx, request)
	require.NoError(t, err)
	require.False(t, plan.Refused())
	require.Equal(t, before, everything(), "planning writes nothing")
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	require.Equal(t, plan.Revision, result.Rollout.Revision)
	var gates []string
	for _, step := range plan.Steps {
		for _, gate := range step.Gates {
			kind, _, _ := strings.Cut(gate, ":")
			gates = append(gates, kind)
		}
	}
	require.Len(t, result.Rollout.Gates, len(gates))
	for i, gate := range result.Rollout.Gates {
		require.Equal(t, gates[i], gate.Kind)
	}
	require.GreaterOrEqual(t, result.Rollout.Finished.Sub(result.Rollout.Started), plan.Earliest)
	again, err := w.controller().Plan(w.ctx, request)
	require.NoError(t, err)
	require.True(t, again.Unchanged)
}
