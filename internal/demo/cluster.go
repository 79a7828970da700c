package demo

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is the Kubernetes cluster that the demo and the tests look at, with
// eyes of their own: nothing that Tidegate says is taken for granted.
type Cluster struct {
	Client kubernetes.Interface
}

// OpenCluster connects by a kubeconfig file.
func OpenCluster(kubeconfig string) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", kubeconfig, err)
	}
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	return &Cluster{Client: client}, nil
}

// CreateNamespace makes a namespace, and is content if it exists.
func (c *Cluster) CreateNamespace(ctx context.Context, name string) error {
	_, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}

// DeleteNamespace removes a namespace with all that is in it, without waiting.
func (c *Cluster) DeleteNamespace(ctx context.Context, name string) error {
	err := c.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete namespace %s: %w", name, err)
	}
	return nil
}

// ServiceURL is the Service's address inside the cluster, which this machine
// reaches when the cluster runs on it.
func (c *Cluster) ServiceURL(ctx context.Context, namespace, name string) (string, error) {
	service, err := c.Client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("find service %s/%s: %w", namespace, name, err)
	}
	return "http://" + net.JoinHostPort(service.Spec.ClusterIP, strconv.Itoa(int(service.Spec.Ports[0].Port))), nil
}

// PodCount is how many pods that are not being deleted run an image, and how
// many of them are ready.
type PodCount struct{ Present, Ready int }

// PodWatch follows the pods of an app by the image they run.
type PodWatch struct {
	cancel context.CancelFunc
	done   func()

	mu      sync.Mutex
	pods    map[string]*corev1.Pod
	lowest  map[string]int
	changed chan struct{}
}

// WatchPods follows the pods that carry the label until Stop.
func (c *Cluster) WatchPods(ctx context.Context, namespace, label string) (*PodWatch, error) {
	if _, err := labels.Parse(label); err != nil {
		return nil, fmt.Errorf("pod selector %q: %w", label, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &PodWatch{cancel: cancel, pods: map[string]*corev1.Pod{}, lowest: map[string]int{}, changed: make(chan struct{})}
	factory := informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = label }))
	informer := factory.Core().V1().Pods().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { w.put(object) },
		UpdateFunc: func(_, object any) { w.put(object) },
		DeleteFunc: func(object any) { w.remove(object) },
	}); err != nil {
		cancel()
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	factory.Start(ctx.Done())
	w.done = factory.Shutdown
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		w.Stop()
		return nil, fmt.Errorf("watch pods in %s: %w", namespace, context.Cause(ctx))
	}
	return w, nil
}

// Stop ends the watch.
func (w *PodWatch) Stop() {
	w.cancel()
	w.done()
}

func (w *PodWatch) put(object any) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[pod.Name] = pod
	w.recount()
}

func (w *PodWatch) remove(object any) {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, pod.Name)
	w.recount()
}

func (w *PodWatch) recount() {
	counts := w.countLocked()
	for image, lowest := range w.lowest {
		w.lowest[image] = min(lowest, counts[image].Ready)
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *PodWatch) countLocked() map[string]PodCount {
	counts := map[string]PodCount{}
	for _, pod := range w.pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		count := counts[imageOf(pod)]
		count.Present++
		if podReady(pod) {
			count.Ready++
		}
		counts[imageOf(pod)] = count
	}
	return counts
}

// Count returns the pods by image.
func (w *PodWatch) Count() map[string]PodCount {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.countLocked()
}

// Guard starts to remember the lowest count of ready pods of an image; Lowest reads it.
func (w *PodWatch) Guard(image string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lowest[image] = w.countLocked()[image].Ready
}

// Lowest is the smallest number of ready pods of the image since Guard.
func (w *PodWatch) Lowest(image string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lowest[image]
}

// Wait waits until the counts satisfy a condition; what describes it.
func (w *PodWatch) Wait(ctx context.Context, what string, condition func(map[string]PodCount) bool) error {
	for {
		w.mu.Lock()
		counts, changed := w.countLocked(), w.changed
		w.mu.Unlock()
		if condition(counts) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w (pods by image: %v)", what, context.Cause(ctx), counts)
		}
	}
}

// WaitReason waits until a container of a pod that runs the image waits for one
// of the reasons.
func (w *PodWatch) WaitReason(ctx context.Context, image string, reasons ...string) error {
	for {
		w.mu.Lock()
		found := slices.ContainsFunc(slices.Collect(maps.Values(w.pods)), func(pod *corev1.Pod) bool {
			return imageOf(pod) == image && slices.ContainsFunc(pod.Status.ContainerStatuses, func(status corev1.ContainerStatus) bool {
				return status.State.Waiting != nil && slices.Contains(reasons, status.State.Waiting.Reason)
			})
		})
		changed := w.changed
		w.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for a pod of %s to report %v: %w", image, reasons, context.Cause(ctx))
		}
	}
}

func imageOf(pod *corev1.Pod) string { return pod.Spec.Containers[0].Image }

func podReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// RenewNamespace makes an empty namespace, removing what an earlier one held.
func (c *Cluster) RenewNamespace(ctx context.Context, name string) error {
	namespaces := c.Client.CoreV1().Namespaces()
	if _, err := namespaces.Get(ctx, name, metav1.GetOptions{}); err == nil {
		watch, err := namespaces.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			return fmt.Errorf("watch namespace %s: %w", name, err)
		}
		defer watch.Stop()
		if err := c.DeleteNamespace(ctx, name); err != nil {
			return err
		}
		for event := range watch.ResultChan() {
			if event.Type == "DELETED" {
				break
			}
		}
	}
	return c.CreateNamespace(ctx, name)
}
