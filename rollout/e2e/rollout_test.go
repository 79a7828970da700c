//go:build e2e

package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/health"
)

func TestRollingThenRollback(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	require.Equal(t, 1, w.startVerified(v1).Rollout.Revision)
	w.settles(map[string]int{v1: 3})
	second := w.startVerified(v2)
	require.Equal(t, 2, second.Rollout.Revision)
	w.settles(map[string]int{v2: 3})
	require.NotEmpty(t, second.Rollout.Gates)

	again, err := w.controller().Start(w.ctx, w.request(v2, 0), w.log(nil))
	require.NoError(t, err)
	require.True(t, again.Unchanged)

	back, err := w.controller().Rollback(w.ctx, w.target(), 1, "oncall", w.log(nil))
	require.NoError(t, err)
	require.Equal(t, 3, back.Rollout.Revision)
	w.settles(map[string]int{v1: 3})
}

func (w *world) noCanary() {
	w.Helper()
	_, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop-canary", metav1.GetOptions{})
	require.True(w, apierrors.IsNotFound(err), "the canary is still there: %v", err)
}

func TestCanaryIsPromoted(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	result, err := w.controller().Start(w.ctx, w.request(v2, time.Second, rollout.Step{Weight: 20}, rollout.Step{Weight: 80, Hold: 2 * time.Second}), w.log(nil))
	require.NoError(t, err)
	require.Len(t, result.Rollout.Gates, 3)
	w.settles(map[string]int{v2: 3})
	w.noCanary()
	d, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	require.Zero(t, d.Spec.MinReadySeconds, "its own setting came back")
}

func TestCrashAfterReadyIsTakenBack(t *testing.T) {
	w := newWorld(t)
	v1, v3 := image(t, "VERSION=1"), image(t, "VERSION=3", "CRASH_AFTER_READY=2s")
	w.startVerified(v1)
	before, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	fewest := w.fewestReady("app=shop")

	request := w.request(v3, 0, rollout.Step{Weight: 20}, rollout.Step{Weight: 80})
	request.Bake = nil // the default
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, health.CrashedAfterReady, result.Rollout.Failure.Reason)
	require.EqualValues(t, 7, result.Rollout.Failure.Container.ExitCode)
	require.Contains(t, result.Rollout.Failure.Log, "fatal: out of cheese")
	require.Equal(t, rollout.RolledBack, result.Rollout.State)
	require.Equal(t, 3, w.pods()[v1])
	w.noCanary()
	after, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, before.ResourceVersion, after.ResourceVersion, "the stable workload was never touched")

	rolling := w.request(v3, 0)
	rolling.Bake = nil
	result, err = w.controller().Start(w.ctx, rolling, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, health.CrashLoop, result.Rollout.Failure.Reason)
	require.Equal(t, 3, w.pods()[v1])
	require.GreaterOrEqual(t, fewest(), 3, "its own maxUnavailable is 0")
}
