package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegate-ci/tidegate/internal/demo"
	"github.com/tidegate-ci/tidegate/internal/kwok"
)

const (
	podsEach   = 2
	fakePods   = 400 // on each node that KWOK plays
	manyAtMost = 10 * time.Minute
	users      = 20 // who update by hand at once
)

// fakeNodes has KWOK play the kubelets of enough nodes for n pods, and returns
// how to remove them.
func (b *bench) fakeNodes(ctx context.Context, n int) (remove func() error, err error) {
	kubelets, err := kwok.Start(ctx, filepath.Join(b.peers, "kwok"), b.kubeconfig, b.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	remove = func() error {
		var failed []error
		for _, name := range names {
			if err := b.kube.CoreV1().Nodes().Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				failed = append(failed, err)
			}
		}
		kubelets.Stop()
		return errors.Join(failed...)
	}
	for i := range n/fakePods + 1 {
		node := kwok.Node(fmt.Sprintf("tidegate-bench-%d", i), benchNode, fakePods)
		if _, err := b.kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, errors.Join(err, remove())
		}
		names = append(names, node.Name)
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	nodes := b.dynamic.Resource(corev1.SchemeGroupVersion.WithResource("nodes"))
	if err := untilAll(ready, nodes, metav1.ListOptions{LabelSelector: kwok.Played + "=" + benchNode}, len(names), nodeReady); err != nil {
		return nil, errors.Join(kubelets.With(fmt.Errorf("waiting for the nodes that KWOK plays: %w", err)), remove())
	}
	return remove, nil
}

func nodeReady(u *unstructured.Unstructured) bool {
	conditions, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return false
	}
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Ready" && c["status"] == "True" {
			return true
		}
	}
	return false
}

// manyRow measures hundreds of rollouts at once.
func manyRow(ctx context.Context, b *bench) (found []result, err error) {
	remove, err := b.fakeNodes(ctx, b.many*(podsEach+2))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	subjects := []struct {
		name    string
		measure func(context.Context, *world) ([]result, error)
	}{{"deployment", b.manyDeployments}, {"argo rollouts", b.manyArgo}, {"tidegate", b.manyTidegate}}
	for _, s := range subjects {
		if !b.who.MatchString(s.name) {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, manyAtMost)
		err := b.inWorld(bounded, func(w *world) error {
			results, err := s.measure(bounded, w)
			found = append(found, results...)
			return err
		})
		cancel()
		if err != nil {
			return found, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return found, nil
}

var oneStep = []int{50}

// fakeImage is never pulled: KWOK's pods only say that they run.
func fakeImage(version int) string { return fmt.Sprintf("example.com/shop@sha256:%064d", version) }

func (b *bench) forMany() string { return fmt.Sprintf("s for %d", b.many) }

// manyResults are a controller's figures.
func (b *bench) manyResults(who string, seconds float64, made requests, pid int) ([]result, error) {
	_, peak, err := memory(pid)
	if err != nil {
		return nil, err
	}
	return []result{
		{Who: who, Measure: "time", Unit: b.forMany(), Value: seconds},
		{Who: who, Measure: "requests", Value: float64(made.total()), Note: made.String()},
		{Who: who, Measure: "requests of one", Value: float64(made.total()) / float64(b.many)},
		{Who: who, Measure: "memory, peak", Unit: "MB", Value: float64(peak) / 1e6},
	}, nil
}

// allRun holds what a tool said against the pods.
func (b *bench) allRun(ctx context.Context, w *world, image string) error {
	bounded, cancel := context.WithTimeout(ctx, trailing)
	defer cancel()
	return w.pods.Wait(bounded, "all pods to be of the new version", func(counts map[string]demo.PodCount) bool {
		return len(counts) == 1 && counts[image].Ready == podsEach*b.many
	})
}

func (b *bench) manyTidegate(ctx context.Context, w *world) (found []result, err error) {
	d, err := b.newDriver(ctx, w)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	o := order{Namespace: w.namespace, Apps: b.many, Pods: podsEach, Image: fakeImage(1)}
	if _, err := d.do(o); err != nil {
		return nil, fmt.Errorf("installing: %w", err)
	}
	before := w.proxy.requests()
	o.Image, o.Canary = fakeImage(2), oneStep
	r, err := d.do(o)
	if err != nil {
		return nil, err
	}
	made := w.proxy.requests().minus(before)
	if err := b.allRun(ctx, w, fakeImage(2)); err != nil {
		return nil, err
	}
	if found, err = b.manyResults("tidegate", r.Seconds, made, d.process.Process.Pid); err != nil {
		return nil, err
	}
	for i := range found[:3] { // time and requests
		found[i] = found[i].aim(0.5, "argo rollouts")
	}
	return append(found, result{Who: "tidegate", Measure: "reaction, p99", Unit: "ms", Value: r.Reaction99, Note: fmt.Sprintf("of %d", r.Reactions)}.aim(50, "")), nil
}

// byHand are objects whose image is set by users, and which a controller then rolls out.
type byHand struct {
	resource schema.GroupVersionResource
	manifest func(app) (string, error)
	settled  func(*unstructured.Unstructured) bool
}

// install makes all apps, and waits until they run.
func (b *bench) install(ctx context.Context, w *world, o byHand) error {
	err := b.each(func(name string) error {
		text, err := o.manifest(app{name: name, pods: podsEach, image: fakeImage(1), canary: oneStep, fake: true})
		if err != nil {
			return err
		}
		return w.create(ctx, text)
	})
	if err == nil {
		err = b.settled(ctx, w, o, fakeImage(1))
	}
	if err != nil {
		return fmt.Errorf("installing: %w", err)
	}
	return linger(ctx, trailing)
}

// update gives all apps the next image, and returns after how many seconds they run it.
func (b *bench) update(ctx context.Context, w *world, o byHand) (seconds float64, err error) {
	start := time.Now()
	if err := b.each(func(name string) error { return w.setImage(ctx, o.resource, name, fakeImage(2)) }); err != nil {
		return 0, err
	}
	if err := b.settled(ctx, w, o, fakeImage(2)); err != nil {
		return 0, err
	}
	seconds = time.Since(start).Seconds()
	if err := linger(ctx, trailing); err != nil {
		return 0, err
	}
	return seconds, b.allRun(ctx, w, fakeImage(2))
}

// each works on all apps, some at once.
func (b *bench) each(work func(name string) error) error {
	var group errgroup.Group
	group.SetLimit(users)
	for i := range b.many {
		group.Go(func() error { return work(appName(i)) })
	}
	return group.Wait()
}

func (b *bench) settled(ctx context.Context, w *world, o byHand, image string) error {
	return untilAll(ctx, w.in(o.resource), metav1.ListOptions{}, b.many, func(u *unstructured.Unstructured) bool {
		return o.settled(u) && imageOf(u) == image
	})
}

// manyDeployments is what Kubernetes itself needs to replace the pods.
func (b *bench) manyDeployments(ctx context.Context, w *world) ([]result, error) {
	plain := byHand{deployments, app.deployment, deployed}
	if err := b.install(ctx, w, plain); err != nil {
		return nil, err
	}
	seconds, err := b.update(ctx, w, plain)
	if err != nil {
		return nil, err
	}
	return []result{{Who: "deployment", Measure: "time", Unit: b.forMany(), Value: seconds}}, nil
}

func (b *bench) manyArgo(ctx context.Context, w *world) (found []result, err error) {
	controller := &argo{}
	if err := controller.open(ctx, w); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, controller.close()) }()
	healthy := byHand{rollouts, app.rollout, func(u *unstructured.Unstructured) bool {
		healthy, _ := argoSettled(u)
		return healthy
	}}
	if err := b.install(ctx, w, healthy); err != nil {
		return nil, controller.peer.With(err)
	}
	before := w.proxy.requests()
	seconds, err := b.update(ctx, w, healthy)
	if err != nil {
		return nil, controller.peer.With(err)
	}
	return b.manyResults("argo rollouts", seconds, w.proxy.requests().minus(before), controller.peer.PID())
}
