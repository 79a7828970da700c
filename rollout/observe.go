package rollout

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	appslisters "k8s.io/client-go/listers/apps/v1"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// observer watches what one rollout depends on. It is fed by informers alone:
// after the first list it makes no request.
type observer struct {
	store *store
	wake  chan struct{} // coalesced: something changed

	deployments  appslisters.DeploymentLister
	statefulSets appslisters.StatefulSetLister
	daemonSets   appslisters.DaemonSetLister
	autoscalers  autoscalinglisters.HorizontalPodAutoscalerLister
	events       corelisters.EventLister
	services     corelisters.ServiceLister // nil when the rollout switches none
	records      corelisters.ConfigMapLister
	groups       []podGroup
	resources    *resourceWatch
	rules        ruleCache
	// scaledObjects are KEDA's, as they were when the observer began.
	scaledObjects []unstructured.Unstructured
	// followed are the routes that give a canary its share; nil when there are none.
	followed *routeWatch

	mu sync.Mutex
	// written are objects that this process wrote and its caches may not show
	// yet; nil values are deletions.
	written map[string]metav1.Object
	removed map[string]string // key → UID
	ready   map[string]time.Time
	// admitted are pods, by UID, that this process let in and its cache may
	// still show without the condition.
	admitted map[string]bool
	// deletedPods, by UID, may still be in the cache.
	deletedPods map[string]bool

	stop func()
}

// podGroup caches the pods and ReplicaSets of one selector.
type podGroup struct {
	selector    string
	pods        corelisters.PodLister
	replicaSets appslisters.ReplicaSetLister
}

// telling selects the events that say why something does not go on. They are of
// many kinds and of several programs, autoscalers among them, so that those which
// accompany every pod that does well are left out instead.
const telling = "reason!=Scheduled,reason!=Pulling,reason!=Pulled,reason!=Created,reason!=Started,reason!=Killing," +
	"reason!=SuccessfulCreate,reason!=SuccessfulDelete,reason!=ScalingReplicaSet,reason!=Unhealthy,reason!=BackOff"

// observe starts the informers for the workloads of releases, and with switches
// those for Services, and returns when their first lists are in.
func (s *store) observe(ctx context.Context, switches bool, releases ...*manifest.Release) (*observer, error) {
	ctx, cancel := context.WithCancel(ctx)
	o := &observer{store: s, wake: make(chan struct{}, 1), written: map[string]metav1.Object{},
		removed: map[string]string{}, ready: map[string]time.Time{}, admitted: map[string]bool{}, deletedPods: map[string]bool{}, rules: ruleCache{}}
	// Everything is rechecked by events alone, so there is no resync.
	factory := informers.NewSharedInformerFactoryWithOptions(s.kube, 0, informers.WithNamespace(s.namespace), informers.WithTransform(slim))
	own := informers.NewSharedInformerFactoryWithOptions(s.kube, 0, informers.WithNamespace(s.namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.FieldSelector = "metadata.name=" + s.name() }))
	warnings := informers.NewSharedInformerFactoryWithOptions(s.kube, 0, informers.WithNamespace(s.namespace), informers.WithTransform(slim),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = telling
		}))
	factories := []informers.SharedInformerFactory{factory, own, warnings}
	watched := []cache.SharedIndexInformer{
		factory.Apps().V1().Deployments().Informer(), factory.Autoscaling().V2().HorizontalPodAutoscalers().Informer(),
		own.Core().V1().ConfigMaps().Informer(), warnings.Core().V1().Events().Informer(),
	}
	o.deployments = factory.Apps().V1().Deployments().Lister()
	o.autoscalers = factory.Autoscaling().V2().HorizontalPodAutoscalers().Lister()
	o.records = own.Core().V1().ConfigMaps().Lister()
	o.events = warnings.Core().V1().Events().Lister()
	kinds := map[string]bool{}
	selectors, err := podSelectors(releases, kinds)
	if err != nil {
		cancel()
		return nil, err
	}
	if kinds["StatefulSet"] {
		watched = append(watched, factory.Apps().V1().StatefulSets().Informer())
		o.statefulSets = factory.Apps().V1().StatefulSets().Lister()
	}
	if kinds["DaemonSet"] {
		watched = append(watched, factory.Apps().V1().DaemonSets().Informer())
		o.daemonSets = factory.Apps().V1().DaemonSets().Lister()
	}
	if switches {
		watched = append(watched, factory.Core().V1().Services().Informer())
		o.services = factory.Core().V1().Services().Lister()
	}
	for _, selector := range selectors {
		f := informers.NewSharedInformerFactoryWithOptions(s.kube, 0, informers.WithNamespace(s.namespace), informers.WithTransform(slim),
			informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = selector }))
		factories = append(factories, f)
		watched = append(watched, f.Core().V1().Pods().Informer(), f.Apps().V1().ReplicaSets().Informer())
		o.groups = append(o.groups, podGroup{selector, f.Core().V1().Pods().Lister(), f.Apps().V1().ReplicaSets().Lister()})
	}
	o.resources = newResourceWatch(ctx, s, o.notify)
	o.stop = func() {
		cancel()
		o.resources.stop()
		for _, f := range factories {
			f.Shutdown()
		}
	}
	var synced []cache.InformerSynced
	for _, informer := range watched {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { o.notify() }, UpdateFunc: func(any, any) { o.notify() }, DeleteFunc: func(any) { o.notify() }})
		if err != nil {
			o.stop()
			return nil, fmt.Errorf("watching the namespace %s: %w", s.namespace, err)
		}
		synced = append(synced, registration.HasSynced)
	}
	for _, f := range factories {
		f.Start(ctx.Done())
	}
	if o.scaledObjects, err = s.scaledObjects(ctx); err != nil {
		o.stop()
		return nil, err
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		o.stop()
		return nil, fmt.Errorf("watching the namespace %s: %w", s.namespace, context.Cause(ctx))
	}
	if err := o.resources.follow(releases...); err != nil {
		o.stop()
		return nil, err
	}
	return o, nil
}

// slim drops what nothing reads: most of an object's bytes.
func slim(object any) (any, error) {
	if accessor, ok := object.(metav1.Object); ok {
		accessor.SetManagedFields(nil)
	}
	return object, nil
}

func podSelectors(releases []*manifest.Release, kinds map[string]bool) ([]string, error) {
	var selectors []string
	for _, release := range releases {
		if release == nil {
			continue
		}
		for _, u := range release.Objects {
			ref := manifest.RefOf(u)
			if !manifest.IsWorkload(ref) {
				continue
			}
			kinds[ref.Kind] = true
			raw, _, err := unstructured.NestedMap(u.Object, "spec", "selector")
			if err != nil || raw == nil {
				return nil, fmt.Errorf("%w: %s has no spec.selector", ErrInvalid, ref)
			}
			var selector metav1.LabelSelector
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &selector); err != nil {
				return nil, fmt.Errorf("%w: %s: spec.selector: %w", ErrInvalid, ref, err)
			}
			parsed, err := metav1.LabelSelectorAsSelector(&selector)
			if err != nil {
				return nil, fmt.Errorf("%w: %s: spec.selector: %w", ErrInvalid, ref, err)
			}
			if text := parsed.String(); !slices.Contains(selectors, text) {
				selectors = append(selectors, text)
			}
		}
	}
	return selectors, nil
}

func (o *observer) notify() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// wrote tells the observer of a workload that was just written, so that a
// cache that lags does not hide it.
func (o *observer) wrote(u *unstructured.Unstructured) {
	var object metav1.Object
	switch u.GetKind() {
	case "Deployment":
		object = &appsv1.Deployment{}
	case "StatefulSet":
		object = &appsv1.StatefulSet{}
	case "DaemonSet":
		object = &appsv1.DaemonSet{}
	case "Service":
		if o.services == nil {
			return
		}
		object = &corev1.Service{}
	default:
		o.applied(u)
		o.wroteResource(u)
		return
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, object); err != nil {
		return // the cache will show it
	}
	key := u.GetKind() + "/" + u.GetName()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.written[key] = object
	delete(o.removed, key)
	delete(o.ready, key)
}

// deleted tells the observer that a Deployment was just deleted.
func (o *observer) deleted(name string) {
	key := "Deployment/" + name
	o.mu.Lock()
	defer o.mu.Unlock()
	if d := o.deployment(name); d != nil {
		o.removed[key] = string(d.UID)
	}
	delete(o.written, key)
	delete(o.ready, key)
}

// newest chooses between what the cache shows and what this process wrote; the
// zero T means that the object does not exist.
func newest[T interface {
	comparable
	metav1.Object
}](o *observer, key string, cached T, err error) T {
	var none T
	if err != nil || (cached != none && o.removed[key] == string(cached.GetUID())) {
		cached = none
	}
	written, ok := o.written[key].(T)
	if !ok {
		return cached
	}
	if cached != none && newer(cached.GetResourceVersion(), written.GetResourceVersion()) {
		delete(o.written, key)
		return cached
	}
	return written
}

func (o *observer) deployment(name string) *appsv1.Deployment {
	d, err := o.deployments.Deployments(o.store.namespace).Get(name)
	return newest(o, "Deployment/"+name, d, err)
}

func (o *observer) statefulSet(name string) *appsv1.StatefulSet {
	s, err := o.statefulSets.StatefulSets(o.store.namespace).Get(name)
	return newest(o, "StatefulSet/"+name, s, err)
}

func (o *observer) daemonSet(name string) *appsv1.DaemonSet {
	d, err := o.daemonSets.DaemonSets(o.store.namespace).Get(name)
	return newest(o, "DaemonSet/"+name, d, err)
}

// newer compares resource versions of one object: numbers that grow, which the
// API guarantees since Kubernetes 1.35 and etcd always did.
func newer(a, b string) bool {
	x, errA := strconv.ParseUint(a, 10, 64)
	y, errB := strconv.ParseUint(b, 10, 64)
	return errA != nil || errB != nil || x >= y
}

// canaryRefs lists workloads that may have a canary: those of the plan, and all
// Deployments of the release, since an older rollout may have left one.
func (r *Rollout) canaryRefs(release *manifest.Release) []manifest.Ref {
	refs := slices.Clone(r.Canaries)
	for _, ref := range release.Refs() {
		if ref.Kind == "Deployment" && manifest.IsWorkload(ref) && !slices.ContainsFunc(refs, ref.Same) {
			refs = append(refs, ref)
		}
	}
	return refs
}

// record returns the record as the cluster shows it, with its version; nil when
// the cache does not have it.
func (o *observer) record() (*Record, string) {
	object, err := o.records.ConfigMaps(o.store.namespace).Get(o.store.name())
	if err != nil {
		return nil, ""
	}
	record, err := decodeRecord(object)
	if err != nil {
		return nil, ""
	}
	return record, object.ResourceVersion
}
