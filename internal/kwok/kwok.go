// Package kwok has KWOK (https://kwok.sigs.k8s.io) play the kubelets of nodes that do
// not exist: the real API server, scheduler and controllers deal with pods of which
// any number cost nothing, and which end as a test says.
package kwok

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// Kubelets is KWOK as a process of this machine.
type Kubelets struct {
	process *exec.Cmd
	log     string
	exited  chan struct{}
}

// Start starts the program, which tends all nodes that have the label Played. Its
// files go into dir; Stop ends it.
func Start(ctx context.Context, program, kubeconfig, dir string) (*Kubelets, error) {
	if _, err := os.Stat(program); err != nil {
		return nil, fmt.Errorf("%w: compile it with `make kwok`", err)
	}
	config := filepath.Join(dir, "kwok.yaml")
	if err := os.WriteFile(config, stages, 0o600); err != nil {
		return nil, err
	}
	k := &Kubelets{log: filepath.Join(dir, "kwok.log"), exited: make(chan struct{})}
	log, err := os.Create(k.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	k.process = exec.CommandContext(context.WithoutCancel(ctx), program, "--config", config, "--kubeconfig", kubeconfig, "--manage-all-nodes=false",
		"--manage-nodes-with-label-selector", Played, "--node-lease-duration-seconds=40", "--cidr=10.199.0.1/16", "--server-address=127.0.0.1:0")
	k.process.Stdout, k.process.Stderr = log, log
	k.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.process.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(k.exited)
		_ = k.process.Wait() // how it ended is in its log
	}()
	return k, nil
}

// Stop ends the process.
func (k *Kubelets) Stop() {
	_ = k.process.Process.Kill()
	<-k.exited
}

// With adds to an error why the process ended, if it did.
func (k *Kubelets) With(err error) error {
	select {
	case <-k.exited:
		data, readErr := os.ReadFile(k.log)
		const most = 2000
		return errors.Join(err, readErr, fmt.Errorf("KWOK has ended: …%s", data[max(0, len(data)-most):]))
	default:
		return err
	}
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
