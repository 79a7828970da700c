//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

var (
	crds       = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	httpRoutes = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}
	virtuals   = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}
	traefiks   = schema.GroupVersionResource{Group: "traefik.io", Version: "v1alpha1", Resource: "traefikservices"}
	ingresses  = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}
)

// installed are the CustomResourceDefinitions of routers that these tests brought.
var installed = struct {
	sync.Mutex
	names map[string]bool
}{names: map[string]bool{}}

// objects talks to any kind of object.
func objects(t testing.TB) dynamic.Interface {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	return client
}

// routers brings the real CustomResourceDefinitions of the routers into the cluster.
func routers(t *testing.T) {
	t.Helper()
	installed.Lock()
	defer installed.Unlock()
	files, err := filepath.Glob("testdata/routers/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	client := objects(t).Resource(crds)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		encoded, err := yaml.YAMLToJSON(content)
		require.NoError(t, err)
		u := &unstructured.Unstructured{}
		require.NoError(t, u.UnmarshalJSON(encoded))
		if installed.names[u.GetName()] {
			continue
		}
		_, err = client.Create(t.Context(), u, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			require.NoError(t, err)
			installed.names[u.GetName()] = true
		}
		watch, err := client.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + u.GetName()})
		require.NoError(t, err)
		for event := range watch.ResultChan() {
			if seen, ok := event.Object.(*unstructured.Unstructured); ok && strings.Contains(fmt.Sprint(conditionOf(seen, "Established")), "True") {
				break
			}
		}
		watch.Stop()
	}
}

func conditionOf(u *unstructured.Unstructured, kind string) any {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, entry := range conditions {
		if c, ok := entry.(map[string]any); ok && c["type"] == kind {
			return c["status"]
		}
	}
	return nil
}

// removeRouters takes them away again.
func removeRouters() {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return
	}
	for _, name := range slices.Collect(maps.Keys(installed.names)) {
		if err := client.Resource(crds).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	}
}
