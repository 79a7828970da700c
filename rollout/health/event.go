package health

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// eventTime is when an event last happened: older and newer clients of the
// events API fill different fields.
func eventTime(e *corev1.Event) time.Time {
	at := e.LastTimestamp.Time
	if e.Series != nil && e.Series.LastObservedTime.After(at) {
		at = e.Series.LastObservedTime.Time
	}
	if e.EventTime.After(at) {
		at = e.EventTime.Time
	}
	return at
}

// eventStart is when an event first happened.
func eventStart(e *corev1.Event) time.Time {
	switch {
	case !e.FirstTimestamp.IsZero():
		return e.FirstTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// eventAbout finds the newest event about the pod with one of the reasons; nil
// when there is none.
func eventAbout(events []*corev1.Event, pod *corev1.Pod, reasons ...string) *corev1.Event {
	var newest *corev1.Event
	for _, e := range events {
		if e.InvolvedObject.UID != pod.UID || (newest != nil && !eventTime(e).After(eventTime(newest))) {
			continue
		}
		for _, reason := range reasons {
			if e.Reason == reason {
				newest = e
			}
		}
	}
	return newest
}

// warning finds the newest warning about the pod with the reason, and how often it came.
func warning(events []*corev1.Event, pod *corev1.Pod, reason string) (message string, count int32) {
	var newest time.Time
	for _, e := range events {
		if e.Reason != reason || e.InvolvedObject.UID != pod.UID || e.Type != corev1.EventTypeWarning {
			continue
		}
		// "Error: ErrImagePull" accompanies the event that tells the cause.
		if strings.HasPrefix(e.Message, "Error: ") {
			continue
		}
		n := max(e.Count, 1)
		if e.Series != nil {
			n = max(n, e.Series.Count)
		}
		count += n
		if at := eventTime(e); message == "" || at.After(newest) {
			message, newest = e.Message, at
		}
	}
	return message, count
}
