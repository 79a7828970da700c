package rollout

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// DefaultBatch is the share of a StatefulSet that is replaced between two
// gates: that which Deployments replace at a time by default.
const DefaultBatch = "25%"

// held is a partition above every ordinal: no pod is replaced.
const held = math.MaxInt32

var batchPattern = regexp.MustCompile(`^([1-9][0-9]{0,4}|[1-9][0-9]?%|100%)$`)

func (s *Strategy) checkBatch() error {
	if s.Batch != "" && !batchPattern.MatchString(s.Batch) {
		return fmt.Errorf("%w: batch %q: use a number of pods such as 2, or a share such as 25%%", ErrInvalid, s.Batch)
	}
	return nil
}

// batchSize is how many of n pods one batch replaces.
func (s *Strategy) batchSize(n int32) int32 {
	batch := s.Batch
	if batch == "" {
		batch = DefaultBatch
	}
	if percent, ok := strings.CutSuffix(batch, "%"); ok {
		share, err := strconv.Atoi(percent)
		if err != nil {
			return 1 // was checked
		}
		return canarySize(share, n)
	}
	size, err := strconv.ParseInt(batch, 10, 32)
	if err != nil {
		return 1
	}
	return int32(size)
}

// partition is what the StatefulSet's partition is to be now: pods with that
// ordinal and higher are of the new version. The first batch is one pod, which
// risks least; it never goes below what the workload's own manifest says.
func (r *Rollout) partition(w Workload) int32 {
	if w.OldBroken || r.waveOf(w.Ref) < r.Wave { // an earlier wave has been through its batches
		return w.OwnPartition // waiting for pods that do not get well would block what mends them
	}
	replaced := int64(0)
	switch r.State {
	case Canary:
		replaced = int64(canarySize(r.Strategy.Steps[r.Step-1].Weight, w.Replicas))
	case Rolling:
		replaced = 1 + int64(max(r.Step-1, 0))*int64(r.Strategy.batchSize(w.Replicas))
		if r.Strategy.Kind == CanaryStrategy { // goes on from where the canary ended
			replaced = max(replaced, int64(canarySize(r.Strategy.Steps[len(r.Strategy.Steps)-1].Weight, w.Replicas)))
		}
	}
	return max(w.OwnPartition, int32(max(int64(w.Replicas)-replaced, 0)))
}

// partitionPlan lists the StatefulSets that are moved in batches: those that
// run already and change, or may have pods of a release that was superseded.
func partitionPlan(release, base *manifest.Release, disturbed bool) ([]manifest.Ref, error) {
	if base == nil {
		return nil, nil
	}
	var refs []manifest.Ref
	for _, u := range release.Objects {
		ref := manifest.RefOf(u)
		if !manifest.IsWorkload(ref) || ref.Kind == "Deployment" || !base.Contains(ref) {
			continue
		}
		changed := changes(u, base)
		if kind, _, err := unstructured.NestedString(u.Object, "spec", "updateStrategy", "type"); err == nil && kind == string(appsv1.OnDeleteStatefulSetStrategyType) {
			if changed {
				return nil, fmt.Errorf("%w: %s changes, and its updateStrategy OnDelete leaves its pods to be replaced by hand; set RollingUpdate", ErrInvalid, ref)
			}
			continue
		}
		if ref.Kind == "StatefulSet" && (changed || disturbed) {
			refs = append(refs, ref)
		}
	}
	return refs, nil
}

// shapePartition puts a partition into a StatefulSet.
func shapePartition(u *unstructured.Unstructured, partition int32) error {
	if err := unstructured.SetNestedField(u.Object, int64(partition), "spec", "updateStrategy", "rollingUpdate", "partition"); err != nil {
		return fmt.Errorf("%s: spec.updateStrategy: %w", manifest.RefOf(u), err)
	}
	borrow(u, annotationStrategy, "partition")
	return nil
}

// ownPartition is that of the manifest.
func ownPartition(u *unstructured.Unstructured) int32 {
	own, _, err := unstructured.NestedInt64(u.Object, "spec", "updateStrategy", "rollingUpdate", "partition")
	if err != nil || own < 0 || own > held {
		return 0 // what is wrong with it, the API server has said
	}
	return int32(own)
}

// stuckPods are pods of a StatefulSet that are not ready and run a version that
// is not wanted there. The controller would wait for them to become ready
// before it replaces any, which for a broken version is never:
// https://github.com/kubernetes/kubernetes/issues/67250.
func stuckPods(s *appsv1.StatefulSet, pods []*corev1.Pod) []DarkPod {
	if s.Status.ObservedGeneration < s.Generation || s.Status.UpdateRevision == "" {
		return nil
	}
	partition := int64(0)
	if rolling := s.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
		partition = int64(*rolling.Partition)
	}
	var stuck []DarkPod
	for _, pod := range pods {
		revision := pod.Labels[appsv1.ControllerRevisionHashLabelKey]
		if !metav1.IsControlledBy(pod, s) || pod.DeletionTimestamp != nil || conditionTrue(pod, corev1.PodReady) || revision == s.Status.UpdateRevision {
			continue
		}
		if ordinal(pod) >= partition || revision != s.Status.CurrentRevision {
			stuck = append(stuck, DarkPod{Name: pod.Name, UID: string(pod.UID)})
		}
	}
	return stuck
}

// brokenAfter is how long a pod must not have been ready before it is taken for
// one that does not get well by itself.
const brokenAfter = 30 * time.Second

// oldBroken tells whether a pod of the version that is to be replaced has long
// been broken. The controller waits for it before it touches any other pod, so
// that batches from the other end would never begin. recheck is when one will be.
func oldBroken(s *appsv1.StatefulSet, pods []*corev1.Pod, now time.Time) (broken bool, recheck time.Time) {
	for _, pod := range pods {
		if !metav1.IsControlledBy(pod, s) || pod.DeletionTimestamp != nil || conditionTrue(pod, corev1.PodReady) ||
			pod.Labels[appsv1.ControllerRevisionHashLabelKey] == s.Status.UpdateRevision {
			continue
		}
		since := pod.CreationTimestamp.Time
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady {
				since = latest(since, c.LastTransitionTime.Time)
			}
		}
		at := since.Add(brokenAfter)
		if !now.Before(at) {
			return true, time.Time{}
		}
		recheck = sooner(recheck, at)
	}
	return false, recheck
}

// ordinal of a StatefulSet's pod; -1 when its name has none.
func ordinal(pod *corev1.Pod) int64 {
	n, err := strconv.ParseInt(pod.Name[strings.LastIndex(pod.Name, "-")+1:], 10, 32)
	if err != nil {
		return -1
	}
	return n
}

// deletePods removes pods that do not serve, each only while it is the very one
// that was seen.
func (d *driver) deletePods(ctx context.Context, pods []DarkPod) error {
	var gone []DarkPod
	for _, pod := range pods {
		if err := d.mayWrite(ctx); err != nil {
			return err
		}
		deleted, err := d.deleteIdle(ctx, pod)
		if err != nil {
			return err
		}
		if deleted {
			gone = append(gone, pod)
		}
	}
	d.watch.gone(gone)
	return nil
}

// deleteIdle deletes a pod unless it has turned ready: the deletion is for the
// version of the pod that was read and not ready, so that no PodDisruptionBudget,
// which counts pods that are, has one less by it. An eviction would not do: a
// budget that allows none would keep a broken pod, and so the release that mends it.
func (d *driver) deleteIdle(ctx context.Context, pod DarkPod) (gone bool, err error) {
	client := d.kube.CoreV1().Pods(d.namespace)
	err = d.retry(ctx, "deleting pod "+pod.Name, func(ctx context.Context) error {
		for {
			live, err := client.Get(ctx, pod.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) || err == nil && string(live.UID) != pod.UID {
				gone = true
				return nil
			}
			if err != nil || conditionTrue(live, corev1.PodReady) {
				return err
			}
			err = client.Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion}})
			if !apierrors.IsConflict(err) {
				gone = err == nil || apierrors.IsNotFound(err)
				if gone {
					return nil
				}
				return err
			}
		}
	})
	return gone, err
}
