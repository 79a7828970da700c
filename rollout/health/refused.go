package health

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// refused judges pods that could not even be created.
func refused(v *Verdict, current *appsv1.ReplicaSet, in Input) {
	for _, c := range current.Status.Conditions {
		if c.Type != appsv1.ReplicaSetReplicaFailure || c.Status != corev1.ConditionTrue || v.Updated >= v.Desired {
			continue
		}
		v.Reason = PodCreationRefused
		v.Status = Degraded
		v.Message = clip(fmt.Sprintf("%d of %d new pods: %s: %s", max(v.Desired-v.Updated, 1), v.Desired, c.Reason, c.Message))
		at := c.LastTransitionTime.Add(in.Tolerance.Creation)
		if !in.Now.Before(at) {
			v.Status = Failed
		} else if v.Recheck.IsZero() || at.Before(v.Recheck) {
			v.Recheck = at
		}
		return
	}
}

// refusedByEvents judges pods that could not be created where the controller
// says so by events alone: those of StatefulSets and DaemonSets.
func refusedByEvents(v *Verdict, owner metav1.Object, pods []*corev1.Pod, events []*corev1.Event, tolerance Tolerance, now time.Time) {
	var newest *corev1.Event
	for _, e := range events {
		if e.Type == corev1.EventTypeWarning && e.Reason == "FailedCreate" && e.InvolvedObject.UID == owner.GetUID() &&
			!eventTime(e).Before(tolerance.Since.Truncate(time.Second)) && (newest == nil || eventTime(e).After(eventTime(newest))) {
			newest = e
		}
	}
	if newest == nil {
		return
	}
	for _, pod := range pods {
		// A pod that came later shows that this refusal is over.
		if metav1.IsControlledBy(pod, owner) && pod.CreationTimestamp.After(eventTime(newest)) {
			return
		}
	}
	missing := max(v.Desired-v.Updated-v.Old, 1)
	v.Reason, v.Status = PodCreationRefused, Degraded
	v.Message = clip(fmt.Sprintf("%d of %d pods: %s: %s", missing, v.Desired, newest.Reason, newest.Message))
	began := eventStart(newest)
	if began.Before(tolerance.Since) {
		began = tolerance.Since
	}
	if at := began.Add(tolerance.Creation); !now.Before(at) {
		v.Status = Failed
	} else if v.Recheck.IsZero() || at.Before(v.Recheck) {
		v.Recheck = at
	}
}
