package rollout

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	appslisters "k8s.io/client-go/listers/apps/v1"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tidegate-ci/tidegate/rollout/health"
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

// observe starts the informers for the workloads of releases, and with switches
// those for Services, and returns when their first lists are in.
func (s *store) observe(ctx context.Context, switches bool, releases ...*manifest.Release) (*observer, error) {
	ctx, cancel := context.WithCancel(ctx)
	o := &observer{store: s, wake: make(chan struct{}, 1), written: map[string]metav1.Object{},
		removed: map[string]string{}, ready: map[string]time.Time{}, admitted: map[string]bool{}, deletedPods: map[string]bool{}}
	// Everything is rechecked by events alone, so there is no resync.
	factory := informers.NewSharedInformerFactoryWithOptions(s.kube, 0, informers.WithNamespace(s.namespace), informers.WithTransform(slim))
	own := informers.NewSharedInformerFactoryWithOptions(s.kube, 0, informers.WithNamespace(s.namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.FieldSelector = "metadata.name=" + s.name() }))
	warnings := informers.NewSharedInformerFactoryWithOptions(s.kube, 0, informers.WithNamespace(s.namespace), informers.WithTransform(slim),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = "type=Warning,involvedObject.kind=Pod"
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
	o.stop = func() {
		cancel()
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
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		o.stop()
		return nil, fmt.Errorf("watching the namespace %s: %w", s.namespace, context.Cause(ctx))
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

// look takes an observation of the workloads of release.
func (o *observer) look(release *manifest.Release, r *Rollout, now time.Time) (Observation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var pods []*corev1.Pod
	var sets []*appsv1.ReplicaSet
	for _, group := range o.groups {
		p, err := group.pods.Pods(o.store.namespace).List(labels.Everything())
		if err != nil {
			return Observation{}, fmt.Errorf("listing pods: %w", err)
		}
		s, err := group.replicaSets.ReplicaSets(o.store.namespace).List(labels.Everything())
		if err != nil {
			return Observation{}, fmt.Errorf("listing ReplicaSets: %w", err)
		}
		pods, sets = append(pods, p...), append(sets, s...)
	}
	events, err := o.events.Events(o.store.namespace).List(labels.Everything())
	if err != nil {
		return Observation{}, fmt.Errorf("listing events: %w", err)
	}
	tolerance := health.DefaultTolerance
	tolerance.Since = r.Started
	if r.State == RollingBack {
		tolerance.Since = r.StateSince
	}
	obs := Observation{}
	for _, u := range release.Objects {
		ref := manifest.RefOf(u)
		if !manifest.IsWorkload(ref) {
			continue
		}
		w := Workload{Ref: ref}
		switch ref.Kind {
		case "Deployment":
			d := o.deployment(ref.Name)
			w.Health = health.Deployment(health.Input{Deployment: d, ReplicaSets: sets, Pods: pods, Events: events, Tolerance: tolerance, Now: now})
			if d != nil {
				w.Exists, w.Release, w.Paused = true, d.Annotations[manifest.AnnotationRelease], d.Spec.Paused
				w.Raised = borrowed(d)
				w.MinReady = time.Duration(d.Spec.MinReadySeconds) * time.Second
				w.Replicas = w.Health.Desired
				if current := health.NewReplicaSet(d, sets); current != nil {
					w.Hash = current.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
				}
			}
		case "StatefulSet":
			s := o.statefulSet(ref.Name)
			w.Health = health.StatefulSet(s, pods, events, tolerance, now)
			if s != nil {
				w.Exists, w.Release, w.Replicas = true, s.Annotations[manifest.AnnotationRelease], w.Health.Desired
				w.Raised, w.OwnPartition = borrowed(s), ownPartition(u)
				w.MinReady = time.Duration(s.Spec.MinReadySeconds) * time.Second
				if rolling := s.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
					w.Partition = *rolling.Partition
				}
				broken, recheck := oldBroken(s, pods, now)
				w.OldBroken, w.Health.Recheck = broken, sooner(w.Health.Recheck, recheck)
				w.New, w.Stuck = health.NewPods(s, pods), o.notGone(stuckPods(s, pods))
			}
		case "DaemonSet":
			d := o.daemonSet(ref.Name)
			w.Health = health.DaemonSet(d, pods, events, tolerance, now)
			if d != nil {
				w.Exists, w.Release, w.Replicas = true, d.Annotations[manifest.AnnotationRelease], w.Health.Desired
				w.Raised = borrowed(d)
				w.MinReady = time.Duration(d.Spec.MinReadySeconds) * time.Second
			}
		}
		w.ReadySince = o.readySince(ref.Kind+"/"+ref.Name, w.Health.Status == health.Ready, now)
		obs.Workloads = append(obs.Workloads, w)
	}
	for _, ref := range r.canaryRefs(release) {
		for _, track := range []Track{CanaryTrack, BaselineTrack, PreviewTrack} {
			d := o.deployment(track.Name(ref.Name))
			if d == nil || d.DeletionTimestamp != nil || d.Labels[manifest.LabelApp] != o.store.app || d.Labels[manifest.LabelTrack] != string(track) {
				continue
			}
			strict := health.CanaryTolerance
			strict.Since = r.Started
			c := CanaryWorkload{Stable: ref, Track: track, Release: d.Annotations[manifest.AnnotationRelease],
				Health: health.Deployment(health.Input{Deployment: d, ReplicaSets: sets, Pods: pods, Events: events, Tolerance: strict, Now: now})}
			c.Replicas = c.Health.Desired
			c.ReadySince = o.readySince(string(track)+"/"+ref.Name, c.Health.Status == health.Ready, now)
			c.Dark, c.Serving = o.companionPods(d, sets, pods, now)
			obs.Canaries = append(obs.Canaries, c)
		}
	}
	o.lookAtServices(&obs, r, pods)
	return obs, nil
}

// companionPods lists a companion's pods that wait at the readiness gate, and
// the names of those that serve.
func (o *observer) companionPods(companion *appsv1.Deployment, sets []*appsv1.ReplicaSet, pods []*corev1.Pod, now time.Time) (dark []DarkPod, serving []string) {
	current := health.NewReplicaSet(companion, sets)
	for _, pod := range pods {
		if current == nil || !metav1.IsControlledBy(pod, current) || pod.DeletionTimestamp != nil {
			continue
		}
		if conditionTrue(pod, bakedCondition) || o.admitted[string(pod.UID)] {
			if conditionTrue(pod, corev1.PodReady) {
				serving = append(serving, pod.Name)
			}
			continue
		}
		// A restart begins the bake anew even if no cache ever showed the pod down.
		key := fmt.Sprintf("pod/%s/%d", pod.UID, restartsOf(pod))
		dark = append(dark, DarkPod{Name: pod.Name, UID: string(pod.UID), UpSince: o.readySince(key, conditionTrue(pod, corev1.ContainersReady), now)})
	}
	slices.SortFunc(dark, func(a, b DarkPod) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(serving)
	return dark, serving
}

func conditionTrue(pod *corev1.Pod, kind corev1.PodConditionType) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == kind && c.Status == corev1.ConditionTrue
	})
}

func restartsOf(pod *corev1.Pod) int32 {
	var n int32
	for i := range pod.Status.ContainerStatuses {
		n += pod.Status.ContainerStatuses[i].RestartCount
	}
	return n
}

// gone tells the observer that pods were just deleted.
func (o *observer) gone(pods []DarkPod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, pod := range pods {
		o.deletedPods[pod.UID] = true
	}
}

func (o *observer) notGone(pods []DarkPod) []DarkPod {
	return slices.DeleteFunc(pods, func(pod DarkPod) bool { return o.deletedPods[pod.UID] })
}

// letIn tells the observer that pods were just admitted.
func (o *observer) letIn(pods []DarkPod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, pod := range pods {
		o.admitted[pod.UID] = true
	}
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

func (o *observer) readySince(key string, ready bool, now time.Time) time.Time {
	if !ready {
		delete(o.ready, key)
		return time.Time{}
	}
	if _, ok := o.ready[key]; !ok {
		o.ready[key] = now
	}
	return o.ready[key]
}

// scaled tells whether an autoscaler owns the replicas of the workload, now or
// with the release that is being applied.
func (o *observer) scaled(ref manifest.Ref, release *manifest.Release) bool {
	list, err := o.autoscalers.HorizontalPodAutoscalers(o.store.namespace).List(labels.Everything())
	if err == nil && slices.ContainsFunc(list, func(h *autoscalingv2.HorizontalPodAutoscaler) bool { return scales(h, ref) }) {
		return true
	}
	return scaledByRelease(ref, release)
}

func scales(h *autoscalingv2.HorizontalPodAutoscaler, ref manifest.Ref) bool {
	return h.Spec.ScaleTargetRef.Kind == ref.Kind && h.Spec.ScaleTargetRef.Name == ref.Name
}

// scaledByRelease tells whether the release brings an autoscaler for the
// workload: an HPA, or anything shaped like one, such as KEDA's ScaledObject.
func scaledByRelease(ref manifest.Ref, release *manifest.Release) bool {
	for _, u := range release.Objects {
		target, _, err := unstructured.NestedMap(u.Object, "spec", "scaleTargetRef")
		if err != nil || target == nil || target["name"] != ref.Name {
			continue
		}
		if kind, ok := target["kind"]; !ok || kind == ref.Kind {
			return true
		}
	}
	return false
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

// addresses are where the named pods serve: at the port that a Service of the
// release sends traffic to, else at their first one, else without a port.
func (o *observer) addresses(release *manifest.Release, names []string) []string {
	var found []string
	for _, group := range o.groups {
		for _, name := range names {
			pod, err := group.pods.Pods(o.store.namespace).Get(name)
			if err != nil || pod.Status.PodIP == "" {
				continue
			}
			address := pod.Status.PodIP
			if port := servingPort(release, pod); port != 0 {
				address = net.JoinHostPort(address, strconv.Itoa(int(port)))
			}
			if !slices.Contains(found, address) {
				found = append(found, address)
			}
		}
	}
	return found
}

func servingPort(release *manifest.Release, pod *corev1.Pod) int32 {
	var named []corev1.ContainerPort
	for _, c := range pod.Spec.Containers {
		named = append(named, c.Ports...)
	}
	for _, u := range release.Objects {
		if u.GetKind() != "Service" || u.GetAPIVersion() != "v1" {
			continue
		}
		var service corev1.Service
		if runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &service) != nil || len(service.Spec.Ports) == 0 || len(service.Spec.Selector) == 0 ||
			!labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			continue
		}
		first := service.Spec.Ports[0]
		if first.TargetPort.StrVal == "" {
			return cmp.Or(first.TargetPort.IntVal, first.Port)
		}
		for _, port := range named {
			if port.Name == first.TargetPort.StrVal {
				return port.ContainerPort
			}
		}
	}
	if len(named) > 0 {
		return named[0].ContainerPort
	}
	return 0
}
