package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

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

// Which pods are dark is seen at the pods themselves: those of a canary without a
// gate serve when they are ready, and there is nothing to let them in by.
func TestPodsWithoutAGateAreNotDark(t *testing.T) {
	owned := func(name string, owner metav1.Object, kind string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, UID: types.UID(name), Annotations: map[string]string{"deployment.kubernetes.io/revision": "1"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind(kind))}}
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "shop-canary", UID: "shop-canary", Annotations: map[string]string{"deployment.kubernetes.io/revision": "1"}}}
	set := &appsv1.ReplicaSet{ObjectMeta: owned("set", d, "Deployment")}
	pod := func(name string, dark bool, conditions ...corev1.PodConditionType) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: owned(name, set, "ReplicaSet")}
		if dark {
			p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: bakedCondition}}
		}
		for _, c := range conditions {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue})
		}
		return p
	}
	o := &observer{ready: map[string]time.Time{}, admitted: map[string]bool{}}
	dark, serving := o.companionPods(d, []*appsv1.ReplicaSet{set}, []*corev1.Pod{
		pod("starts", false),
		pod("serves", false, corev1.ContainersReady, corev1.PodReady),
		pod("waits", true, corev1.ContainersReady),
		pod("was let in", true, corev1.ContainersReady, corev1.PodReady, bakedCondition),
	}, time.Now())
	require.Equal(t, []string{"serves", "was let in"}, serving)
	require.Len(t, dark, 1)
	require.Equal(t, "waits", dark[0].Name)
}
