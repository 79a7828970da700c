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

var begin = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(seconds int) metav1.Time {
	return metav1.NewTime(begin.Add(time.Duration(seconds) * time.Second))
}

func owned(kind, name, uid string) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID(uid), Controller: &yes}}
}

// scene is a Deployment of three with a new ReplicaSet "rs2" and an old one "rs1".
func scene(pods ...*corev1.Pod) Input {
	three := int32(3)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "shop", UID: "d", Generation: 2, Annotations: map[string]string{revisionAnnotation: "2"}},
		Spec:       appsv1.DeploymentSpec{Replicas: &three},
		Status:     appsv1.DeploymentStatus{ObservedGeneration: 2},
	}
	set := func(name, revision string) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), OwnerReferences: owned("Deployment", "shop", "d"),
			Annotations: map[string]string{revisionAnnotation: revision}}}
	}
	tolerance := DefaultTolerance
	tolerance.Since = begin
	return Input{Deployment: d, ReplicaSets: []*appsv1.ReplicaSet{set("rs1", "1"), set("rs2", "2")}, Pods: pods, Tolerance: tolerance, Now: at(20).Time}
}

func pod(name, set string, status corev1.ContainerStatus, conditions ...corev1.PodCondition) *corev1.Pod {
	status.Name = "app"
	conditions = append(conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: at(1)})
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), OwnerReferences: owned("ReplicaSet", set, set), CreationTimestamp: at(0)},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: conditions, ContainerStatuses: []corev1.ContainerStatus{status}}}
}

func ready(when int) corev1.PodCondition {
	return corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at(when)}
}

func unready(when int) corev1.PodCondition {
	return corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: at(when)}
}

func waiting(reason, message string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Image: "host/shop:1", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
}

func crashed(restarts int32, started, finished int, again bool) corev1.ContainerStatus {
	end := &corev1.ContainerStateTerminated{ExitCode: 7, StartedAt: at(started), FinishedAt: at(finished)}
	s := corev1.ContainerStatus{RestartCount: restarts, LastTerminationState: corev1.ContainerState{Terminated: end}}
	if again {
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: at(finished)}
	} else {
		s.State.Terminated = end
	}
	return s
}

func TestDeployment(t *testing.T) {
	canary := CanaryTolerance
	canary.Since = begin
	for name, c := range map[string]struct {
		pods   []*corev1.Pod
		change func(*Input)
		status Status
		reason Reason
		says   string
	}{
		"missing":               {change: func(in *Input) { in.Deployment = nil }, status: Progressing, reason: WorkloadMissing},
		"stale status":          {change: func(in *Input) { in.Deployment.Generation = 3 }, status: Progressing, reason: StatusStale},
		"no new ReplicaSet yet": {change: func(in *Input) { in.Deployment.Annotations[revisionAnnotation] = "3" }, status: Progressing, reason: StatusStale},
		"starting":              {pods: []*corev1.Pod{pod("a", "rs2", waiting("ContainerCreating", ""))}, status: Progressing, reason: NotReady},
		"image not found": {pods: []*corev1.Pod{pod("a", "rs2", waiting("ErrImagePull", `rpc error: failed to resolve "host/shop:1": host/shop:1: manifest unknown`))},
			status: Failed, reason: ImagePullFailed, says: "1 of 3 new pods: ErrImagePull: host/shop:1: manifest unknown"},
		"image not found, said by an event": {pods: []*corev1.Pod{pod("a", "rs2", waiting("ImagePullBackOff", "Back-off pulling image"))},
			change: func(in *Input) {
				in.Events = []*corev1.Event{{InvolvedObject: corev1.ObjectReference{UID: "a"}, Type: "Warning", Reason: "Failed", Message: "Failed to pull image: x: not found", Count: 1}}
			}, status: Failed, reason: ImagePullFailed, says: "not found"},
		"registry answers 500 for a moment": {pods: []*corev1.Pod{pod("a", "rs2", waiting("ErrImagePull", "unexpected status 500"))}, status: Degraded, reason: ImagePullFailed},
		"registry answers 500 for long": {pods: []*corev1.Pod{pod("a", "rs2", waiting("ImagePullBackOff", "unexpected status 500"))},
			change: func(in *Input) { in.Now = at(60).Time }, status: Failed, reason: ImagePullFailed},
		"another version's pod":   {pods: []*corev1.Pod{pod("old", "rs1", waiting("ErrImagePull", "not found"))}, status: Progressing, reason: NotReady},
		"another workload's pod":  {pods: []*corev1.Pod{pod("x", "elsewhere", waiting("ErrImagePull", "not found"))}, status: Progressing, reason: NotReady},
		"bad image name":          {pods: []*corev1.Pod{pod("a", "rs2", waiting("InvalidImageName", "x"))}, status: Failed, reason: InvalidImageName},
		"config missing":          {pods: []*corev1.Pod{pod("a", "rs2", waiting("CreateContainerConfigError", `configmap "x" not found`))}, status: Failed, reason: ContainerConfigError},
		"config missing just now": {pods: []*corev1.Pod{pod("a", "rs2", waiting("CreateContainerConfigError", "x"))}, change: func(in *Input) { in.Now = at(2).Time }, status: Degraded, reason: ContainerConfigError},
		"the kubelet has not read the config": {pods: []*corev1.Pod{pod("a", "rs2", waiting("CreateContainerConfigError", "failed to sync configmap cache: timed out waiting for the condition"))},
			status: Degraded, reason: ContainerConfigError},
		"nor for long": {pods: []*corev1.Pod{pod("a", "rs2", waiting("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"))},
			change: func(in *Input) { in.Now = at(61).Time }, status: Failed, reason: ContainerConfigError},
		"the kubelet was restarted": {pods: []*corev1.Pod{pod("a", "rs2", waiting("CreateContainerConfigError", "services have not yet been read at least once, cannot construct envvars"))},
			status: Degraded, reason: ContainerConfigError},
		"the node is too busy to make it": {pods: []*corev1.Pod{pod("a", "rs2", waiting("CreateContainerError", "context deadline exceeded"))}, status: Degraded, reason: ContainerCannotRun},
		"it makes it already":             {pods: []*corev1.Pod{pod("a", "rs2", waiting("CreateContainerError", `name "app_shop" is reserved for "c1"`))}, status: Degraded, reason: ContainerCannotRun},
		"cannot be made":                  {pods: []*corev1.Pod{pod("a", "rs2", waiting("CreateContainerError", "no command specified"))}, status: Failed, reason: ContainerCannotRun},
		"one restart is a blip":           {pods: []*corev1.Pod{pod("a", "rs2", crashed(1, 2, 4, true), unready(1))}, status: Degraded, reason: CrashLoop},
		"two restarts of two pods":        {pods: []*corev1.Pod{pod("a", "rs2", crashed(1, 2, 4, true)), pod("b", "rs2", crashed(1, 2, 4, true))}, status: Failed, reason: CrashLoop, says: "2 of 3 new pods: container app crashed, 2 restarts over all new pods (exit code 7)"},
		"canary crashed when ready":       {pods: []*corev1.Pod{pod("a", "rs2", crashed(1, 2, 4, true), unready(4))}, change: func(in *Input) { in.Tolerance = canary }, status: Failed, reason: CrashedAfterReady},
		"canary crashed at start":         {pods: []*corev1.Pod{pod("a", "rs2", crashed(1, 2, 4, true), unready(1))}, change: func(in *Input) { in.Tolerance = canary }, status: Degraded, reason: CrashLoop},
		"crash before the rollout": {pods: []*corev1.Pod{pod("a", "rs2", crashed(9, -50, -40, true), ready(-39))},
			change: func(in *Input) { in.Pods[0].CreationTimestamp = at(-60) }, status: Progressing, reason: NotReady},
		"unschedulable for a moment": {pods: []*corev1.Pod{unscheduled()}, status: Degraded, reason: Unschedulable},
		"unschedulable":              {pods: []*corev1.Pod{unscheduled()}, change: func(in *Input) { in.Now = at(90).Time }, status: Failed, reason: Unschedulable, says: "Unschedulable: 0/1 nodes"},
		"quota": {change: func(in *Input) {
			in.ReplicaSets[1].Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: "True", Reason: "FailedCreate", Message: "exceeded quota", LastTransitionTime: at(1)}}
		}, status: Failed, reason: PodCreationRefused, says: "exceeded quota"},
		"init container": {pods: []*corev1.Pod{pod("a", "rs2", waiting("PodInitializing", ""))}, change: func(in *Input) {
			s := waiting("CrashLoopBackOff", "")
			s.RestartCount = 2
			s.Name = "migrate"
			in.Pods[0].Status.InitContainerStatuses = []corev1.ContainerStatus{s}
		}, status: Failed, reason: InitContainerFailed},
		"complete": {pods: []*corev1.Pod{pod("a", "rs2", corev1.ContainerStatus{}, ready(3)), pod("b", "rs2", corev1.ContainerStatus{}, ready(3)), pod("c", "rs2", corev1.ContainerStatus{}, ready(3))},
			change: complete, status: Ready},
		"complete, but an old pod still serves": {pods: []*corev1.Pod{pod("a", "rs2", corev1.ContainerStatus{}, ready(3)), pod("b", "rs2", corev1.ContainerStatus{}, ready(3)), pod("c", "rs2", corev1.ContainerStatus{}, ready(3)), pod("old", "rs1", corev1.ContainerStatus{}, ready(1))},
			change: complete, status: Progressing, reason: NotReady},
	} {
		t.Run(name, func(t *testing.T) {
			in := scene(c.pods...)
			if c.change != nil {
				c.change(&in)
			}
			v := Deployment(in)
			require.Equal(t, c.status, v.Status, "%+v", v)
			require.Equal(t, c.reason, v.Reason, "%+v", v)
			require.Contains(t, v.Message, c.says)
			if v.Status == Degraded {
				require.True(t, v.Reason == CrashLoop || !v.Recheck.IsZero(), "nothing would look again")
			}
		})
	}
}

func complete(in *Input) {
	in.Deployment.Status.Replicas, in.Deployment.Status.UpdatedReplicas, in.Deployment.Status.AvailableReplicas = 3, 3, 3
	in.ReplicaSets[1].Status.AvailableReplicas = 3
}

func unscheduled() *corev1.Pod {
	p := pod("a", "rs2", corev1.ContainerStatus{})
	p.Status.ContainerStatuses = nil
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes are available"}}
	return p
}

func TestClipKeepsTheEnd(t *testing.T) {
	long := make([]byte, 5000)
	for i := range long {
		long[i] = 'x'
	}
	require.Less(t, len(clip(string(long)+": not found")), 500)
	require.Contains(t, clip(string(long)+": not found"), "not found")
}
