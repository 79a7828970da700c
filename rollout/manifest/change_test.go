package manifest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
)

func one(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	objects, err := Parse("test.yaml", []byte(text))
	require.NoError(t, err)
	require.Len(t, objects, 1)
	return objects[0]
}

func TestChangesNameTheField(t *testing.T) {
	before := one(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, labels: {app: shop}, annotations: {kubectl.kubernetes.io/last-applied-configuration: "x", tidegate.dev/revision: "1"}}
spec:
  replicas: 3
  template: {spec: {containers: [{name: shop, image: a, args: [p, q], ports: [{containerPort: 80}]}, {name: side, image: s}]}}
`)
	after := one(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, labels: {app: shop}, annotations: {tidegate.dev/revision: "2"}}
spec:
  replicas: 5
  paused: true
  template: {spec: {containers: [{name: side, image: s}, {name: shop, image: b, args: [p], ports: [{containerPort: 80}], env: []}]}}
`)
	after.Object["status"] = map[string]any{"replicas": int64(3)}
	after.SetResourceVersion("7")
	require.Equal(t, []Change{
		{`metadata.annotations["tidegate.dev/revision"]`, "1", "2"},
		{"spec.paused", nil, true},
		{"spec.replicas", int64(3), int64(5)},
		{"spec.template.spec.containers[shop].args[1]", "q", nil},
		{"spec.template.spec.containers[shop].image", "a", "b"},
	}, Changes(before, after))
	require.Empty(t, Changes(before, before))
	require.Empty(t, Changes(nil, before))
}

// Whatever a Secret holds, no form of a change shows it.
func TestChangesNeverShowASecret(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const canary = "c4n4ry"
		value := rapid.SampledFrom([]any{canary, map[string]any{"nested": canary}, []any{canary}, nil, map[string]any{canary: "x"}})
		secret := func() *unstructured.Unstructured {
			u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s",
				"annotations": map[string]any{"kubectl.kubernetes.io/last-applied-configuration": canary}}}}
			for _, field := range []string{"data", "stringData"} {
				switch rapid.IntRange(0, 2).Draw(t, "shape") {
				case 0:
					u.Object[field] = map[string]any{"key": value.Draw(t, "value"), "tls.key": value.Draw(t, "dotted"), "other": rapid.SampledFrom([]any{"a" + canary, "b" + canary}).Draw(t, "other")}
				case 1:
					u.Object[field] = value.Draw(t, "whole")
				}
			}
			return u
		}
		changes := Changes(secret(), secret())
		for _, change := range changes {
			shown, err := json.Marshal([]any{change.Before, change.After})
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(shown), canary) {
				t.Fatalf("%s shows %s", change.Path, shown)
			}
		}
	})
}
