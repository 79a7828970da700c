package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
)

// requestTimeout bounds each request to the API server.
const requestTimeout = 5 * time.Second

func (c *Cluster) client() (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", c.Kubeconfig(), err)
	}
	config.Timeout = requestTimeout
	config.UserAgent = "tidegate-cluster"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", c.Kubeconfig(), err)
	}
	return client, nil
}

// allowKubeletAPI lets the API server use the kubelet for logs, exec and
// port-forward. Kubernetes brings the role but binds nobody to it.
func allowKubeletAPI(ctx context.Context, api kubernetes.Interface) error {
	_, err := api.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "tidegate-cluster:kubelet-api"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:kubelet-api-admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: render.KubeletAPIUser}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("let the API server use the kubelet: %w", err)
	}
	return nil
}

var errNotReady = errors.New("not ready")

// nodeReady returns nil if the node is ready and its kubelet has said so since
// then: what one before a restart said counts for nothing.
func nodeReady(ctx context.Context, api kubernetes.Interface, name string, since time.Time) error {
	node, err := api.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	condition := readyCondition(node)
	if condition.Status != corev1.ConditionTrue {
		return fmt.Errorf("node %s is %w: %s", name, errNotReady, condition.Message)
	}
	// The API knows whole seconds only.
	if condition.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
		return fmt.Errorf("node %s is %w: no heartbeat since the kubelet's start", name, errNotReady)
	}
	return nil
}

func readyCondition(node *corev1.Node) corev1.NodeCondition {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition
		}
	}
	return corev1.NodeCondition{Status: corev1.ConditionUnknown, Message: "no Ready condition yet"}
}

// awaitServiceAccount waits for the account without which no pod can be made in
// the default namespace.
func awaitServiceAccount(ctx context.Context, api kubernetes.Interface) error {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		_, err := api.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the default service account: %w (last: %w)", ctx.Err(), err)
		case <-tick.C:
		}
	}
}
