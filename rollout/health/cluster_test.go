package health

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// about is an event about the object with the UID that happened n times until the second.
func about(uid, kind, reason, message string, first, last int) *corev1.Event {
	return &corev1.Event{InvolvedObject: corev1.ObjectReference{UID: types.UID(uid)}, Type: kind, Reason: reason, Message: message, Count: 2,
		FirstTimestamp: at(first), LastTimestamp: at(last)}
}

// What the cluster does with pods, told from what the version does to itself.
func TestPodsThatTheClusterHinders(t *testing.T) {
	const minute = 60
	scaleUp := about("a", "Normal", "TriggeredScaleUp", "pod triggered scale-up: [{pool 1->2 (max: 5)}]", 11, 11)
	refusal := about("a", "Normal", "NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached", 12, 50)
	karpenter := about("a", "Normal", "Nominated", "Pod should schedule on: nodeclaim/default-x2v", 5, 70)
	taken := func(p *corev1.Pod, reason string) *corev1.Pod {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: "said by the cluster", LastTransitionTime: at(9)})
		return p
	}
	going := func(p *corev1.Pod) *corev1.Pod {
		when := at(10)
		p.DeletionTimestamp = &when
		return p
	}
	creating := func() *corev1.Pod { return pod("a", "rs2", waiting("ContainerCreating", "")) }
	evicted := pod("a", "rs2", corev1.ContainerStatus{})
	evicted.Status.Phase, evicted.Status.Reason, evicted.Status.Message = corev1.PodFailed, "Evicted", "The node was low on resource: memory"
	preempting := unscheduled()
	preempting.Status.NominatedNodeName = "n1"
	for name, c := range map[string]struct {
		pod    *corev1.Pod
		events []*corev1.Event
		after  int // seconds since the beginning
		status Status
		reason Reason
		says   string
	}{
		"no node, no autoscaler":                 {pod: unscheduled(), after: minute, status: Failed, reason: Unschedulable, says: "0/1 nodes are available"},
		"an autoscaler works on it":              {pod: unscheduled(), events: []*corev1.Event{scaleUp}, after: 5 * minute, status: Degraded, reason: Unschedulable, says: "pool 1->2"},
		"and no node comes of it":                {pod: unscheduled(), events: []*corev1.Event{scaleUp}, after: 16 * minute, status: Failed, reason: Unschedulable},
		"it cannot":                              {pod: unscheduled(), events: []*corev1.Event{refusal}, after: minute, status: Failed, reason: Unschedulable, says: "max node group size reached"},
		"it cannot any more":                     {pod: unscheduled(), events: []*corev1.Event{scaleUp, refusal}, after: minute, status: Failed, reason: Unschedulable, says: "max node group size reached"},
		"it could not at first":                  {pod: unscheduled(), events: []*corev1.Event{about("a", "Normal", "NotTriggerScaleUp", "x", 2, 3), scaleUp}, after: minute, status: Degraded, reason: Unschedulable},
		"Karpenter works on it":                  {pod: unscheduled(), events: []*corev1.Event{karpenter}, after: 10 * minute, status: Degraded, reason: Unschedulable, says: "nodeclaim/default-x2v"},
		"an autoscaler works on another pod":     {pod: unscheduled(), events: []*corev1.Event{about("b", "Normal", "TriggeredScaleUp", "x", 5, 5)}, after: minute, status: Failed, reason: Unschedulable},
		"less important pods make room":          {pod: preempting, after: 2 * minute, status: Degraded, reason: Unschedulable, says: "node n1"},
		"a volume is late":                       {pod: creating(), events: []*corev1.Event{about("a", "Warning", "FailedMount", `secret "x" not found`, 2, 20)}, after: 30, status: Degraded, reason: VolumeMountFailed, says: `secret "x" not found`},
		"a volume does not come":                 {pod: creating(), events: []*corev1.Event{about("a", "Warning", "FailedMount", `secret "x" not found`, 2, 60)}, after: 62, status: Failed, reason: VolumeMountFailed},
		"a disk is attached elsewhere":           {pod: creating(), events: []*corev1.Event{about("a", "Warning", "FailedAttachVolume", "Multi-Attach error", 2, 60)}, after: 62, status: Failed, reason: VolumeMountFailed, says: "Multi-Attach"},
		"evicted: its replacement is waited for": {pod: evicted, after: minute, status: Progressing, reason: NotReady},
		"ended without a reason": {pod: func() *corev1.Pod {
			p := pod("a", "rs2", corev1.ContainerStatus{})
			p.Status.Phase = corev1.PodFailed
			return p
		}(), after: minute, status: Degraded, reason: PodFailed},
		"preempted":                               {pod: taken(going(creating()), "PreemptionByScheduler"), after: minute, status: Degraded, reason: PodDisrupted, says: "PreemptionByScheduler"},
		"drained, and never gone":                 {pod: taken(going(creating()), "EvictionByEvictionAPI"), after: 60 * minute, status: Degraded, reason: PodDisrupted},
		"its node is lost, and it never goes":     {pod: taken(going(pod("a", "rs2", corev1.ContainerStatus{}, unready(8))), "DeletionByTaintManager"), after: 60 * minute, status: Degraded, reason: PodDisrupted, says: "DeletionByTaintManager"},
		"its node is not ready":                   {pod: pod("a", "rs2", corev1.ContainerStatus{}, unready(8)), events: []*corev1.Event{about("a", "Warning", "NodeNotReady", "Node is not ready", 8, 8)}, after: minute, status: Degraded, reason: PodDisrupted, says: "not ready"},
		"replaced like any old pod":               {pod: going(creating()), after: minute, status: Progressing, reason: NotReady},
		"an init container waits for its image":   {pod: initializing("ImagePullBackOff", "not found", 0), after: minute, status: Failed, reason: ImagePullFailed},
		"an init container failed once":           {pod: initializing("CrashLoopBackOff", "", 1), after: minute, status: Degraded, reason: InitContainerFailed},
		"an init container fails again and again": {pod: initializing("CrashLoopBackOff", "", 3), after: minute, status: Failed, reason: InitContainerFailed},
	} {
		t.Run(name, func(t *testing.T) {
			in := scene(c.pod)
			in.Events, in.Now = c.events, at(c.after).Time
			v := Deployment(in)
			require.Equal(t, c.status, v.Status, "%+v", v)
			require.Equal(t, c.reason, v.Reason, "%+v", v)
			require.Contains(t, v.Message, c.says)
			if c.reason == Unschedulable && v.Status == Degraded {
				require.True(t, v.Recheck.After(in.Now), "nothing would look again")
				in.Now = v.Recheck
				require.Equal(t, Failed, Deployment(in).Status, "and that is what time changes")
			}
		})
	}
}

func initializing(reason, message string, restarts int32) *corev1.Pod {
	p := pod("a", "rs2", waiting("PodInitializing", ""))
	s := waiting(reason, message)
	s.Name, s.RestartCount = "migrate", restarts
	p.Status.InitContainerStatuses = []corev1.ContainerStatus{s}
	return p
}

// Controllers of StatefulSets and DaemonSets say by events alone that pods are
// refused.
func TestRefusedPodsOfOtherWorkloads(t *testing.T) {
	three := int32(3)
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", UID: "s", Generation: 2}, Spec: appsv1.StatefulSetSpec{Replicas: &three},
		Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, UpdateRevision: "new"}}
	daemon := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent", UID: "s", Generation: 2}, Status: appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3}}
	older := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-0", UID: "p", Labels: map[string]string{"controller-revision-hash": "new"}, OwnerReferences: owned("StatefulSet", "db", "s"), CreationTimestamp: at(1)}}
	newer := older.DeepCopy()
	newer.CreationTimestamp = at(9)
	said := about("s", "Warning", "FailedCreate", `pods "db-1" is forbidden: exceeded quota: full`, 2, 7)
	tolerance := DefaultTolerance
	tolerance.Since = begin
	for name, c := range map[string]struct {
		pods   []*corev1.Pod
		events []*corev1.Event
		after  int
		status Status
		reason Reason
	}{
		"just now":                     {pods: []*corev1.Pod{older}, events: []*corev1.Event{said}, after: 8, status: Degraded, reason: PodCreationRefused},
		"for long":                     {pods: []*corev1.Pod{older}, events: []*corev1.Event{said}, after: 12, status: Failed, reason: PodCreationRefused},
		"over: a pod came since":       {pods: []*corev1.Pod{newer}, events: []*corev1.Event{said}, after: 60, status: Progressing, reason: NotReady},
		"before the rollout":           {events: []*corev1.Event{about("s", "Warning", "FailedCreate", "x", -60, -30)}, after: 60, status: Progressing, reason: NotReady},
		"of another workload":          {events: []*corev1.Event{about("t", "Warning", "FailedCreate", "x", 2, 7)}, after: 60, status: Progressing, reason: NotReady},
		"since before, and still so":   {events: []*corev1.Event{about("s", "Warning", "FailedCreate", "x", -60, 20)}, after: 60, status: Failed, reason: PodCreationRefused},
		"since before, begun just now": {events: []*corev1.Event{about("s", "Warning", "FailedCreate", "x", -60, 3)}, after: 4, status: Degraded, reason: PodCreationRefused},
	} {
		t.Run(name, func(t *testing.T) {
			v := StatefulSet(set, c.pods, c.events, tolerance, at(c.after).Time)
			require.Equal(t, c.status, v.Status, "%+v", v)
			require.Equal(t, c.reason, v.Reason, "%+v", v)
			v = DaemonSet(daemon, nil, c.events, tolerance, at(c.after).Time)
			if len(c.pods) == 0 {
				require.Equal(t, c.status, v.Status, "%+v", v)
			}
			if c.reason == PodCreationRefused && c.status == Degraded {
				require.False(t, v.Recheck.IsZero())
			}
		})
	}
}

// However good or bad the status looks, it counts for nothing until the
// controller has seen the specification that is judged.
func TestStaleStatusIsIgnored(t *testing.T) {
	three := int32(3)
	tolerance := DefaultTolerance
	tolerance.Since = begin
	in := scene(pod("a", "rs2", corev1.ContainerStatus{}, ready(3)), pod("b", "rs2", corev1.ContainerStatus{}, ready(3)), pod("c", "rs2", corev1.ContainerStatus{}, ready(3)))
	complete(&in)
	require.Equal(t, Ready, Deployment(in).Status)
	in.Deployment.Generation = 3
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", UID: "s", Generation: 2}, Spec: appsv1.StatefulSetSpec{Replicas: &three},
		Status: appsv1.StatefulSetStatus{ObservedGeneration: 1, Replicas: 3, UpdatedReplicas: 3, AvailableReplicas: 3, ReadyReplicas: 3}}
	daemon := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent", UID: "s", Generation: 2},
		Status: appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 3, NumberReady: 3}}
	for kind, v := range map[string]Verdict{"Deployment": Deployment(in), "StatefulSet": StatefulSet(set, nil, nil, tolerance, at(9).Time), "DaemonSet": DaemonSet(daemon, nil, nil, tolerance, at(9).Time)} {
		require.Equal(t, Progressing, v.Status, kind)
		require.Equal(t, StatusStale, v.Reason, kind)
	}
	set.Status.ObservedGeneration, daemon.Status.ObservedGeneration = 2, 2
	require.Equal(t, Ready, StatefulSet(set, nil, nil, tolerance, at(9).Time).Status)
	require.Equal(t, Ready, DaemonSet(daemon, nil, nil, tolerance, at(9).Time).Status)
}

// Clients of the newer events API leave the older fields empty.
func TestEventsOfBothKindsHaveTimes(t *testing.T) {
	fresh := &corev1.Event{EventTime: metav1.NewMicroTime(begin), ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(0)}}
	require.Equal(t, begin, eventTime(fresh))
	require.Equal(t, begin, eventStart(fresh))
	fresh.Series = &corev1.EventSeries{Count: 4, LastObservedTime: metav1.NewMicroTime(begin.Add(time.Minute))}
	require.Equal(t, begin.Add(time.Minute), eventTime(fresh))
	require.Equal(t, begin, eventStart(fresh))
	require.Equal(t, begin, eventStart(&corev1.Event{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(0)}}))
}
