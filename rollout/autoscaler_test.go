package rollout

import (
	"testing"

	"github.com/stretchr/testify/require"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

func TestScaledByWhat(t *testing.T) {
	deployment := manifest.Ref{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "x", Name: "shop"}
	stateful := manifest.Ref{APIVersion: "apps/v1", Kind: "StatefulSet", Namespace: "x", Name: "shop"}
	for name, c := range map[string]struct {
		target               map[string]any
		deployment, stateful bool
	}{
		"an HPA":                               {map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": "shop"}, true, false},
		"an HPA of a StatefulSet":              {map[string]any{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "shop"}, false, true},
		"a ScaledObject that names no kind":    {map[string]any{"name": "shop"}, true, false},
		"a ScaledObject with a kind":           {map[string]any{"kind": "StatefulSet", "name": "shop"}, false, true},
		"of another workload":                  {map[string]any{"kind": "Deployment", "name": "other"}, false, false},
		"of the canary, which is ours to size": {map[string]any{"kind": "Deployment", "name": "shop-canary"}, false, false},
		"nonsense":                             {map[string]any{"kind": int64(3), "name": "shop"}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
				"metadata": map[string]any{"name": "shop"}, "spec": map[string]any{"scaleTargetRef": c.target}}}
			release := &manifest.Release{Objects: []*unstructured.Unstructured{u}}
			for ref, want := range map[manifest.Ref]bool{deployment: c.deployment, stateful: c.stateful} {
				require.Equal(t, want, scaledByRelease(ref, release), "in the release: %s", ref)
				require.Equal(t, want, scaledByAny(ref, []unstructured.Unstructured{*u}), "live: %s", ref)
			}
		})
	}
	h := &autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "shop"}}}
	require.True(t, scales(h, deployment))
	require.False(t, scales(h, stateful))
	require.False(t, scaledByRelease(deployment, &manifest.Release{Objects: []*unstructured.Unstructured{{Object: map[string]any{"spec": "nothing"}}}}))
}
