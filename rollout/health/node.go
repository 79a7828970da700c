package health

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Events by which autoscalers say that they bring a node for a pod, and that
// they do not. The first and the last are the Cluster Autoscaler's
// (https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md,
// "What events are emitted by CA?"), Nominated is Karpenter's.
const (
	triggeredScaleUp  = "TriggeredScaleUp"
	nominated         = "Nominated"
	notTriggerScaleUp = "NotTriggerScaleUp"
)

// judgeUnscheduled judges a pod that has no node. Where somebody works on that,
// it has the time that this takes; the rollout's own deadline bounds that too.
func judgeUnscheduled(pod *corev1.Pod, message string, events []*corev1.Event, tolerance Tolerance, now time.Time) *symptom {
	detail, at := "Unschedulable: "+message, pod.CreationTimestamp.Add(tolerance.Scheduling)
	work, refusal := eventAbout(events, pod, triggeredScaleUp, nominated), eventAbout(events, pod, notTriggerScaleUp)
	switch {
	case work != nil && (refusal == nil || !eventTime(refusal).After(eventTime(work))):
		detail = fmt.Sprintf("waiting for a node that the cluster autoscaler brings: %s: %s (%s)", work.Reason, work.Message, detail)
		if until := eventTime(work).Add(tolerance.ScaleUp); until.After(at) {
			at = until
		}
	case pod.Status.NominatedNodeName != "":
		detail = fmt.Sprintf("waiting for room on node %s, which less important pods make (%s)", pod.Status.NominatedNodeName, detail)
		at = pod.CreationTimestamp.Add(tolerance.ScaleUp)
	case refusal != nil:
		detail += "; the cluster autoscaler brings no node: " + refusal.Message
	}
	s := &symptom{reason: Unschedulable, detail: clip(detail), hard: !now.Before(at)}
	if !s.hard {
		s.recheck = at
	}
	return s
}

// disrupted tells that the cluster itself takes a pod away, whatever the version
// that it runs: its controller makes another. See
// https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions.
func disrupted(pod *corev1.Pod) *symptom {
	c := podCondition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue {
		return nil
	}
	return &symptom{reason: PodDisrupted, detail: clip(fmt.Sprintf("the cluster takes pod %s away: %s: %s", pod.Name, c.Reason, c.Message))}
}

// onLostNode tells that a pod which is not ready is on a node that does not answer.
func onLostNode(pod *corev1.Pod, events []*corev1.Event) *symptom {
	if podReady(pod) || eventAbout(events, pod, "NodeNotReady") == nil {
		return nil
	}
	return &symptom{reason: PodDisrupted, detail: clip(fmt.Sprintf("node %s of pod %s is not ready", pod.Spec.NodeName, pod.Name))}
}
