// Package health judges workloads from what the cluster shows: objects in,
// verdict with a reason out. It is pure, and stricter than Kubernetes' own
// conditions: causes that waiting cannot cure are called failed at once, while
// a blip stays "progressing".
package health

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Status is how a workload does.
type Status string

// The statuses, best to worst.
const (
	Ready       Status = "ready"       // all wanted pods of the version are available
	Progressing Status = "progressing" // not yet, and nothing speaks against it
	Degraded    Status = "degraded"    // not yet, and something went wrong that may pass
	Failed      Status = "failed"      // waiting cannot help
)

// Reason says why in one word that runbooks list.
type Reason string

// The reasons.
const (
	NoReason             Reason = ""
	ImagePullFailed      Reason = "ImagePullFailed"
	InvalidImageName     Reason = "InvalidImageName"
	ContainerConfigError Reason = "ContainerConfigError"
	ContainerCannotRun   Reason = "ContainerCannotRun"
	CrashLoop            Reason = "CrashLoop"
	CrashedAfterReady    Reason = "CrashedAfterReady"
	InitContainerFailed  Reason = "InitContainerFailed"
	PodCreationRefused   Reason = "PodCreationRefused"
	Unschedulable        Reason = "Unschedulable"
	VolumeMountFailed    Reason = "VolumeMountFailed"
	PodFailed            Reason = "PodFailed"    // evicted, or ended on its own
	PodDisrupted         Reason = "PodDisrupted" // taken away by the cluster: node lost, drain, preemption
	NotReady             Reason = "NotReady"
	DeadlineExceeded     Reason = "DeadlineExceeded"
	StatusStale          Reason = "StatusStale" // the controller has not seen the newest specification yet
	WorkloadMissing      Reason = "WorkloadMissing"
)

// Tolerance says what counts as a blip. Use DefaultTolerance and change fields.
type Tolerance struct {
	// Since is when the rollout began: what containers did before does not
	// count. Pods that are part of a new version may be older than it, when the
	// version changed something other than pods.
	Since time.Time
	// Restarts of containers, over all new pods together, that are accepted.
	Restarts int32
	// CrashAfterReady accepts a crash of a pod that was ready already.
	CrashAfterReady bool
	// ImagePull is how long pulls may fail for a cause that can pass (a
	// registry that answers 500); a definite no fails at once.
	ImagePull time.Duration
	// Scheduling, Creation and Mount are how long a pod may stay without a node, without
	// being created (quota, admission), without its volumes or what else its node has
	// not come to yet.
	Scheduling, Creation, Mount time.Duration
	// ScaleUp is how long a pod may stay without a node although a cluster
	// autoscaler said that it works on it, counted from when it last said so.
	ScaleUp time.Duration
	// Config is how long configuration may be missing: the kubelet's cache may lag.
	Config time.Duration
}

// DefaultTolerance is what a rolling update uses.
var DefaultTolerance = Tolerance{
	Restarts: 1, CrashAfterReady: true, ImagePull: 30 * time.Second, Scheduling: time.Minute,
	Creation: 10 * time.Second, Mount: time.Minute, Config: 3 * time.Second,
	ScaleUp: 15 * time.Minute, // the Cluster Autoscaler's own --max-node-provision-time
}

// CanaryTolerance judges a few pods that exist to be judged: one crash of a pod
// that had turned ready is enough.
var CanaryTolerance = func() Tolerance {
	t := DefaultTolerance
	t.CrashAfterReady = false
	return t
}()

// Container points at the container that shows the failure, for its log.
type Container struct {
	Pod      string `json:"pod"`
	Name     string `json:"name"`
	ExitCode int32  `json:"exitCode,omitempty"`
	// Previous is true when the log to read is that of the run before.
	Previous bool `json:"-"`
	// First is true when the container has not been started again so far, which the
	// kubelet does at once after its first end.
	First bool `json:"-"`
}

// Verdict is a judgement of the pods of one version of a workload.
type Verdict struct {
	Status  Status `json:"status"`
	Reason  Reason `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Counts of pods. Desired is what the specification wants; Updated, Ready and
	// Available are pods of the judged version; Old are pods of other versions
	// that still exist, OldReady those of them that serve.
	Desired   int32 `json:"desired"`
	Updated   int32 `json:"updated"`
	Ready     int32 `json:"ready"`
	Available int32 `json:"available"`
	Old       int32 `json:"old,omitempty"`
	OldReady  int32 `json:"oldReady,omitempty"`
	Restarts  int32 `json:"restarts,omitempty"`
	// Failing is set when a container's log may tell more.
	Failing *Container `json:"failing,omitempty"`
	// Recheck, when not zero, is when the verdict may change with time alone.
	Recheck time.Time `json:"-"`
}

// symptom is one thing wrong with one pod. Equal reasons are counted together.
type symptom struct {
	reason  Reason
	hard    bool // waiting cannot help
	detail  string
	failing *Container
	recheck time.Time
}

// judgePods folds the symptoms of pods into v: hard ones fail it, others degrade it.
func judgePods(v *Verdict, pods []*corev1.Pod, events []*corev1.Event, tolerance Tolerance, now time.Time) {
	var worst *symptom
	counts := map[Reason]int{}
	for _, pod := range pods {
		v.Restarts += restarts(pod, tolerance.Since)
		if podReady(pod) {
			v.Ready++
		}
	}
	for _, pod := range pods {
		s := judgePod(pod, events, tolerance, v.Restarts, now)
		if s == nil {
			continue
		}
		counts[s.reason]++
		if worst == nil || (s.hard && !worst.hard) {
			worst = s
		}
		if !s.recheck.IsZero() && (v.Recheck.IsZero() || s.recheck.Before(v.Recheck)) {
			v.Recheck = s.recheck
		}
	}
	if worst == nil {
		return
	}
	v.Status = Degraded
	if worst.hard {
		v.Status = Failed
	}
	v.Reason = worst.reason
	v.Failing = worst.failing
	v.Message = fmt.Sprintf("%d of %d new pods: %s", counts[worst.reason], max(int(v.Desired), len(pods)), worst.detail)
}

// restarts counts those since the rollout began. Of a pod that is older, only
// the newest is known to have happened since.
func restarts(pod *corev1.Pod, since time.Time) int32 {
	old := pod.CreationTimestamp.Time.Before(since.Truncate(time.Second))
	var n int32
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		switch {
		case !old:
			n += s.RestartCount
		case s.RestartCount > 0 && s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.FinishedAt.After(since):
			n++
		}
	}
	return n
}

func podReady(pod *corev1.Pod) bool {
	c := podCondition(pod, corev1.PodReady)
	return pod.DeletionTimestamp == nil && c != nil && c.Status == corev1.ConditionTrue
}

func podCondition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Text taken from the cluster is bounded; its end often says the most.
const (
	headDetail = 200
	tailDetail = 200
)

func clip(s string) string {
	if len(s) <= headDetail+tailDetail {
		return s
	}
	return strings.ToValidUTF8(s[:headDetail], "") + " … " + strings.ToValidUTF8(s[len(s)-tailDetail:], "")
}
