package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegate-ci/tidegate/internal/demo"
	"github.com/tidegate-ci/tidegate/internal/testserver"
)

// bench is the cluster and what is measured on it.
type bench struct {
	settings
	who        *regexp.Regexp
	dir        string
	kubeconfig string
	config     *rest.Config
	kube       kubernetes.Interface
	dynamic    dynamic.Interface
	images     *testserver.Images
}

func (b *bench) open(ctx context.Context) (err error) {
	if b.kubeconfig = os.Getenv("KUBECONFIG"); b.kubeconfig == "" {
		return errors.New("a real cluster is needed: set KUBECONFIG")
	}
	if b.config, err = clientcmd.BuildConfigFromFlags("", b.kubeconfig); err != nil {
		return err
	}
	b.config.QPS, b.config.Burst = 500, 1000
	b.config.WarningHandler = rest.NoWarnings{} // of the peers' definitions
	if b.kube, err = kubernetes.NewForConfig(b.config); err != nil {
		return err
	}
	if b.dynamic, err = dynamic.NewForConfig(b.config); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "bench-rollout-"); err != nil {
		return err
	}
	if b.images, err = testserver.Serve(ctx, b.dir); err != nil {
		return errors.Join(err, os.RemoveAll(b.dir))
	}
	return nil
}

func (b *bench) close() error {
	return errors.Join(b.images.Close(), os.RemoveAll(b.dir))
}

// world is a namespace of its own for one round of one subject, and eyes on its pods.
type world struct {
	*bench
	namespace string
	pods      *demo.PodWatch
	proxy     *proxy // what the subject's requests go through
}

// newWorld makes a namespace. Its close removes it and waits until its pods are gone,
// so that the next round finds the machine as this one did.
func (b *bench) newWorld(ctx context.Context) (*world, error) {
	ns, err := b.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-"}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	w := &world{bench: b, namespace: ns.Name}
	if w.pods, err = (&demo.Cluster{Client: b.kube}).WatchPods(ctx, w.namespace, "app"); err != nil {
		return nil, errors.Join(err, w.deleteNamespace(ctx))
	}
	if w.proxy, err = newProxy(ctx, b.config); err != nil {
		w.pods.Stop()
		return nil, errors.Join(err, w.deleteNamespace(ctx))
	}
	return w, nil
}

func (w *world) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	err := w.deleteNamespace(ctx)
	if err == nil {
		bounded, cancel := context.WithTimeout(ctx, cleanUp)
		defer cancel()
		err = w.pods.Wait(bounded, "the pods to be gone", func(counts map[string]demo.PodCount) bool { return len(counts) == 0 })
	}
	w.pods.Stop()
	return errors.Join(err, w.proxy.close())
}

func (w *world) deleteNamespace(ctx context.Context) error {
	err := w.kube.CoreV1().Namespaces().Delete(context.WithoutCancel(ctx), w.namespace, metav1.DeleteOptions{})
	if err != nil {
		return fmt.Errorf("deleting the namespace %s: %w", w.namespace, err)
	}
	return nil
}

// inWorld runs work in a new world.
func (b *bench) inWorld(ctx context.Context, work func(*world) error) (err error) {
	w, err := b.newWorld(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close(ctx)) }()
	return work(w)
}
