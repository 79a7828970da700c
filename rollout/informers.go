package rollout

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// watchedKind names what an informer watches in a namespace.
type watchedKind string

// What rollouts depend on. Each is one list and one watch for a namespace,
// however many rollouts are under way in it.
const (
	watchDeployments  watchedKind = "Deployments"
	watchStatefulSets watchedKind = "StatefulSets"
	watchDaemonSets   watchedKind = "DaemonSets"
	watchReplicaSets  watchedKind = "ReplicaSets"
	watchPods         watchedKind = "Pods"
	watchServices     watchedKind = "Services"
	watchAutoscalers  watchedKind = "HorizontalPodAutoscalers"
	watchEvents       watchedKind = "Events"     // that tell why something does not go on
	watchRecords      watchedKind = "ConfigMaps" // records of live rollouts
)

// Indices of the caches.
const (
	byLabel    = "label"    // "key=value" of each label: pods and ReplicaSets by selector
	byInvolved = "involved" // the UID of the object that an event is about
)

// telling selects the events that say why something does not go on. They are of
// many kinds and of several programs, autoscalers among them, so that those which
// accompany every pod that does well are left out instead.
const telling = "reason!=Scheduled,reason!=Pulling,reason!=Pulled,reason!=Created,reason!=Started,reason!=Killing," +
	"reason!=SuccessfulCreate,reason!=SuccessfulDelete,reason!=ScalingReplicaSet,reason!=Unhealthy,reason!=BackOff"

// watchers keeps the informers that all live rollouts of a controller share:
// one for a kind and a namespace, from the first rollout that needs it to the
// last. Nothing is watched while nothing is rolled out.
type watchers struct {
	kube kubernetes.Interface

	mu     sync.Mutex
	shared map[watchedKey]*watcher
}

type watchedKey struct {
	namespace string
	kind      watchedKind
}

// watcher is one informer and the rollouts that use it.
type watcher struct {
	watchedKey
	informer cache.SharedIndexInformer
	synced   <-chan struct{} // the first list is in the cache
	refused  chan struct{}   // closed when the API server refuses for good
	trouble  atomic.Pointer[watchTrouble]
	stop     func()

	mu    sync.RWMutex
	users map[*observer]bool
}

// watchTrouble is why a first list does not come.
type watchTrouble struct {
	since time.Time
	err   error
}

// refusedFor is how long a list may be forbidden before that is final: rights
// that were granted just now take a moment to be seen.
const refusedFor = 5 * time.Second

// use makes o a user of the informer for a kind in its namespace.
func (w *watchers) use(o *observer, kind watchedKind) (*watcher, error) {
	key := watchedKey{o.store.namespace, kind}
	w.mu.Lock()
	defer w.mu.Unlock()
	shared := w.shared[key]
	if shared == nil {
		var err error
		if shared, err = watchKind(w.kube, key); err != nil {
			return nil, err
		}
		w.shared[key] = shared
	}
	shared.mu.Lock()
	shared.users[o] = true
	shared.mu.Unlock()
	return shared, nil
}

// leave ends o's use of informers and stops those that nobody uses any more.
func (w *watchers) leave(o *observer, used []*watcher) {
	var unused []*watcher
	w.mu.Lock()
	for _, shared := range used {
		shared.mu.Lock()
		delete(shared.users, o)
		left := len(shared.users)
		shared.mu.Unlock()
		if left == 0 && w.shared[shared.watchedKey] == shared {
			delete(w.shared, shared.watchedKey)
			unused = append(unused, shared)
		}
	}
	w.mu.Unlock()
	var stopping sync.WaitGroup
	for _, shared := range unused { // not under the lock: it waits for handlers
		stopping.Go(shared.stop)
	}
	stopping.Wait()
}

// watchKind starts the informer for a kind in a namespace.
func watchKind(kube kubernetes.Interface, key watchedKey) (*watcher, error) {
	w := &watcher{watchedKey: key, users: map[*observer]bool{}, refused: make(chan struct{})}
	// Everything is rechecked by events alone, so there is no resync.
	factory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(key.namespace), informers.WithTransform(slim),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			switch key.kind {
			case watchEvents:
				options.FieldSelector = telling
			case watchRecords:
				options.LabelSelector = labelLive + "=true"
			default:
			}
		}))
	indexers := cache.Indexers{}
	switch key.kind {
	case watchDeployments:
		w.informer = factory.Apps().V1().Deployments().Informer()
	case watchStatefulSets:
		w.informer = factory.Apps().V1().StatefulSets().Informer()
	case watchDaemonSets:
		w.informer = factory.Apps().V1().DaemonSets().Informer()
	case watchReplicaSets:
		w.informer, indexers[byLabel] = factory.Apps().V1().ReplicaSets().Informer(), labelKeys
	case watchPods:
		w.informer, indexers[byLabel] = factory.Core().V1().Pods().Informer(), labelKeys
	case watchServices:
		w.informer = factory.Core().V1().Services().Informer()
	case watchAutoscalers:
		w.informer = factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer()
	case watchEvents:
		w.informer, indexers[byInvolved] = factory.Core().V1().Events().Informer(), involved
	case watchRecords:
		w.informer = factory.Core().V1().ConfigMaps().Informer()
	}
	if err := w.informer.AddIndexers(indexers); err != nil {
		return nil, fmt.Errorf("watching %s: %w", key.kind, err)
	}
	if err := w.informer.SetWatchErrorHandlerWithContext(w.failed); err != nil {
		return nil, fmt.Errorf("watching %s: %w", key.kind, err)
	}
	registration, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { w.changed(object, nil) },
		UpdateFunc: func(before, object any) { w.changed(object, before) },
		DeleteFunc: func(object any) { w.changed(object, nil) }})
	if err != nil {
		return nil, fmt.Errorf("watching %s: %w", key.kind, err)
	}
	w.synced = registration.HasSyncedChecker().Done()
	// Not bound to the context of the rollout that happens to come first.
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = func() {
		cancel()
		factory.Shutdown()
	}
	factory.Start(ctx.Done())
	return w, nil
}

// changed wakes the rollouts that an object concerns, as it is or as it was.
func (w *watcher) changed(object, before any) {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	for o := range w.users {
		if o.concerns(object) || before != nil && o.concerns(before) {
			o.notify()
		}
	}
}

// failed keeps why the first list does not come.
func (w *watcher) failed(_ context.Context, _ *cache.Reflector, err error) {
	now := time.Now()
	trouble := w.trouble.Load()
	if trouble == nil || apierrors.IsForbidden(trouble.err) != apierrors.IsForbidden(err) {
		trouble = &watchTrouble{since: now}
	}
	trouble = &watchTrouble{since: trouble.since, err: err}
	w.trouble.Store(trouble)
	if !apierrors.IsForbidden(err) || now.Sub(trouble.since) < refusedFor {
		return
	}
	select {
	case <-w.synced: // it worked once: rights that come back find everything as it was
	case <-w.refused:
	default:
		close(w.refused) // by this goroutine alone
	}
}

// await returns when the first lists of all are in the caches.
func await(ctx context.Context, used []*watcher) error {
	for _, w := range used {
		select {
		case <-w.synced:
			continue
		default:
		}
		select {
		case <-w.synced:
		case <-w.refused:
			return fmt.Errorf("%w: watching %s in namespace %s: %w; grant list and watch on them", ErrInvalid, w.kind, w.namespace, w.trouble.Load().err)
		case <-ctx.Done():
			err := context.Cause(ctx)
			if trouble := w.trouble.Load(); trouble != nil {
				err = fmt.Errorf("%w; last: %w", err, trouble.err)
			}
			return fmt.Errorf("watching %s in namespace %s: %w", w.kind, w.namespace, err)
		}
	}
	return nil
}

func labelKeys(object any) ([]string, error) {
	accessor, err := meta.Accessor(object)
	if err != nil {
		return nil, fmt.Errorf("indexing: %w", err)
	}
	keys := make([]string, 0, len(accessor.GetLabels()))
	for key, value := range accessor.GetLabels() {
		keys = append(keys, key+"="+value)
	}
	return keys, nil
}

func involved(object any) ([]string, error) {
	event, ok := object.(*corev1.Event)
	if !ok {
		return nil, nil
	}
	return []string{string(event.InvolvedObject.UID)}, nil
}

// slim drops what nothing reads: most of an object's bytes. A namespace's pods
// and ReplicaSets are kept whoever they belong to, so that is what bounds memory.
func slim(object any) (any, error) {
	accessor, ok := object.(metav1.Object)
	if !ok {
		return object, nil
	}
	accessor.SetManagedFields(nil)
	for key, value := range accessor.GetAnnotations() {
		if len(value) > longAnnotation {
			delete(accessor.GetAnnotations(), key)
		}
	}
	switch o := object.(type) {
	case *corev1.Pod:
		slimContainers(o.Spec.InitContainers)
		slimContainers(o.Spec.Containers)
		o.Spec.Affinity, o.Spec.Tolerations, o.Spec.TopologySpreadConstraints = nil, nil, nil
	case *appsv1.ReplicaSet:
		// Which is the newest is told by the controller's annotation, and its pods
		// by their owner.
		o.Spec.Template = corev1.PodTemplateSpec{}
	}
	return object, nil
}

// longAnnotation is longer than any that is read: whole manifests are kept in
// annotations by kubectl and others.
const longAnnotation = 256

func slimContainers(containers []corev1.Container) {
	for i := range containers {
		c := &containers[i]
		c.Command, c.Args, c.Env, c.EnvFrom, c.VolumeMounts = nil, nil, nil, nil, nil
		c.LivenessProbe, c.ReadinessProbe, c.StartupProbe, c.Lifecycle = nil, nil, nil, nil
	}
}
