// Package manifest turns files into a release: the whole set of Kubernetes
// objects of an application, images pinned by digest and configuration named by
// its content, so that equal content has an equal digest and can be put back
// whole. It is pure except for reading files and asking a Resolver.
package manifest

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// The labels and annotations Tidegate puts on the objects it applies. None is
// put into a pod template: that would restart pods that did not change.
const (
	LabelApp           = "tidegate.dev/app"
	LabelTrack         = "tidegate.dev/track" // "canary" on canary workloads and their pods
	AnnotationRevision = "tidegate.dev/revision"
	AnnotationRelease  = "tidegate.dev/release"
	// AnnotationVersioned set to "false" on a ConfigMap or Secret keeps its
	// name as written, for objects that something outside reads by name.
	AnnotationVersioned = "tidegate.dev/versioned"
	// AnnotationWave is the number of an object's wave, AnnotationAfter names what
	// it comes after ("deployment/db, Database/main"); see Waves.
	AnnotationWave  = "tidegate.dev/wave"
	AnnotationAfter = "tidegate.dev/after"
	// AnnotationBaseName on a versioned ConfigMap or Secret is its name in the file.
	AnnotationBaseName = "tidegate.dev/base-name"
)

// Ref names an object in a cluster.
type Ref struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Kind + "/" + r.Name
	}
	return r.Kind + "/" + r.Name + " in namespace " + r.Namespace
}

// GroupVersionKind of the object.
func (r Ref) GroupVersionKind() schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(r.APIVersion, r.Kind)
}

// Same tells whether two refs name one object; the version of the API does not matter.
func (r Ref) Same(other Ref) bool {
	return r.Kind == other.Kind && r.Namespace == other.Namespace && r.Name == other.Name &&
		r.GroupVersionKind().Group == other.GroupVersionKind().Group
}

// RefOf names u.
func RefOf(u *unstructured.Unstructured) Ref {
	return Ref{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}
}

// applyOrder lists kinds that must exist before what uses them; workloads come
// last so that what their pods need is there. Kinds not listed stand between.
var applyOrder = map[string]int{
	"Namespace": 0, "CustomResourceDefinition": 1, "PriorityClass": 2, "StorageClass": 2,
	"ResourceQuota": 3, "LimitRange": 3, "ServiceAccount": 4, "Secret": 5, "ConfigMap": 5,
	"ClusterRole": 6, "Role": 6, "ClusterRoleBinding": 7, "RoleBinding": 7,
	"PersistentVolume": 8, "PersistentVolumeClaim": 9, "Service": 10,
	"Pod": 30, "DaemonSet": 31, "StatefulSet": 32, "Deployment": 33, "Job": 34, "CronJob": 34,
	"HorizontalPodAutoscaler": 40, "PodDisruptionBudget": 41, "Ingress": 42,
}

const unlistedOrder = 20

// Sort puts objects into the order in which they are applied. It is stable, so
// that equal kinds keep the order of the files.
func Sort(objects []*unstructured.Unstructured) {
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int {
		return cmp.Compare(orderOf(a.GetKind()), orderOf(b.GetKind()))
	})
}

func orderOf(kind string) int {
	if n, ok := applyOrder[kind]; ok {
		return n
	}
	return unlistedOrder
}

// IsWorkload tells whether objects of this kind run pods that a rollout moves.
func IsWorkload(r Ref) bool {
	if r.GroupVersionKind().Group != "apps" {
		return false
	}
	return r.Kind == "Deployment" || r.Kind == "StatefulSet" || r.Kind == "DaemonSet"
}

// builtInGroups are those of Kubernetes itself; others under k8s.io, such as
// gateway.networking.k8s.io, are of custom resources.
var builtInGroups = map[string]bool{
	"": true, "apps": true, "batch": true, "autoscaling": true, "policy": true, "extensions": true,
	"admissionregistration.k8s.io": true, "apiextensions.k8s.io": true, "apiregistration.k8s.io": true, "authentication.k8s.io": true,
	"authorization.k8s.io": true, "certificates.k8s.io": true, "coordination.k8s.io": true, "discovery.k8s.io": true, "events.k8s.io": true,
	"flowcontrol.apiserver.k8s.io": true, "internal.apiserver.k8s.io": true, "networking.k8s.io": true, "node.k8s.io": true,
	"rbac.authorization.k8s.io": true, "resource.k8s.io": true, "scheduling.k8s.io": true, "storage.k8s.io": true, "storagemigration.k8s.io": true,
}

// IsCustom tells whether objects of this kind are custom resources.
func IsCustom(r Ref) bool { return !builtInGroups[r.GroupVersionKind().Group] }

// NeededByPods tells whether pods may need such an object to start, while its
// mere existence changes nothing for others: a canary gets these before it runs.
func NeededByPods(r Ref) bool {
	switch r.Kind {
	case "Namespace", "CustomResourceDefinition", "PriorityClass", "StorageClass", "ServiceAccount",
		"Secret", "ConfigMap", "ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding", "PersistentVolumeClaim":
		return true
	}
	return false
}

// podSpecPaths says where objects of a kind hold a pod specification.
func podSpecPath(kind string) []string {
	switch kind {
	case "Pod":
		return []string{"spec"}
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "ReplicationController":
		return []string{"spec", "template", "spec"}
	case "PodTemplate":
		return []string{"template", "spec"}
	case "CronJob":
		return []string{"spec", "jobTemplate", "spec", "template", "spec"}
	}
	return nil
}

// podSpec returns the pod specification inside u, nil when it has none. The
// map is u's own: changing it changes u.
func podSpec(u *unstructured.Unstructured) (map[string]any, error) {
	path := podSpecPath(u.GetKind())
	if path == nil {
		return nil, nil
	}
	var at any = u.Object
	for i, key := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: %v is not a mapping", RefOf(u), path[:i])
		}
		if at, ok = m[key]; !ok {
			return nil, nil
		}
	}
	spec, ok := at.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: %v is not a mapping", RefOf(u), path)
	}
	return spec, nil
}

// mappings calls f for every mapping in the list m[key]; what is not a list or
// not a mapping is left for the API server to refuse.
func mappings(m map[string]any, key string, f func(map[string]any) error) error {
	list, _ := m[key].([]any)
	for _, item := range list {
		if entry, ok := item.(map[string]any); ok {
			if err := f(entry); err != nil {
				return err
			}
		}
	}
	return nil
}

func mapping(m map[string]any, key string) map[string]any {
	child, _ := m[key].(map[string]any)
	return child
}

func text(m map[string]any, key string) string {
	s, _ := m[key].(string)
	return s
}
