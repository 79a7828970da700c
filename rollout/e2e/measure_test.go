//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestMeasureRolling compares a rollout without bake time with a plain patch of
// the same Deployment, in turn. It prints and asserts no time.
func TestMeasureRolling(t *testing.T) {
	w := newWorld(t)
	w.startVerified(image(t, "VERSION=0"))
	for round := range 3 {
		start := time.Now()
		patched := image(t, fmt.Sprintf("VERSION=patched%d", round))
		_, err := kube.AppsV1().Deployments(w.namespace).Patch(w.ctx, "shop", types.StrategicMergePatchType,
			[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"shop","image":"`+patched+`"}]}}}}`), metav1.PatchOptions{FieldManager: "tidegate"})
		require.NoError(t, err)
		watch, err := kube.AppsV1().Deployments(w.namespace).Watch(w.ctx, metav1.ListOptions{})
		require.NoError(t, err)
		for event := range watch.ResultChan() {
			d := event.Object.(*appsv1.Deployment)
			if d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == 3 && d.Status.Replicas == 3 && d.Status.AvailableReplicas == 3 {
				break
			}
		}
		watch.Stop()
		plain := time.Since(start)
		next := w.request(image(t, fmt.Sprintf("VERSION=rolled%d", round)), 0)
		next.Force = true
		start = time.Now()
		result, err := w.controller().Start(w.ctx, next, nil)
		require.NoError(t, err)
		t.Logf("plain patch %.2fs, rollout %.2fs whole, of which moving pods %.2fs", plain.Seconds(), time.Since(start).Seconds(),
			result.Rollout.Gates[0].At.Sub(result.Rollout.Started).Seconds())
	}
}
