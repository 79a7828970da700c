// Package kwok has KWOK (https://kwok.sigs.k8s.io) play the kubelets of nodes that do
// not exist: the real API server, scheduler and controllers deal with pods of which
// any number cost nothing, and which end as a test says.
package kwok

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/internal/process"
)

//go:embed stages.yaml
var stages []byte

// Played marks nodes that KWOK plays, as label and taint: pods come only where
// they tolerate it.
const Played = "kwok.tidegate.dev/played"

// End is the annotation of a pod that says how it ends.
const End = "kwok.tidegate.dev/end"

// The values of End.
const (
	Evicted = "evicted" // for want of memory on its node
	Crashed = "crashed" // once, after it was ready; it runs on
)

// Start starts the program, which tends all nodes that have the label Played. Its
// files go into dir.
func Start(ctx context.Context, program, kubeconfig, dir string) (*process.Process, error) {
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("%w: compile it with `make kwok`", err)
	}
	config := filepath.Join(dir, "kwok.yaml")
	if err := os.WriteFile(config, stages, 0o600); err != nil {
		return nil, err
	}
	return process.Start(ctx, filepath.Join(dir, "kwok.log"), program, "--config", config, "--kubeconfig", kubeconfig, "--manage-all-nodes=false",
		"--manage-nodes-with-label-selector", Played, "--node-lease-duration-seconds=40", "--cidr=10.199.0.1/16", "--server-address=127.0.0.1:0")
}

// Node is one to create, with room for so many pods. The value of its label and
// taint tells apart whose it is.
func Node(name, whose string, pods int64) *corev1.Node {
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000"), corev1.ResourceMemory: resource.MustParse("1Ti"),
		corev1.ResourcePods: *resource.NewQuantity(pods, resource.DecimalSI)}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{Played: whose, corev1.LabelHostname: name}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: Played, Value: whose, Effect: corev1.TaintEffectNoSchedule}}},
		Status:     corev1.NodeStatus{Capacity: room, Allocatable: room},
	}
}
