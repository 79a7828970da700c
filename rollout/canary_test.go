package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// A companion's pods wait at a gate where they have something to wait for, beside
// gates of their own.
func TestDarkCompanions(t *testing.T) {
	own := corev1.PodReadinessGate{ConditionType: "example.com/registered"}
	for name, test := range map[string]struct {
		track Track
		bake  time.Duration
		dark  bool
	}{
		"canary with a bake time": {CanaryTrack, time.Second, true},
		"canary without":          {CanaryTrack, 0, false},
		"baseline without":        {BaselineTrack, 0, false},
		"preview without":         {PreviewTrack, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := manifest.Parse("shop.yaml", []byte(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: shop, labels: {tidegate.dev/app: shop}},
  spec: {selector: {matchLabels: {app: shop}}, template: {metadata: {labels: {app: shop}}, spec: {readinessGates: [{conditionType: example.com/registered}], containers: [{name: shop, image: shop}]}}}}`))
			require.NoError(t, err)
			made, err := test.track.of(objects[0], 2, (&Rollout{Bake: test.bake}).dark(test.track))
			require.NoError(t, err)
			content, _, err := unstructured.NestedMap(made.Object, "spec", "template", "spec")
			require.NoError(t, err)
			var pod corev1.Pod
			require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(content, &pod.Spec))
			require.Equal(t, test.dark, gated(&pod))
			require.Contains(t, pod.Spec.ReadinessGates, own)
		})
	}
}
