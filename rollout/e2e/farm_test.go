//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

// fakeLabel marks nodes that exist for one test alone, by its namespace, and
// taints them so that nobody else's pods come.
const fakeLabel = "e2e.tidegate.dev/world"

// farm is a node in the real cluster whose kubelet is this process: the real
// API server, scheduler and controllers deal with pods whose containers do what
// the test says, and any number of which cost nothing. As kubernetes-sigs/kwok
// does, but of one test.
type farm struct {
	w    *world
	name string
	// does says what becomes of a pod; nil means that it runs well.
	does func(*corev1.Pod) outcome

	mu    sync.Mutex
	lost  bool
	begun int // pods that ever ran here
}

// outcome is what becomes of a pod's container.
type outcome string

const (
	runsWell outcome = ""
	evicted  outcome = "evicted"
	crashed  outcome = "crashed" // once, after it was ready
)

func (w *world) farm(suffix string, does func(*corev1.Pod) outcome) *farm {
	w.Helper()
	f := &farm{w: w, name: w.namespace + "-" + suffix, does: does}
	many := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100"), corev1.ResourceMemory: resource.MustParse("100Gi"), corev1.ResourcePods: resource.MustParse("1000")}
	_, err := kube.CoreV1().Nodes().Create(w.ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: f.name, Labels: map[string]string{fakeLabel: w.namespace, corev1.LabelHostname: f.name}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: fakeLabel, Value: w.namespace, Effect: corev1.TaintEffectNoSchedule}}},
	}, metav1.CreateOptions{})
	require.NoError(w, err)
	w.Cleanup(func() {
		err := kube.CoreV1().Nodes().Delete(context.Background(), f.name, metav1.DeleteOptions{})
		require.True(w, err == nil || apierrors.IsNotFound(err), "%v", err)
	})
	now := metav1.Now()
	f.change(true, func(node *corev1.Node) {
		node.Status.Capacity, node.Status.Allocatable = many, many
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Fake", LastHeartbeatTime: now, LastTransitionTime: now}}
	})

	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { f.beat(ctx) })
	working.Go(func() { f.run(ctx) })
	w.Cleanup(func() { // before the node goes
		f.clear()
		cancel()
		working.Wait()
	})
	return f
}

// beat keeps the node alive for the controllers that watch nodes.
func (f *farm) beat(ctx context.Context) {
	leases := kube.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	defer func() { _ = leases.Delete(context.Background(), f.name, metav1.DeleteOptions{}) }()
	for {
		at := metav1.NowMicro()
		seconds := int32(40)
		lease, err := leases.Get(ctx, f.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, _ = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: f.name},
				Spec: coordinationv1.LeaseSpec{HolderIdentity: &f.name, LeaseDurationSeconds: &seconds, RenewTime: &at}}, metav1.CreateOptions{})
		} else if err == nil {
			lease.Spec.RenewTime = &at
			_, _ = leases.Update(ctx, lease, metav1.UpdateOptions{}) // the next beat tries again
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// run is the kubelet's loop.
func (f *farm) run(ctx context.Context) {
	for ctx.Err() == nil {
		watch, err := kube.CoreV1().Pods(f.w.namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + f.name})
		if err != nil {
			continue
		}
		for event := range watch.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok && event.Type != "DELETED" {
				f.tend(ctx, pod)
			}
		}
		watch.Stop()
	}
}

// tend brings a pod's status to what it should be. What fails because the pod
// has changed is done at the event of that change.
func (f *farm) tend(ctx context.Context, pod *corev1.Pod) {
	f.mu.Lock()
	lost := f.lost
	f.mu.Unlock()
	pods := kube.CoreV1().Pods(pod.Namespace)
	zero := int64(0)
	switch {
	case lost:
	case pod.DeletionTimestamp != nil:
		_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero})
	case pod.Status.Phase == corev1.PodFailed:
	default:
		if f.become(pod) {
			_, _ = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		}
	}
}

// become changes the pod's status and tells whether there was anything to change.
func (f *farm) become(pod *corev1.Pod) bool {
	now := metav1.Now()
	what := runsWell
	if f.does != nil {
		what = f.does(pod)
	}
	status := &pod.Status
	if len(status.ContainerStatuses) == 0 {
		f.mu.Lock()
		f.begun++
		n := f.begun
		f.mu.Unlock()
		status.Phase, status.StartTime = corev1.PodRunning, &now
		status.PodIP, status.HostIP = fmt.Sprintf("10.255.%d.%d", n/250, n%250+1), "10.255.255.254"
		status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
		for _, c := range pod.Spec.Containers {
			started := true
			status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: c.Image, ContainerID: "fake://" + string(pod.UID),
				Ready: true, Started: &started, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}})
		}
		setCondition(status, corev1.PodInitialized, true)
		setCondition(status, corev1.ContainersReady, true)
		f.ready(pod)
		return true
	}
	changed := f.ready(pod)
	c := &status.ContainerStatuses[0]
	switch {
	case what == evicted:
		status.Phase, status.Reason, status.Message = corev1.PodFailed, "Evicted", "The node was low on resource: memory."
		setCondition(status, corev1.ContainersReady, false)
		setCondition(status, corev1.PodReady, false)
		return true
	case what == crashed && c.RestartCount == 0:
		c.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 7, Reason: "Error", StartedAt: c.State.Running.StartedAt, FinishedAt: now}}
		c.RestartCount++
		return true
	}
	return changed
}

// ready makes a pod ready when its containers and its readiness gates are.
func (f *farm) ready(pod *corev1.Pod) (changed bool) {
	ready := condition(&pod.Status, corev1.ContainersReady)
	for _, gate := range pod.Spec.ReadinessGates {
		ready = ready && condition(&pod.Status, gate.ConditionType)
	}
	return setCondition(&pod.Status, corev1.PodReady, ready)
}

func condition(status *corev1.PodStatus, kind corev1.PodConditionType) bool {
	for _, c := range status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func setCondition(status *corev1.PodStatus, kind corev1.PodConditionType, on bool) (changed bool) {
	value := corev1.ConditionFalse
	if on {
		value = corev1.ConditionTrue
	}
	for i := range status.Conditions {
		if c := &status.Conditions[i]; c.Type == kind {
			changed = c.Status != value
			if changed {
				c.Status, c.LastTransitionTime = value, metav1.Now()
			}
			return changed
		}
	}
	status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: value, LastTransitionTime: metav1.Now()})
	return true
}

// lose lets the node go: its kubelet answers no more, and the cluster says so.
func (f *farm) lose() {
	f.w.Helper()
	f.mu.Lock()
	f.lost = true
	f.mu.Unlock()
	f.change(false, func(node *corev1.Node) {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: "e2e.tidegate.dev/lost", Effect: corev1.TaintEffectNoExecute})
	})
}

// change writes the node, which the cluster's controllers write, too.
func (f *farm) change(status bool, change func(*corev1.Node)) {
	f.w.Helper()
	nodes := kube.CoreV1().Nodes()
	require.NoError(f.w, retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := nodes.Get(f.w.ctx, f.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(node)
		if status {
			_, err = nodes.UpdateStatus(f.w.ctx, node, metav1.UpdateOptions{})
		} else {
			_, err = nodes.Update(f.w.ctx, node, metav1.UpdateOptions{})
		}
		return err
	}))
}

// clear deletes what its pods leave, so that the namespace can go.
func (f *farm) clear() {
	zero := int64(0)
	_ = kube.CoreV1().Pods(f.w.namespace).DeleteCollection(context.Background(), metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{FieldSelector: "spec.nodeName=" + f.name})
}

// farmed are the manifests of a shop that runs on the world's farms alone.
func (w *world) farmed(replicas int, more string) string {
	return strings.NewReplacer("replicas: 3", fmt.Sprintf("replicas: %d", replicas), "      terminationGracePeriodSeconds: 1\n",
		fmt.Sprintf("      terminationGracePeriodSeconds: 1\n      nodeSelector: {%s: %s}\n      tolerations: [{key: %s, operator: Exists, effect: NoSchedule}]\n", fakeLabel, w.namespace, fakeLabel)+more).Replace(shop)
}
