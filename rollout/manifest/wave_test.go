package manifest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
)

// waved is an object with annotations that ask for an order.
func waved(apiVersion, kind, name, annotations, spec string) string {
	return fmt.Sprintf("---\napiVersion: %s\nkind: %s\nmetadata:\n  name: %s\n  namespace: n\n  annotations:\n    note: x\n%sspec: %s\n", apiVersion, kind, name, annotations, spec)
}

func wave(number string) string { return "    tidegate.dev/wave: " + number + "\n" }
func after(names string) string { return "    tidegate.dev/after: " + names + "\n" }

func deployment(name, annotations string) string {
	return waved("apps/v1", "Deployment", name, annotations, "{template: {metadata: {labels: {app: "+name+"}}}}")
}

func wavesOf(t *testing.T, text string) [][]string {
	t.Helper()
	waves, err := Waves(parse(t, text))
	require.NoError(t, err)
	var names [][]string
	for _, wave := range waves {
		var in []string
		for _, ref := range wave {
			in = append(in, ref.Kind+"/"+ref.Name)
		}
		names = append(names, in)
	}
	return names
}

func TestWaves(t *testing.T) {
	service := func(name, app string) string {
		return waved("v1", "Service", name, "", "{selector: {app: "+app+"}}")
	}
	for name, c := range map[string]struct {
		text string
		want [][]string
	}{
		"nothing asks for an order": {deployment("a", "") + deployment("b", ""), nil},
		"one wave is none":          {deployment("a", wave(`"3"`)), nil},
		"by numbers":                {deployment("b", "") + deployment("c", wave(`"1"`)) + deployment("a", wave(`"-1"`)), [][]string{{"Deployment/a"}, {"Deployment/b"}, {"Deployment/c"}}},
		"by what it comes after":    {deployment("a", after("deployment/b")) + deployment("b", after("Deployment/c")) + deployment("c", ""), [][]string{{"Deployment/c"}, {"Deployment/b"}, {"Deployment/a"}}},
		"both": {deployment("a", after("deployment/b")) + deployment("b", wave(`"2"`)) + deployment("c", ""),
			[][]string{{"Deployment/c"}, {"Deployment/b"}, {"Deployment/a"}}},
		"a custom resource": {deployment("a", after("Database.example.com/db")) + waved("example.com/v1", "Database", "db", "", "{}"),
			[][]string{{"Database/db"}, {"Deployment/a"}}},
		"what belongs to others": {
			waved("v1", "ConfigMap", "c", "", "{}") + service("a", "a") + service("b", "b") + service("none", "x") + deployment("a", wave(`"-1"`)) + deployment("b", "") + deployment("z", wave(`"1"`)) +
				waved("autoscaling/v2", "HorizontalPodAutoscaler", "a", "", "{scaleTargetRef: {kind: Deployment, name: a}}") +
				waved("policy/v1", "PodDisruptionBudget", "z", "", "{selector: {matchLabels: {app: z}}}"),
			[][]string{{"ConfigMap/c", "Service/a", "Deployment/a", "HorizontalPodAutoscaler/a"}, {"Service/b", "Service/none", "Deployment/b"}, {"Deployment/z", "PodDisruptionBudget/z"}}},
		"a Service that two have goes with the first": {service("both", "both") +
			waved("apps/v1", "Deployment", "a", wave(`"1"`), "{template: {metadata: {labels: {app: both}}}}") + waved("apps/v1", "Deployment", "b", "", "{template: {metadata: {labels: {app: both}}}}"),
			[][]string{{"Service/both", "Deployment/b"}, {"Deployment/a"}}},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, wavesOf(t, c.text)) })
	}
}

// A wrong order is refused when the release is made, with its place in the file.
func TestWrongWavesSayWhere(t *testing.T) {
	for text, want := range map[string][]string{
		deployment("a", after("deployment/b")):                                            {"k8s.yaml:9:5: Deployment/a", `"deployment/b" is not there`},
		deployment("a", after("service/b")) + deployment("b", ""):                         {"k8s.yaml:9:5", "the release has deployment/b"},
		deployment("a", after("b")):                                                       {"k8s.yaml:9:5", "write KIND/NAME"},
		deployment("a", after("deployment/a")):                                            {"names the object itself"},
		deployment("a", wave("high")):                                                     {"k8s.yaml:9:5", "write a whole number"},
		deployment("a", wave(`"1001"`)):                                                   {"at most 1000"},
		deployment("a", after("deployment/b")) + deployment("b", after("deployment/a")):   {"in a circle: deployment/a after deployment/b after deployment/a"},
		deployment("a", after("deployment/b")+wave(`"0"`)) + deployment("b", wave(`"1"`)): {"it is in wave 0 and comes after deployment/b, which is in wave 1"},
		deployment("a", after("thing/x")) + waved("a.com/v1", "Thing", "x", "", "{}") + waved("b.com/v1", "Thing", "x", "", "{}"): {"write the group too, as in Thing.b.com/x"},
	} {
		_, err := New(t.Context(), parse(t, text), Options{Namespace: "n"})
		for _, part := range want {
			require.ErrorContains(t, err, part, text)
		}
	}
	var many strings.Builder
	for i := range MaxWaves + 1 {
		many.WriteString(deployment(fmt.Sprintf("d%d", i), wave(fmt.Sprintf("%q", fmt.Sprint(i)))))
	}
	_, err := Waves(parse(t, many.String()))
	require.ErrorContains(t, err, "at most 20")
}

func TestOriginIsTakenOff(t *testing.T) {
	release, err := New(t.Context(), parse(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"), Options{Namespace: "n"})
	require.NoError(t, err)
	require.Empty(t, release.Objects[0].GetAnnotations())
}

// However objects ask for an order: it is kept, whole, and does not depend on
// the order of the files; or there is a reason.
func TestWavesKeepTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "objects")
		objects := make([]*unstructured.Unstructured, n)
		after := make([][]int, n)
		numbers := make([]*int, n)
		for i := range objects {
			kind := rapid.SampledFrom([]string{"Deployment", "StatefulSet"}).Draw(t, "kind")
			objects[i] = &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apps/v1", "kind": kind, "metadata": map[string]any{"name": fmt.Sprint("w", i), "namespace": "n"}}}
		}
		for i, u := range objects {
			annotations := map[string]string{}
			if rapid.IntRange(0, 2).Draw(t, "numbered") == 0 {
				number := rapid.IntRange(-2, 2).Draw(t, "wave")
				numbers[i], annotations[AnnotationWave] = &number, fmt.Sprint(number)
			}
			var names []string
			for range rapid.IntRange(0, 2).Draw(t, "after how many") {
				// Mostly what is before it in the file, so that most draws are no circle.
				other := rapid.IntRange(0, min(n-1, i+rapid.IntRange(0, 1).Draw(t, "ahead"))).Draw(t, "after")
				after[i] = append(after[i], other)
				names = append(names, objects[other].GetKind()+"/"+objects[other].GetName())
			}
			if len(names) > 0 {
				annotations[AnnotationAfter] = strings.Join(names, ", ")
			}
			u.SetAnnotations(annotations)
		}
		waves, err := Waves(objects)
		if err != nil {
			return
		}
		at := map[string]int{}
		count := 0
		for i, wave := range waves {
			if len(wave) == 0 {
				t.Fatalf("wave %d is empty", i)
			}
			for _, ref := range wave {
				at[ref.Name] = i
				count++
			}
		}
		if waves != nil && count != n {
			t.Fatalf("%d objects in the waves, of %d", count, n)
		}
		for i := range objects {
			for _, other := range after[i] {
				if at[objects[other].GetName()] >= at[objects[i].GetName()] {
					t.Fatalf("w%d comes after w%d, and is in wave %d, not after %d", i, other, at[objects[i].GetName()], at[objects[other].GetName()])
				}
			}
			for j := range objects {
				if numbers[i] != nil && numbers[j] != nil && *numbers[i] < *numbers[j] && waves != nil && at[objects[i].GetName()] >= at[objects[j].GetName()] {
					t.Fatalf("wave %d is not before wave %d", *numbers[i], *numbers[j])
				}
			}
		}
		mixed := slices.Clone(objects)
		slices.Reverse(mixed)
		again, err := Waves(mixed)
		if err != nil || len(again) != len(waves) {
			t.Fatalf("another order of the file gives %d waves, not %d: %v", len(again), len(waves), err)
		}
		for i, wave := range again {
			for _, ref := range wave {
				if at[ref.Name] != i {
					t.Fatalf("%s is in wave %d, and in %d in another order of the file", ref.Name, at[ref.Name], i)
				}
			}
		}
	})
}
