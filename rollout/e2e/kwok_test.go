//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/tidegate-ci/tidegate/internal/kwok"
)

// playedPods is how many pods a played node takes.
const playedPods = 1000

// playedNode is a node of this world alone whose kubelet KWOK plays.
type playedNode struct {
	w    *world
	name string
}

func (w *world) playedNode(suffix string) *playedNode {
	w.Helper()
	n := &playedNode{w: w, name: w.namespace + "-" + suffix}
	_, err := kube.CoreV1().Nodes().Create(w.ctx, kwok.Node(n.name, w.namespace, playedPods), metav1.CreateOptions{})
	require.NoError(w, kubelets.With(err))
	w.Cleanup(func() {
		// What a lost node leaves, so that the namespace can go.
		zero := int64(0)
		_ = kube.CoreV1().Pods(w.namespace).DeleteCollection(context.Background(), metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.name})
		err := kube.CoreV1().Nodes().Delete(context.Background(), n.name, metav1.DeleteOptions{})
		require.True(w, err == nil || apierrors.IsNotFound(err), "%v", err)
	})
	return n
}

// lose lets the node go: its kubelet answers no more, and the cluster says so.
func (n *playedNode) lose() {
	n.w.Helper()
	n.change(func(node *corev1.Node) { delete(node.Labels, kwok.Played) })
	n.change(func(node *corev1.Node) {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: "e2e.tidegate.dev/lost", Effect: corev1.TaintEffectNoExecute})
	})
}

// change writes the node, which the cluster's controllers write, too.
func (n *playedNode) change(change func(*corev1.Node)) {
	n.w.Helper()
	nodes := kube.CoreV1().Nodes()
	require.NoError(n.w, retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := nodes.Get(n.w.ctx, n.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(node)
		_, err = nodes.Update(n.w.ctx, node, metav1.UpdateOptions{})
		return err
	}))
}

// doom lets the first pod that is meant come to an end, and tells when it has;
// all others run well.
func (w *world) doom(end string, meant func(*corev1.Pod) bool) (came <-chan struct{}) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	pods, seen := kube.CoreV1().Pods(w.namespace), make(chan struct{})
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, kwok.End, end)
	var watching sync.WaitGroup
	watching.Go(func() {
		defer cancel()
		doomed := false
		for ctx.Err() == nil { // the API server ends watches when it likes
			watch, err := pods.Watch(ctx, metav1.ListOptions{})
			if err != nil {
				continue
			}
			for event := range watch.ResultChan() {
				pod, ok := event.Object.(*corev1.Pod)
				switch {
				case !ok:
				case pod.Annotations[kwok.End] != "" && hasEnded(pod):
					close(seen)
					watch.Stop()
					return
				case !doomed && pod.DeletionTimestamp == nil && meant(pod):
					_, err := pods.Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
					doomed = err == nil
				}
			}
			watch.Stop()
		}
	})
	w.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return seen
}

func hasEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].RestartCount > 0
}

// met waits for what a channel tells.
func (w *world) met(came <-chan struct{}, what string) {
	w.Helper()
	select {
	case <-came:
	case <-w.ctx.Done():
		require.Fail(w, what+" never came")
	}
}

// onPlayedNodes are the manifests of a shop that runs on the world's played nodes alone.
func (w *world) onPlayedNodes(replicas int) string {
	return strings.NewReplacer("replicas: 3", fmt.Sprintf("replicas: %d", replicas), "      terminationGracePeriodSeconds: 1\n",
		fmt.Sprintf("      terminationGracePeriodSeconds: 1\n      nodeSelector: {%s: %s}\n      tolerations: [{key: %s, operator: Exists, effect: NoSchedule}]\n", kwok.Played, w.namespace, kwok.Played)).Replace(shop)
}
