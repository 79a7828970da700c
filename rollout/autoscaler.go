package rollout

import (
	"context"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// scaled tells whether an autoscaler owns the replicas of the workload, now or
// with the release that is being applied.
func (o *observer) scaled(ref manifest.Ref, release *manifest.Release) bool {
	list, err := o.autoscalers.HorizontalPodAutoscalers(o.store.namespace).List(labels.Everything())
	return scaledByRelease(ref, release) || scaledByAny(ref, o.scaledObjects) ||
		err == nil && slices.ContainsFunc(list, func(h *autoscalingv2.HorizontalPodAutoscaler) bool { return scales(h, ref) })
}

// scaledWorkloads finds out whose replicas an autoscaler owns, now or with the release.
func (s *store) scaledWorkloads(ctx context.Context, release *manifest.Release) (func(manifest.Ref) bool, error) {
	var autoscalers *autoscalingv2.HorizontalPodAutoscalerList
	if err := s.retry(ctx, "listing autoscalers", func(ctx context.Context) (err error) {
		autoscalers, err = s.kube.AutoscalingV2().HorizontalPodAutoscalers(s.namespace).List(ctx, metav1.ListOptions{})
		return err
	}); err != nil {
		return nil, err
	}
	scaledObjects, err := s.scaledObjects(ctx)
	if err != nil {
		return nil, err
	}
	return func(ref manifest.Ref) bool {
		return manifest.IsWorkload(ref) && (scaledByRelease(ref, release) || scaledByAny(ref, scaledObjects) ||
			slices.ContainsFunc(autoscalers.Items, func(h autoscalingv2.HorizontalPodAutoscaler) bool { return scales(&h, ref) }))
	}, nil
}

// scaledObject is KEDA's. It owns an HPA of its own most of the time, but not
// while it is paused, or scales to zero, or was only just made: then it is the
// only one to say that the number of replicas is its own. See
// https://keda.sh/docs/latest/reference/scaledobject-spec/.
var scaledObject = schema.GroupKind{Group: "keda.sh", Kind: "ScaledObject"}

// maxScaledObjects bounds what is read of them in one namespace.
const maxScaledObjects = 500

// scaledObjects lists those of the namespace; none where KEDA is not installed,
// or where they may not be read: then their HPAs say the most of it.
func (s *store) scaledObjects(ctx context.Context) ([]unstructured.Unstructured, error) {
	mapping, err := s.mapper.RESTMapping(scaledObject)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for KEDA: %w", err)
	}
	var found []unstructured.Unstructured
	err = s.retry(ctx, "listing KEDA's ScaledObjects", func(ctx context.Context) error {
		list, err := s.dynamic.Resource(mapping.Resource).Namespace(s.namespace).List(ctx, metav1.ListOptions{Limit: maxScaledObjects})
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil {
			found = list.Items
		}
		return err
	})
	return found, err
}

func scales(h *autoscalingv2.HorizontalPodAutoscaler, ref manifest.Ref) bool {
	return h.Spec.ScaleTargetRef.Kind == ref.Kind && h.Spec.ScaleTargetRef.Name == ref.Name
}

// scaledByRelease tells whether the release brings an autoscaler for the
// workload: an HPA, or anything shaped like one, such as KEDA's ScaledObject.
func scaledByRelease(ref manifest.Ref, release *manifest.Release) bool {
	return slices.ContainsFunc(release.Objects, func(u *unstructured.Unstructured) bool { return targets(u, ref) })
}

func scaledByAny(ref manifest.Ref, autoscalers []unstructured.Unstructured) bool {
	return slices.ContainsFunc(autoscalers, func(u unstructured.Unstructured) bool { return targets(&u, ref) })
}

// targets tells whether an autoscaler's spec.scaleTargetRef is the workload. A
// ScaledObject that names no kind means a Deployment.
func targets(u *unstructured.Unstructured, ref manifest.Ref) bool {
	target, _, err := unstructured.NestedMap(u.Object, "spec", "scaleTargetRef")
	if err != nil || target == nil || target["name"] != ref.Name {
		return false
	}
	kind, ok := target["kind"].(string)
	if !ok || kind == "" {
		kind = "Deployment"
	}
	return kind == ref.Kind
}
