package health

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// judgePod finds the worst thing wrong with one pod; nil when nothing is.
// totalRestarts are those of all pods of the version: a crash loop spread over
// pods is one all the same.
func judgePod(pod *corev1.Pod, events []*corev1.Event, tolerance Tolerance, totalRestarts int32, now time.Time) *symptom {
	if pod.DeletionTimestamp != nil {
		return disrupted(pod)
	}
	since := pod.CreationTimestamp.Time
	scheduled := podCondition(pod, corev1.PodScheduled)
	if scheduled != nil && scheduled.Status == corev1.ConditionTrue {
		since = scheduled.LastTransitionTime.Time
	}
	// patient gives a symptom time: hard only after it.
	patient := func(reason Reason, wait time.Duration, detail string) *symptom {
		at := since.Add(wait)
		s := &symptom{reason: reason, detail: clip(detail), hard: !now.Before(at)}
		if !s.hard {
			s.recheck = at
		}
		return s
	}
	if pod.Status.Phase == corev1.PodFailed {
		return &symptom{reason: PodFailed, detail: clip(fmt.Sprintf("pod failed: %s %s", pod.Status.Reason, pod.Status.Message))}
	}
	if scheduled != nil && scheduled.Status == corev1.ConditionFalse && scheduled.Reason == corev1.PodReasonUnschedulable {
		return judgeUnscheduled(pod, scheduled.Message, events, tolerance, now)
	}
	var soft *symptom
	for i := range pod.Status.InitContainerStatuses {
		status := &pod.Status.InitContainerStatuses[i]
		s := judgeWaiting(pod, status, events, tolerance, patient)
		if s == nil && status.RestartCount > tolerance.Restarts && (status.State.Terminated != nil || status.State.Waiting != nil) {
			s = &symptom{reason: InitContainerFailed, hard: true, failing: failingContainer(pod, status),
				detail: fmt.Sprintf("init container %s failed %d times%s", status.Name, status.RestartCount+1, exitText(status))}
		}
		if s != nil && s.reason == CrashLoop {
			s.reason = InitContainerFailed
		}
		if s != nil && s.hard {
			return s
		}
		soft = first(soft, s)
	}
	for i := range pod.Status.ContainerStatuses {
		status := &pod.Status.ContainerStatuses[i]
		s := judgeWaiting(pod, status, events, tolerance, patient)
		if s == nil || !s.hard {
			s = first(judgeRestarts(pod, status, tolerance, totalRestarts), s)
		}
		if s != nil && s.hard {
			return s
		}
		soft = first(soft, s)
	}
	if soft != nil {
		return soft
	}
	if waitingForContainers(pod) {
		if message, count := warning(events, pod, "FailedMount"); count > 0 {
			return patient(VolumeMountFailed, tolerance.Mount, "FailedMount: "+message)
		}
		if message, count := warning(events, pod, "FailedAttachVolume"); count > 0 {
			return patient(VolumeMountFailed, tolerance.Mount, "FailedAttachVolume: "+message)
		}
	}
	if s := disrupted(pod); s != nil {
		return s
	}
	return onLostNode(pod, events)
}

func first(a, b *symptom) *symptom {
	if a != nil {
		return a
	}
	return b
}

func judgeWaiting(pod *corev1.Pod, status *corev1.ContainerStatus, events []*corev1.Event, tolerance Tolerance,
	patient func(Reason, time.Duration, string) *symptom) *symptom {
	waiting := status.State.Waiting
	if waiting == nil {
		return nil
	}
	detail := fmt.Sprintf("%s: %s", waiting.Reason, waiting.Message)
	switch waiting.Reason {
	case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError":
		message, attempts := warning(events, pod, "Failed")
		why := waiting.Message
		if waiting.Reason == "ImagePullBackOff" && message != "" {
			why = message // the back-off itself does not say why
		}
		detail = fmt.Sprintf("%s: %s: %s", waiting.Reason, status.Image, pullCause(why, status.Image))
		if waiting.Reason == "ErrImageNeverPull" || definitePullFailure(waiting.Message) || definitePullFailure(message) {
			return &symptom{reason: ImagePullFailed, hard: true, detail: clip(detail)}
		}
		s := patient(ImagePullFailed, tolerance.ImagePull, detail)
		// Time alone is not enough: a large image may fail once after minutes.
		if s.hard && attempts < 2 && waiting.Reason != "ImagePullBackOff" {
			s.hard = false
		}
		return s
	case "InvalidImageName":
		return &symptom{reason: InvalidImageName, hard: true, detail: clip(detail)}
	case "CreateContainerConfigError":
		if nodeIsBehind(waiting.Message) {
			return patient(ContainerConfigError, tolerance.Mount, detail)
		}
		return patient(ContainerConfigError, tolerance.Config, detail)
	case "CreateContainerError", "RunContainerError":
		if nodeIsBehind(waiting.Message) {
			return patient(ContainerCannotRun, tolerance.Mount, detail)
		}
		if status.RestartCount > 0 || status.LastTerminationState.Terminated != nil {
			return &symptom{reason: ContainerCannotRun, hard: true, detail: clip(detail)}
		}
		return patient(ContainerCannotRun, tolerance.Config, detail)
	case "CrashLoopBackOff":
		if terminated := status.LastTerminationState.Terminated; terminated != nil && (terminated.Reason == "StartError" || terminated.Reason == "ContainerCannotRun") {
			return &symptom{reason: ContainerCannotRun, hard: true, detail: clip(terminated.Reason + ": " + terminated.Message)}
		}
		return &symptom{reason: CrashLoop, hard: status.RestartCount > tolerance.Restarts, failing: failingContainer(pod, status),
			detail: clip(fmt.Sprintf("CrashLoopBackOff: container %s crashed %d times%s", status.Name, status.RestartCount+1, exitText(status)))}
	}
	return nil
}

// nodeIsBehind tells whether a container could not be made because its node has not
// come to it yet: the kubelet tries again, and that says nothing of the release.
func nodeIsBehind(message string) bool {
	for _, passing := range []string{
		"failed to sync configmap cache", "failed to sync secret cache", // not read from the API server yet
		"services have not yet been read at least once", // after a restart of the kubelet
		"context deadline exceeded", "is reserved for",  // containerd is busy, and then still busy with the same container
	} {
		if strings.Contains(message, passing) {
			return true
		}
	}
	return false
}

func judgeRestarts(pod *corev1.Pod, status *corev1.ContainerStatus, tolerance Tolerance, total int32) *symptom {
	crash := lastCrash(status)
	if crash == nil || crash.FinishedAt.Time.Before(tolerance.Since.Truncate(time.Second)) {
		return nil
	}
	s := &symptom{reason: CrashLoop, failing: failingContainer(pod, status),
		detail: fmt.Sprintf("container %s crashed, %d restarts over all new pods%s", status.Name, total, exitText(status))}
	if !tolerance.CrashAfterReady && wasReadyBefore(pod, crash) {
		s.reason, s.hard = CrashedAfterReady, true
		s.detail = fmt.Sprintf("container %s crashed after its pod had turned ready%s", status.Name, exitText(status))
		return s
	}
	s.hard = total > tolerance.Restarts
	return s
}

// lastCrash is the newest end of the container that was not wanted.
func lastCrash(status *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if status.State.Terminated != nil {
		return status.State.Terminated
	}
	if status.RestartCount > 0 {
		return status.LastTerminationState.Terminated
	}
	return nil
}

// wasReadyBefore tells whether the pod's containers were ready during the run
// that ended in crash: then that condition has changed since the run began (to
// true, and back with the crash); otherwise it has stayed false since before.
// Readiness gates do not matter here: a canary pod may crash while it is dark.
func wasReadyBefore(pod *corev1.Pod, crash *corev1.ContainerStateTerminated) bool {
	c := podCondition(pod, corev1.ContainersReady)
	if c == nil {
		c = podCondition(pod, corev1.PodReady)
	}
	return c != nil && (c.Status == corev1.ConditionTrue || c.LastTransitionTime.After(crash.StartedAt.Time))
}

func failingContainer(pod *corev1.Pod, status *corev1.ContainerStatus) *Container {
	c := &Container{Pod: pod.Name, Name: status.Name}
	if crash := lastCrash(status); crash != nil {
		c.ExitCode = crash.ExitCode
	}
	// When the container is up again, or waits to be, the log of interest is the one before.
	c.Previous = status.State.Terminated == nil && status.State.Waiting == nil
	c.First = status.RestartCount == 0
	return c
}

func exitText(status *corev1.ContainerStatus) string {
	crash := lastCrash(status)
	if crash == nil {
		return ""
	}
	if crash.Reason == "OOMKilled" {
		return " (out of memory)"
	}
	if crash.Signal != 0 {
		return fmt.Sprintf(" (signal %d)", crash.Signal)
	}
	return fmt.Sprintf(" (exit code %d)", crash.ExitCode)
}

func waitingForContainers(pod *corev1.Pod) bool {
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Waiting != nil && s.State.Waiting.Reason == "ContainerCreating" {
			return true
		}
	}
	return len(pod.Status.ContainerStatuses) == 0
}

// definitePulls are parts of messages by which a registry or runtime says that
// trying again gives the same answer. Sources: containerd's resolver errors and
// the error codes of the OCI distribution specification.
var definitePulls = []string{
	"not found", "manifest unknown", "name unknown", "name_unknown", "manifest_unknown", "repository does not exist",
	"pull access denied", "unauthorized", "authorization failed", "denied:", "403 forbidden", "401 unauthorized",
	"invalid reference", "no match for platform", "invalid image name", "unsupported media type", "failed size validation",
}

// pullCause takes the wrapping off a runtime's message, which repeats the
// reference several times in front of what went wrong.
func pullCause(message, image string) string {
	if i := strings.LastIndex(message, `": `); i >= 0 {
		message = message[i+len(`": `):]
	}
	return strings.TrimPrefix(message, image+": ")
}

func definitePullFailure(message string) bool {
	message = strings.ToLower(message)
	for _, part := range definitePulls {
		if strings.Contains(message, part) {
			return true
		}
	}
	return false
}
