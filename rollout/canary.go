package rollout

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Track tells the companions of a stable workload apart. It is the value
// of their pods' track label, and the suffix of their names.
type Track string

// The tracks. A baseline runs the verified release: a fresh one of the canary's
// age and size, to compare with. The stable pods are older, warmer and more.
const (
	CanaryTrack   Track = "canary"
	BaselineTrack Track = "baseline"
	PreviewTrack  Track = "preview" // the new version of blue-green, whole
)

// bakedCondition is the readiness gate of canary pods: a pod is ready, and so
// gets traffic, only once a rollout has set this condition on it. A version
// that comes up and crashes within the bake time never answers a request.
// See https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-readiness-gate.
const bakedCondition corev1.PodConditionType = "tidegate.dev/baked"

// dark tells whether a companion's pods come up without traffic. Those of a preview
// wait for the switch. A canary's and a baseline's have nothing to wait for where
// there is no bake time, and the kubelet takes a second to see that a gate is open:
// it looks at a pod again when it has listed all containers, once a second.
func (r *Rollout) dark(t Track) bool { return t == PreviewTrack || r.Bake > 0 }

// gated tells whether a pod waits, or has waited, at the readiness gate.
func gated(pod *corev1.Pod) bool {
	return slices.Contains(pod.Spec.ReadinessGates, corev1.PodReadinessGate{ConditionType: bakedCondition})
}

func (t Track) ref(stable manifest.Ref) manifest.Ref {
	stable.Name = t.Name(stable.Name)
	return stable
}

// Name is what the companion of an object is called.
func (t Track) Name(stable string) string { return stable + "-" + string(t) }

// of makes a companion Deployment: a release's template under another name, with one label more. Its pods carry all labels of the stable
// ones, so that every Service that selects those sends them traffic too; the
// label more keeps the two controllers' pods apart. Those of a dark companion wait
// at a readiness gate.
func (t Track) of(u *unstructured.Unstructured, replicas int32, dark bool) (*unstructured.Unstructured, error) {
	u = u.DeepCopy()
	u.SetName(t.Name(u.GetName()))
	labels := u.GetLabels()
	labels[manifest.LabelTrack] = string(t)
	u.SetLabels(labels)
	for _, path := range [][]string{
		{"spec", "selector", "matchLabels", manifest.LabelTrack},
		{"spec", "template", "metadata", "labels", manifest.LabelTrack},
	} {
		if err := unstructured.SetNestedField(u.Object, string(t), path...); err != nil {
			return nil, fmt.Errorf("making the %s of %s: %w", t, manifest.RefOf(u), err)
		}
	}
	if err := unstructured.SetNestedField(u.Object, int64(replicas), "spec", "replicas"); err != nil {
		return nil, fmt.Errorf("making the %s of %s: %w", t, manifest.RefOf(u), err)
	}
	if dark {
		gates, _, err := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "readinessGates")
		if err != nil {
			return nil, fmt.Errorf("making the %s of %s: %w", t, manifest.RefOf(u), err)
		}
		gates = append(gates, map[string]any{"conditionType": string(bakedCondition)})
		if err := unstructured.SetNestedSlice(u.Object, gates, "spec", "template", "spec", "readinessGates"); err != nil {
			return nil, fmt.Errorf("making the %s of %s: %w", t, manifest.RefOf(u), err)
		}
	}
	// All of a step's pods may start at once: nothing is replaced.
	unstructured.RemoveNestedField(u.Object, "spec", "minReadySeconds")
	unstructured.RemoveNestedField(u.Object, "spec", "paused")
	return u, nil
}

// canaryPlan says which workloads of the release get a canary: Deployments that
// the base has too and whose pods change. note tells why there is none.
func canaryPlan(release, base *manifest.Release) (canaries []manifest.Ref, note string, err error) {
	if base == nil {
		return nil, "nothing verified runs yet, so there is nothing to put a canary beside: rolling instead", nil
	}
	for _, u := range release.Objects {
		ref := manifest.RefOf(u)
		if !manifest.IsWorkload(ref) {
			continue
		}
		before := base.Find(ref)
		if before == nil || sameTemplate(before, u) {
			continue
		}
		if ref.Kind == "StatefulSet" {
			continue // its own pods are replaced in steps
		}
		if ref.Kind != "Deployment" {
			return nil, "", fmt.Errorf("%w: %s changes, and a canary of a %s is not possible: it has one pod for each node; use strategy rolling for this release", ErrInvalid, ref, ref.Kind)
		}
		canaries = append(canaries, ref)
	}
	if len(canaries) == 0 {
		return nil, "no pod template of a workload that runs already changes: rolling instead of a canary", nil
	}
	return canaries, "", nil
}

func sameTemplate(a, b *unstructured.Unstructured) bool {
	ta, _, errA := unstructured.NestedMap(a.Object, "spec", "template")
	tb, _, errB := unstructured.NestedMap(b.Object, "spec", "template")
	return errA == nil && errB == nil && equalValues(ta, tb)
}

// equalValues compares decoded JSON; absent and empty are the same.
func equalValues(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok && b != nil {
			return false
		}
		for key := range x {
			if !equalValues(x[key], y[key]) {
				return false
			}
		}
		for key := range y {
			if _, ok := x[key]; !ok && !equalValues(y[key], nil) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		if len(x) == 0 && b == nil {
			return true
		}
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !equalValues(x[i], y[i]) {
				return false
			}
		}
		return true
	case nil:
		switch y := b.(type) {
		case map[string]any:
			return equalValues(y, nil)
		case []any:
			return len(y) == 0
		}
		return b == nil
	}
	return a == b
}
