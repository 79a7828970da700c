package rollout

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

func TestBatchSize(t *testing.T) {
	for _, c := range []struct {
		batch string
		n     int32
		want  int32
	}{{"", 10, 3}, {"", 3, 1}, {"2", 10, 2}, {"50%", 5, 3}, {"100%", 7, 7}, {"1%", 1000, 10}} {
		s := Strategy{Batch: c.batch}
		require.NoError(t, s.checkBatch())
		require.Equal(t, c.want, s.batchSize(c.n), "%q of %d", c.batch, c.n)
	}
	for _, batch := range []string{"0", "0%", "101%", "-1", "x", "1.5", "100000", "٢"} {
		require.ErrorIs(t, (&Strategy{Batch: batch}).checkBatch(), ErrInvalid, batch)
	}
}

func TestPartitionOfEveryStep(t *testing.T) {
	set := Workload{Ref: manifest.Ref{Kind: "StatefulSet", Name: "db"}, Replicas: 10}
	rolling := &Rollout{State: Rolling, Strategy: Strategy{Kind: RollingStrategy}}
	var got []int32
	for rolling.Step = 1; rolling.Step < 7; rolling.Step++ {
		got = append(got, rolling.partition(set))
	}
	require.Equal(t, []int32{9, 6, 3, 0, 0, 0}, got)
	rolling.Step = 3
	require.EqualValues(t, 5, rolling.partition(Workload{Replicas: 10, OwnPartition: 5}), "never below the manifest's own")
	require.EqualValues(t, 0, rolling.partition(Workload{Replicas: 10, OldBroken: true}))
	canary := &Rollout{State: Canary, Step: 1, Strategy: Strategy{Kind: CanaryStrategy, Steps: []Step{{Weight: 5}, {Weight: 60}}}}
	require.EqualValues(t, 9, canary.partition(set))
	canary.Step = 2
	require.EqualValues(t, 4, canary.partition(set))
	canary.State, canary.Step = Rolling, 1
	require.EqualValues(t, 4, canary.partition(set), "goes on from where the canary ended")
	rolling.Step = 1
	require.EqualValues(t, 0, rolling.partition(Workload{Replicas: 0}))
}

// setPods are three pods of a set whose partition is 2: db-2 is to be of v3, the
// others stay of v1.
func setPods(change func([]*corev1.Pod)) (*appsv1.StatefulSet, []*corev1.Pod) {
	partition, yes := int32(2), true
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", UID: "set"}}
	s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &partition}
	s.Status.CurrentRevision, s.Status.UpdateRevision = "v1", "v3"
	var pods []*corev1.Pod
	for _, name := range []string{"db-0", "db-1", "db-2"} {
		pods = append(pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-" + "x", Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: "v1"},
				OwnerReferences: []metav1.OwnerReference{{UID: "set", Controller: &yes}}},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		})
	}
	change(pods)
	return s, pods
}

func TestStuckPods(t *testing.T) {
	unready := func(pod *corev1.Pod) { pod.Status.Conditions[0].Status = corev1.ConditionFalse }
	version := func(pod *corev1.Pod, v string) { pod.Labels[appsv1.ControllerRevisionHashLabelKey] = v }
	for name, c := range map[string]struct {
		change func([]*corev1.Pod)
		want   []string
	}{
		"all serve":                           {func([]*corev1.Pod) {}, nil},
		"an old one below the partition":      {func(p []*corev1.Pod) { unready(p[1]) }, nil},
		"an old one that is to be replaced":   {func(p []*corev1.Pod) { unready(p[2]) }, []string{"db-2"}},
		"one of the wanted version":           {func(p []*corev1.Pod) { version(p[2], "v3"); unready(p[2]) }, nil},
		"one of a version that nobody wants":  {func(p []*corev1.Pod) { version(p[1], "v2"); unready(p[1]) }, []string{"db-1"}},
		"one of such a version, which serves": {func(p []*corev1.Pod) { version(p[1], "v2") }, nil},
		"one that goes already":               {func(p []*corev1.Pod) { unready(p[2]); p[2].DeletionTimestamp = &metav1.Time{} }, nil},
		"someone else's":                      {func(p []*corev1.Pod) { unready(p[2]); p[2].OwnerReferences[0].UID = "other" }, nil},
	} {
		s, pods := setPods(c.change)
		var got []string
		for _, pod := range stuckPods(s, pods) {
			got = append(got, pod.Name)
		}
		require.Equal(t, c.want, got, name)
	}
	s, pods := setPods(func(p []*corev1.Pod) { unready(p[2]) })
	s.Generation = 2
	require.Empty(t, stuckPods(s, pods), "what the status says is of an older specification")
}

func TestOldBroken(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	down := func(ago time.Duration) func([]*corev1.Pod) {
		return func(p []*corev1.Pod) {
			p[0].Status.Conditions[0] = corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(now.Add(-ago))}
		}
	}
	s, pods := setPods(down(time.Minute))
	broken, _ := oldBroken(s, pods, now)
	require.True(t, broken)
	s, pods = setPods(down(10 * time.Second))
	broken, recheck := oldBroken(s, pods, now)
	require.False(t, broken, "a blip is tolerated")
	require.Equal(t, now.Add(20*time.Second), recheck)
	s, pods = setPods(func([]*corev1.Pod) {})
	broken, recheck = oldBroken(s, pods, now)
	require.False(t, broken)
	require.Zero(t, recheck)
}
