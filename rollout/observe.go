package rollout

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	appslisters "k8s.io/client-go/listers/apps/v1"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// observer watches what one rollout depends on. It is fed by informers alone,
// which it shares with the other rollouts of its namespace: after the first
// list it makes no request.
type observer struct {
	store *store
	wake  chan struct{} // coalesced: something changed

	deployments  appslisters.DeploymentLister
	statefulSets appslisters.StatefulSetLister
	daemonSets   appslisters.DaemonSetLister
	autoscalers  autoscalinglisters.HorizontalPodAutoscalerLister
	pods         corelisters.PodLister
	services     corelisters.ServiceLister // nil when the rollout switches none
	records      corelisters.ConfigMapLister
	podCache     cache.Indexer
	setCache     cache.Indexer // of ReplicaSets
	events       cache.Indexer
	// groups and names are whose pods, and which objects, matter to the rollout.
	groups    []podGroup
	names     map[string]bool
	resources *resourceWatch
	rules     ruleCache
	// scaledObjects are KEDA's, as they were when the observer began.
	scaledObjects []unstructured.Unstructured
	// followed are the routes that give a canary its share; nil when there are none.
	followed *routeWatch

	changed atomic.Pointer[time.Time] // since when something changed that was not looked at

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

// podGroup selects the pods and ReplicaSets of workloads.
type podGroup struct {
	selector labels.Selector
	// labels are the "key=value" that each of them must have; any is a way to find them.
	labels []string
}

// observe begins to watch the workloads of releases, and with switches Services,
// and returns when their first lists are in.
func (s *store) observe(ctx context.Context, switches bool, releases ...*manifest.Release) (*observer, error) {
	o := &observer{store: s, wake: make(chan struct{}, 1), names: map[string]bool{}, written: map[string]metav1.Object{},
		removed: map[string]string{}, ready: map[string]time.Time{}, admitted: map[string]bool{}, deletedPods: map[string]bool{}, rules: ruleCache{}}
	kinds := map[string]bool{}
	var err error
	if o.groups, err = podGroups(releases, kinds); err != nil {
		return nil, err
	}
	for _, release := range releases {
		if release == nil {
			continue
		}
		for _, ref := range release.Refs() {
			o.names[ref.Name] = true
		}
	}
	var used []*watcher
	o.stop = sync.OnceFunc(func() { s.watchers.leave(o, used) })
	cacheOf := func(kind watchedKind) cache.Indexer {
		if err != nil {
			return nil
		}
		var shared *watcher
		if shared, err = s.watchers.use(o, kind); err != nil {
			return nil
		}
		used = append(used, shared)
		return shared.informer.GetIndexer()
	}
	o.podCache = cacheOf(watchPods)
	o.pods = corelisters.NewPodLister(o.podCache)
	o.setCache = cacheOf(watchReplicaSets)
	o.events = cacheOf(watchEvents)
	o.deployments = appslisters.NewDeploymentLister(cacheOf(watchDeployments))
	o.autoscalers = autoscalinglisters.NewHorizontalPodAutoscalerLister(cacheOf(watchAutoscalers))
	o.records = corelisters.NewConfigMapLister(cacheOf(watchRecords))
	if kinds["StatefulSet"] {
		o.statefulSets = appslisters.NewStatefulSetLister(cacheOf(watchStatefulSets))
	}
	if kinds["DaemonSet"] {
		o.daemonSets = appslisters.NewDaemonSetLister(cacheOf(watchDaemonSets))
	}
	if switches {
		o.services = corelisters.NewServiceLister(cacheOf(watchServices))
	}
	if err == nil {
		o.scaledObjects, err = s.scaledObjects(ctx)
	}
	if err == nil {
		err = await(ctx, used)
	}
	if err != nil {
		o.stop()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	o.resources = newResourceWatch(ctx, s, o.notify)
	o.stop = sync.OnceFunc(func() {
		cancel()
		o.resources.stop()
		s.watchers.leave(o, used)
	})
	if err := o.resources.follow(releases...); err != nil {
		o.stop()
		return nil, err
	}
	return o, nil
}

// concerns tells whether a change of an object may matter to this rollout. In a
// namespace with hundreds of rollouts almost none does.
func (o *observer) concerns(object any) bool {
	switch object := object.(type) {
	case *corev1.Pod:
		return o.selects(object.Labels)
	case *appsv1.ReplicaSet:
		return o.selects(object.Labels)
	case *corev1.Event:
		if object.InvolvedObject.Kind != "Pod" {
			return o.names[object.InvolvedObject.Name]
		}
		// An event that is here before its pod is seen when the pod comes.
		pod, err := o.pods.Pods(object.InvolvedObject.Namespace).Get(object.InvolvedObject.Name)
		return err == nil && o.selects(pod.Labels)
	case *autoscalingv2.HorizontalPodAutoscaler:
		return o.names[object.Spec.ScaleTargetRef.Name]
	case *corev1.ConfigMap:
		return object.Name == o.store.name()
	case metav1.Object:
		return object.GetLabels()[manifest.LabelApp] == o.store.app || o.names[object.GetName()]
	}
	return true
}

func (o *observer) selects(set map[string]string) bool {
	return slices.ContainsFunc(o.groups, func(g podGroup) bool { return g.selector.Matches(labels.Set(set)) })
}

// selected lists what a cache holds of the groups.
func selected[T metav1.Object](o *observer, from cache.Indexer) ([]T, error) {
	var found []T
	for i, group := range o.groups {
		candidates, err := group.candidates(from)
		if err != nil {
			return nil, err
		}
		for _, candidate := range candidates {
			object, ok := candidate.(T)
			if !ok || !group.selector.Matches(labels.Set(object.GetLabels())) ||
				slices.ContainsFunc(o.groups[:i], func(g podGroup) bool { return g.selector.Matches(labels.Set(object.GetLabels())) }) {
				continue
			}
			found = append(found, object)
		}
	}
	return found, nil
}

// candidates are what may belong to the group: the fewest that share one of its
// labels, or everything when it asks for no certain one.
func (g podGroup) candidates(from cache.Indexer) ([]any, error) {
	if len(g.labels) == 0 {
		return from.List(), nil
	}
	best, fewest := g.labels[0], -1
	for _, label := range g.labels {
		if len(g.labels) == 1 {
			break
		}
		keys, err := from.IndexKeys(byLabel, label)
		if err != nil {
			return nil, fmt.Errorf("looking up %s: %w", label, err)
		}
		if fewest < 0 || len(keys) < fewest {
			best, fewest = label, len(keys)
		}
	}
	found, err := from.ByIndex(byLabel, best)
	if err != nil {
		return nil, fmt.Errorf("looking up %s: %w", best, err)
	}
	return found, nil
}

// eventsAbout lists the events that are kept about pods and those that control them.
func (o *observer) eventsAbout(pods []*corev1.Pod, release *manifest.Release) ([]*corev1.Event, error) {
	var about []string
	for _, pod := range pods {
		about = append(about, string(pod.UID))
	}
	for _, ref := range release.Refs() {
		switch {
		case !manifest.IsWorkload(ref):
		case ref.Kind == "StatefulSet":
			if s := o.statefulSet(ref.Name); s != nil {
				about = append(about, string(s.UID))
			}
		case ref.Kind == "DaemonSet":
			if d := o.daemonSet(ref.Name); d != nil {
				about = append(about, string(d.UID))
			}
		}
	}
	var events []*corev1.Event
	for _, uid := range about {
		found, err := o.events.ByIndex(byInvolved, uid)
		if err != nil {
			return nil, fmt.Errorf("looking up events: %w", err)
		}
		for _, object := range found {
			if event, ok := object.(*corev1.Event); ok {
				events = append(events, event)
			}
		}
	}
	return events, nil
}

// podGroups are those of the workloads of releases, whose kinds it notes.
func podGroups(releases []*manifest.Release, kinds map[string]bool) ([]podGroup, error) {
	var groups []podGroup
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
			if slices.ContainsFunc(groups, func(g podGroup) bool { return g.selector.String() == parsed.String() }) {
				continue
			}
			group := podGroup{selector: parsed}
			requirements, _ := parsed.Requirements()
			for _, requirement := range requirements {
				if value, exact := parsed.RequiresExactMatch(requirement.Key()); exact {
					group.labels = append(group.labels, requirement.Key()+"="+value)
				}
			}
			groups = append(groups, group)
		}
	}
	return groups, nil
}

func (o *observer) notify() {
	now := time.Now()
	o.changed.CompareAndSwap(nil, &now)
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// unseen tells since when something has changed that was not looked at, zero
// when nothing has, and takes it for looked at.
func (o *observer) unseen() time.Time {
	if since := o.changed.Swap(nil); since != nil {
		return *since
	}
	return time.Time{}
}

// back notes that the driver was busy until now: what has changed meanwhile
// could not be answered sooner.
func (o *observer) back() {
	if since := o.changed.Load(); since != nil {
		now := time.Now()
		o.changed.CompareAndSwap(since, &now)
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

// owns tells whether the cache shows an object as the application's; false when
// it is not known.
func (o *observer) owns(ref manifest.Ref) bool {
	if ref.Kind != "Deployment" || !manifest.IsWorkload(ref) || ref.Namespace != o.store.namespace {
		return false
	}
	d, err := o.deployments.Deployments(ref.Namespace).Get(ref.Name)
	return err == nil && d.DeletionTimestamp == nil && d.Labels[manifest.LabelApp] == o.store.app
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

// record returns the record as the cluster shows it if it is newer than version,
// with its own; nil when it is not, or the cache does not have it.
func (o *observer) record(version string) (*Record, string) {
	object, err := o.records.ConfigMaps(o.store.namespace).Get(o.store.name())
	if err != nil || object.ResourceVersion == version || !newer(object.ResourceVersion, version) {
		return nil, ""
	}
	record, err := decodeRecord(object)
	if err != nil {
		return nil, ""
	}
	return record, object.ResourceVersion
}
