package manifest

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const workflow = `
apiVersion: example.com/v1
kind: Workflow
metadata: {name: w}
spec:
  image: shop
  "side.car": {image: other` + digest + `}
  steps:
  - {name: a, container: {image: shop:v1}}
  - {name: b, container: {image: "busybox:1"}}
  - {name: c}
`

func TestImagesOfCustomResources(t *testing.T) {
	built := "127.0.0.1:5000/shop" + digest
	resolved := "index.docker.io/library/busybox" + digest
	release, err := New(t.Context(), parse(t, workflow+"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"), Options{Namespace: "n", Images: map[string]string{"shop": built}, Resolver: fixed{"busybox:1": resolved},
		Fields: []ImageField{{"Workflow", "spec.image"}, {"Workflow.example.com", "spec.steps[*].container.image"}, {"Workflow", `spec["side.car"].image`}, {"Other", "spec.image"}}})
	require.NoError(t, err)
	at := func(path ...string) any {
		value, _, err := unstructured.NestedFieldNoCopy(release.Objects[1].Object, path...)
		require.NoError(t, err)
		return value
	}
	require.Equal(t, built, at("spec", "image"))
	require.Equal(t, "other"+digest, at("spec", "side.car", "image"))
	require.Equal(t, []any{
		map[string]any{"name": "a", "container": map[string]any{"image": built}},
		map[string]any{"name": "b", "container": map[string]any{"image": resolved}},
		map[string]any{"name": "c"},
	}, at("spec", "steps"))
}

func TestWrongImageFields(t *testing.T) {
	for field, want := range map[ImageField]string{
		{"Workflow", "spec.imag"}:                     "Workflow/w in namespace n has no field spec.imag",
		{"Workflow", "spec.steps"}:                    "is not text",
		{"Workflow", "spec..image"}:                   "a key is missing",
		{"Workflow", ""}:                              "it is empty",
		{"Workflow", "spec.steps[1.image"}:            "not closed",
		{"Workflow", "spec.steps[x].image"}:           "neither [*]",
		{"Workflow", "spec.steps[*]image"}:            "a dot is missing",
		{"Workflow", `spec["a].image`}:                "not closed",
		{"", "spec.image"}:                            "write it like Workflow",
		{"Workflow", "spec.steps[1].container.image"}: "cannot be found",
	} {
		_, err := New(t.Context(), parse(t, workflow), Options{Namespace: "n", Images: map[string]string{"shop": "127.0.0.1:5000/shop" + digest}, Resolver: fixed{}, Fields: []ImageField{field}})
		require.ErrorContains(t, err, want, field.String())
	}
}

func FuzzImageField(f *testing.F) {
	for _, path := range []string{"spec.image", `a["b.c"][*].d[3]`, "[", `["`, "a.]", "[*]"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		steps, err := ImageField{"K", path}.steps()
		if err == nil && (len(steps) == 0 || len(steps) > maxFieldSteps) {
			t.Fatalf("%d steps in %q", len(steps), path)
		}
		if err == nil {
			_, _ = visit(map[string]any{"a": []any{"x", map[string]any{"b": "y"}}}, steps, func(any, func(any)) error { return nil })
		}
	})
}
