//go:build e2e

package e2e

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

// routed brings Gateway API's HTTPRoute into the cluster and says of every one in
// the namespace what a Gateway says that has taken it. That a real data plane
// does what they say is tested in rollout/e2e.
func routed(t *testing.T, _, namespace string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	must(t, err)
	client, err := dynamic.NewForConfig(config)
	must(t, err)
	content, err := os.ReadFile("../../rollout/e2e/testdata/routers/httproutes.yaml")
	must(t, err)
	encoded, err := yaml.YAMLToJSON(content)
	must(t, err)
	crd := &unstructured.Unstructured{}
	must(t, crd.UnmarshalJSON(encoded))
	crds := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := crds.Create(ctx, crd, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		must(t, err)
		t.Cleanup(func() { _ = crds.Delete(context.Background(), crd.GetName(), metav1.DeleteOptions{}) })
	}
	routes := client.Resource(schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}).Namespace(namespace)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for ctx.Err() == nil {
			watch, err := routes.Watch(ctx, metav1.ListOptions{})
			if err != nil {
				continue // not served yet
			}
			for event := range watch.ResultChan() {
				if route, ok := event.Object.(*unstructured.Unstructured); ok {
					accept(ctx, routes, route)
				}
			}
		}
	})
	t.Cleanup(func() { cancel(); accepting.Wait() })
}

// accept sets the conditions of a route, unless they are of this generation.
func accept(ctx context.Context, routes dynamic.ResourceInterface, route *unstructured.Unstructured) {
	parents, _, _ := unstructured.NestedSlice(route.Object, "spec", "parentRefs")
	var status []any
	for _, parent := range parents {
		status = append(status, map[string]any{"controllerName": "tidegate.dev/test", "parentRef": parent, "conditions": []any{
			map[string]any{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": route.GetGeneration(),
				"lastTransitionTime": time.Now().UTC().Format(time.RFC3339)}}})
	}
	known, _, _ := unstructured.NestedSlice(route.Object, "status", "parents")
	if len(known) > 0 {
		first, _ := known[0].(map[string]any)
		conditions, _, _ := unstructured.NestedSlice(first, "conditions")
		if c, _ := conditions[0].(map[string]any); c["observedGeneration"] == route.GetGeneration() {
			return
		}
	}
	if unstructured.SetNestedSlice(route.Object, status, "status", "parents") == nil {
		_, _ = routes.UpdateStatus(ctx, route, metav1.UpdateOptions{}) // a conflict brings the next event
	}
}
