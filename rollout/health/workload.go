package health

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// revisionAnnotation is written by the Deployment controller on the Deployment
// and on its newest ReplicaSet.
const revisionAnnotation = "deployment.kubernetes.io/revision"

// Input is what a Deployment is judged from. ReplicaSets, Pods and Events may
// hold others' too: only what the Deployment owns counts.
type Input struct {
	Deployment  *appsv1.Deployment // nil when it does not exist
	ReplicaSets []*appsv1.ReplicaSet
	Pods        []*corev1.Pod
	Events      []*corev1.Event
	Tolerance   Tolerance
	Now         time.Time
}

// Deployment judges the newest version of a Deployment by its own pods. Pods of
// other versions are counted and otherwise ignored: they neither fail it nor help it.
func Deployment(in Input) Verdict {
	d := in.Deployment
	if d == nil {
		return Verdict{Status: Progressing, Reason: WorkloadMissing, Message: "the Deployment does not exist yet"}
	}
	v := Verdict{Status: Progressing, Desired: 1}
	if d.Spec.Replicas != nil {
		v.Desired = *d.Spec.Replicas
	}
	if d.Status.ObservedGeneration < d.Generation {
		v.Reason, v.Message = StatusStale, "waiting for the Deployment controller to see the new specification"
		return v
	}
	current := NewReplicaSet(d, in.ReplicaSets)
	var pods []*corev1.Pod
	for _, pod := range in.Pods {
		owner := metav1.GetControllerOf(pod)
		if owner == nil || !ownedBy(d, owner, in.ReplicaSets) || ended(pod) {
			continue
		}
		if current != nil && owner.UID == current.UID {
			pods = append(pods, pod)
			continue
		}
		v.Old++
		if podReady(pod) {
			v.OldReady++
		}
	}
	if current == nil {
		v.Reason, v.Message = StatusStale, "waiting for the Deployment controller to create the new ReplicaSet"
		return v
	}
	v.Updated = int32(len(pods))
	v.Available = current.Status.AvailableReplicas
	judgePods(&v, pods, in.Events, in.Tolerance, in.Now)
	if v.Status == Failed {
		return v
	}
	if refused(&v, current, in); v.Status == Failed {
		return v
	}
	// Pods of other versions that are not ready any more are on their way out: as
	// for Kubernetes itself, completeness does not wait for their end.
	complete := d.Status.UpdatedReplicas == v.Desired && d.Status.Replicas == v.Desired && d.Status.AvailableReplicas == v.Desired &&
		v.Available == v.Desired && v.Ready >= v.Desired && v.OldReady == 0
	switch {
	case complete && v.Status == Progressing:
		v.Status, v.Message = Ready, fmt.Sprintf("%d of %d pods ready", v.Ready, v.Desired)
	case complete:
		// All are up although something happened that is within tolerance.
		v.Status = Ready
	case v.Status == Progressing:
		v.Reason, v.Message = NotReady, fmt.Sprintf("%d of %d new pods ready, %d available", v.Ready, v.Desired, v.Available)
	}
	return v
}

// ended pods are left by evictions and node shutdowns; the controller has
// replaced them.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded ||
		(pod.Status.Phase == corev1.PodFailed && pod.Status.Reason != "")
}

// NewReplicaSet finds the ReplicaSet that runs the Deployment's present
// template; nil when the controller has not made it yet.
func NewReplicaSet(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	revision := d.Annotations[revisionAnnotation]
	for _, rs := range sets {
		if metav1.IsControlledBy(rs, d) && revision != "" && rs.Annotations[revisionAnnotation] == revision {
			return rs
		}
	}
	return nil
}

func ownedBy(d *appsv1.Deployment, owner *metav1.OwnerReference, sets []*appsv1.ReplicaSet) bool {
	for _, rs := range sets {
		if rs.UID == owner.UID {
			return metav1.IsControlledBy(rs, d)
		}
	}
	return false
}

// StatefulSet judges a StatefulSet; pods may hold others' too.
func StatefulSet(s *appsv1.StatefulSet, pods []*corev1.Pod, events []*corev1.Event, tolerance Tolerance, now time.Time) Verdict {
	if s == nil {
		return Verdict{Status: Progressing, Reason: WorkloadMissing, Message: "the StatefulSet does not exist yet"}
	}
	v := Verdict{Status: Progressing, Desired: 1}
	if s.Spec.Replicas != nil {
		v.Desired = *s.Spec.Replicas
	}
	// Pods below the partition stay of the old version: that is no lack.
	updated := v.Desired
	if rolling := s.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
		updated = max(v.Desired-*rolling.Partition, 0)
	}
	if s.Status.ObservedGeneration < s.Generation {
		v.Reason, v.Message = StatusStale, "waiting for the StatefulSet controller to see the new specification"
		return v
	}
	return byHash(v, s, pods, events, s.Status.UpdateRevision, "controller-revision-hash",
		s.Status.UpdatedReplicas >= updated && s.Status.Replicas == v.Desired && s.Status.AvailableReplicas == v.Desired, s.Status.AvailableReplicas, tolerance, now)
}

// NewPods lists the names of a StatefulSet's ready pods of its newest version.
func NewPods(s *appsv1.StatefulSet, pods []*corev1.Pod) []string {
	var names []string
	for _, pod := range pods {
		if metav1.IsControlledBy(pod, s) && pod.Labels[appsv1.ControllerRevisionHashLabelKey] == s.Status.UpdateRevision && podReady(pod) {
			names = append(names, pod.Name)
		}
	}
	return names
}

// DaemonSet judges a DaemonSet; pods may hold others' too.
func DaemonSet(d *appsv1.DaemonSet, pods []*corev1.Pod, events []*corev1.Event, tolerance Tolerance, now time.Time) Verdict {
	if d == nil {
		return Verdict{Status: Progressing, Reason: WorkloadMissing, Message: "the DaemonSet does not exist yet"}
	}
	v := Verdict{Status: Progressing, Desired: d.Status.DesiredNumberScheduled}
	if d.Status.ObservedGeneration < d.Generation {
		v.Reason, v.Message = StatusStale, "waiting for the DaemonSet controller to see the new specification"
		return v
	}
	// The hash of a DaemonSet's newest template is not in its status, but the
	// generation of the template is on the object and on its pods.
	return byHash(v, d, pods, events, d.Annotations[appsv1.DeprecatedTemplateGeneration], "pod-template-generation",
		d.Status.UpdatedNumberScheduled == v.Desired && d.Status.NumberAvailable == v.Desired,
		d.Status.NumberAvailable, tolerance, now)
}

func byHash(v Verdict, owner metav1.Object, pods []*corev1.Pod, events []*corev1.Event, hash, label string, complete bool, available int32,
	tolerance Tolerance, now time.Time) Verdict {
	var mine []*corev1.Pod
	for _, pod := range pods {
		switch {
		case !metav1.IsControlledBy(pod, owner) || ended(pod):
		case hash != "" && pod.Labels[label] != hash:
			v.Old++
			if podReady(pod) {
				v.OldReady++
			}
		default:
			mine = append(mine, pod)
		}
	}
	v.Updated, v.Available = int32(len(mine)), available
	judgePods(&v, mine, events, tolerance, now)
	if v.Status != Failed && v.Updated+v.Old < v.Desired {
		refusedByEvents(&v, owner, pods, events, tolerance, now)
	}
	switch {
	case v.Status == Failed:
	case complete:
		v.Status = Ready
		if v.Message == "" {
			v.Message = fmt.Sprintf("%d of %d pods ready", v.Ready, v.Desired)
		}
	case v.Status == Progressing:
		v.Reason, v.Message = NotReady, fmt.Sprintf("%d of %d new pods ready", v.Ready, v.Desired)
	}
	return v
}
