package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// admit opens the readiness gate of pods, so that the kubelet calls them ready
// and the Service sends them traffic. A pod that is gone by now needs nothing.
func (d *driver) admit(ctx context.Context, pods []DarkPod) error {
	for _, pod := range pods {
		if err := d.mayWrite(ctx); err != nil {
			return err
		}
		// The UID keeps the patch from another pod of the same name.
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": pod.UID},
			"status": map[string]any{"conditions": []corev1.PodCondition{{
				Type: bakedCondition, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(d.clock()),
				Reason: "Survived", Message: "up without a restart for the bake time",
			}}},
		})
		if err != nil {
			return fmt.Errorf("admitting pod %s: %w", pod.Name, err)
		}
		err = d.retry(ctx, "admitting pod "+pod.Name, func(ctx context.Context) error {
			_, err := d.kube.CoreV1().Pods(d.namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch,
				metav1.PatchOptions{FieldManager: FieldManager}, "status")
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// gone tells the observer that pods were just deleted.
func (o *observer) gone(pods []DarkPod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, pod := range pods {
		o.deletedPods[pod.UID] = true
	}
}

func (o *observer) notGone(pods []DarkPod) []DarkPod {
	return slices.DeleteFunc(pods, func(pod DarkPod) bool { return o.deletedPods[pod.UID] })
}

// letIn tells the observer that pods were just admitted.
func (o *observer) letIn(pods []DarkPod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, pod := range pods {
		o.admitted[pod.UID] = true
	}
}
