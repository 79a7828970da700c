//go:build e2e

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// scale does what an autoscaler does.
func (w *world) scale(replicas int32) {
	w.Helper()
	_, err := kube.AppsV1().Deployments(w.namespace).UpdateScale(w.ctx, "shop", &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: w.namespace}, Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}, metav1.UpdateOptions{FieldManager: "autoscaler"})
	require.NoError(w, err)
}

// sized waits until a Deployment is told to have so many replicas.
func (w *world) sized(name string, replicas int32) {
	w.Helper()
	watch, err := kube.AppsV1().Deployments(w.namespace).Watch(w.ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	require.NoError(w, err)
	defer watch.Stop()
	last := int32(-1)
	for event := range watch.ResultChan() {
		if d, ok := event.Object.(*appsv1.Deployment); ok && event.Type != "DELETED" {
			if last = *d.Spec.Replicas; last == replicas {
				return
			}
		}
	}
	require.Fail(w, "another size", "%s has %d replicas, want %d", name, last, replicas)
}

const scaledShop = `
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: shop}
spec: {minReplicas: 2, maxReplicas: 8, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}}
`

// A canary and a preview are sized by the live count, follow it while they run,
// and leave it as it is.
func TestCompanionsFollowTheAutoscaler(t *testing.T) {
	w := newWorld(t)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	manifests := strings.Replace(shop, "replicas: 3", "replicas: 2", 1) + scaledShop
	start := func(image string, s rollout.Strategy, see func(rollout.Progress)) <-chan error {
		request := w.request(image, 0)
		request.Release, request.Strategy = w.release(manifests, image), s
		controller, ended := w.controller(), make(chan error, 1)
		go func() {
			_, err := controller.Start(w.ctx, request, see)
			ended <- err
		}()
		return ended
	}
	require.NoError(t, <-start(v1, rollout.Strategy{}, w.log(nil)))
	w.scale(3)
	w.settles(map[string]int{v1: 3})
	fewest := w.fewestReady("app=shop")

	tell := w.told()
	ended := start(v2, rollout.Strategy{Kind: rollout.CanaryStrategy, Steps: []rollout.Step{{Weight: 50, Hold: time.Hour}}}, w.log(tell))
	w.await(tell, rollout.Canary, "held until")
	w.sized("shop-canary", 2)
	w.scale(5)
	w.sized("shop-canary", 3)
	_, err := w.cli("rollout", "promote", "shop")
	require.NoError(t, err)
	require.NoError(t, <-ended)
	w.sized("shop", 5)
	w.settles(map[string]int{v2: 5})

	tell = w.told()
	keep := time.Hour
	ended = start(v3, rollout.Strategy{Kind: rollout.BlueGreenStrategy, BlueGreen: &rollout.BlueGreen{KeepOld: &keep}}, w.log(tell))
	w.await(tell, rollout.Switched, "switched: ")
	w.sized("shop-preview", 5)
	w.scale(6)
	w.sized("shop-preview", 6)
	w.scale(4) // fewer are enough for it; what has the traffic does not shrink
	_, err = w.cli("rollout", "promote", "shop")
	require.NoError(t, err)
	require.NoError(t, <-ended)
	w.sized("shop", 4)
	w.settles(map[string]int{v3: 4})
	require.GreaterOrEqual(t, fewest(), 3)
	w.notOurs()
}

// notOurs checks that Tidegate does not own the replicas.
func (w *world) notOurs() {
	w.Helper()
	d, err := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(w, err)
	for _, entry := range d.ManagedFields {
		if entry.Manager == rollout.FieldManager {
			require.NotContains(w, string(entry.FieldsV1.GetRawBytes()), `"f:replicas"`)
		}
	}
}

const scaledObjectCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: scaledobjects.keda.sh}
spec:
  group: keda.sh
  scope: Namespaced
  names: {kind: ScaledObject, listKind: ScaledObjectList, plural: scaledobjects, singular: scaledobject, shortNames: [so]}
  versions:
  - name: v1alpha1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

const shopScaledObject = `
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: shop}
spec: {minReplicaCount: 0, maxReplicaCount: 9, scaleTargetRef: {name: shop}, triggers: [{type: cron, metadata: {timezone: UTC, start: 0 6 * * *, end: 0 20 * * *, desiredReplicas: "4"}}]}
`

// A ScaledObject owns the replicas of the Deployment that it names, with or
// without an HPA beside it: KEDA has none while it is paused or scales to zero.
func TestScaledObjectsOwnTheReplicas(t *testing.T) {
	w := newWorld(t)
	client, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	parsed, err := manifest.Parse("keda.yaml", []byte(scaledObjectCRD))
	require.NoError(t, err)
	_, err = definitions.Create(w.ctx, parsed[0], metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, definitions.Delete(context.Background(), "scaledobjects.keda.sh", metav1.DeleteOptions{}))
	})
	watch, err := definitions.Watch(w.ctx, metav1.ListOptions{FieldSelector: "metadata.name=scaledobjects.keda.sh"})
	require.NoError(t, err)
	defer watch.Stop()
	for event := range watch.ResultChan() {
		if established(event.Object.(*unstructured.Unstructured)) {
			break
		}
	}

	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	w.startVerified(v1)
	w.scale(2) // a person did, and it is put right
	request := w.request(v2, 0)
	request.Force = true
	_, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	w.sized("shop", 3)

	// Someone else's object, which no release holds.
	objects, err := manifest.Parse("shop.yaml", []byte(shopScaledObject))
	require.NoError(t, err)
	scaledObjects := client.Resource(schema.GroupVersionResource{Group: "keda.sh", Version: "v1alpha1", Resource: "scaledobjects"}).Namespace(w.namespace)
	_, err = scaledObjects.Create(w.ctx, objects[0], metav1.CreateOptions{})
	require.NoError(t, err)
	w.scale(2)
	request = w.request(v3, 0, rollout.Step{Weight: 50})
	_, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	w.sized("shop", 2)
	w.notOurs()

	// The release's own.
	w.scale(4)
	request = w.request(v1, 0)
	request.Release = w.release(shop+"---"+shopScaledObject, v1)
	_, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	w.sized("shop", 4)
	// Scaled to zero, a release goes by without a pod, and leaves it so.
	w.scale(0)
	w.settles(map[string]int{})
	request.Release = w.release(shop+"---"+shopScaledObject, v2)
	_, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	w.sized("shop", 0)
	w.notOurs()
}

func established(u *unstructured.Unstructured) bool {
	conditions, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return false
	}
	for _, condition := range conditions {
		if c, ok := condition.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
			return true
		}
	}
	return false
}
