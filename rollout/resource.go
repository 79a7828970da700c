package rollout

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// resourceWatch watches the custom resources of a rollout, each kind by an
// informer of its own that is started once the kind exists.
type resourceWatch struct {
	ctx    context.Context // of the observer
	cancel context.CancelFunc
	store  *store
	notify func()

	// The driver alone uses it, from one goroutine.
	factories map[string]dynamicinformer.DynamicSharedInformerFactory // by namespace
	listers   map[objectKey]cache.GenericLister                       // by kind and namespace
}

func newResourceWatch(ctx context.Context, s *store, notify func()) *resourceWatch {
	ctx, cancel := context.WithCancel(ctx)
	return &resourceWatch{ctx: ctx, cancel: cancel, store: s, notify: notify,
		factories: map[string]dynamicinformer.DynamicSharedInformerFactory{}, listers: map[objectKey]cache.GenericLister{}}
}

func (w *resourceWatch) stop() {
	w.cancel()
	for _, factory := range w.factories {
		factory.Shutdown()
	}
}

// kindKey names the objects of ref's kind in its namespace.
func kindKey(ref manifest.Ref) objectKey {
	key := keyOf(ref)
	key.name = ""
	return key
}

// follow starts the informers for the custom resources of releases whose kinds
// exist, and returns when their first lists are in.
func (w *resourceWatch) follow(releases ...*manifest.Release) error {
	var synced []cache.InformerSynced
	for _, release := range releases {
		if release == nil {
			continue
		}
		for _, ref := range release.Refs() {
			if !manifest.IsCustom(ref) || w.listers[kindKey(ref)] != nil {
				continue
			}
			has, err := w.start(ref)
			if err != nil {
				return err
			}
			if has != nil {
				synced = append(synced, has)
			}
		}
	}
	for _, factory := range w.factories {
		factory.Start(w.ctx.Done())
	}
	if !cache.WaitForCacheSync(w.ctx.Done(), synced...) {
		return fmt.Errorf("watching custom resources: %w", context.Cause(w.ctx))
	}
	return nil
}

// start prepares the informer of a kind; nil when the kind does not exist yet.
func (w *resourceWatch) start(ref manifest.Ref) (cache.InformerSynced, error) {
	gvk := ref.GroupVersionKind()
	mapping, err := w.store.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the kind %s: %w", ref.Kind, err)
	}
	namespace := ref.Namespace
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		namespace = metav1.NamespaceAll
	}
	selector := manifest.LabelApp + "=" + w.store.app
	// An informer would try for ever what it may not do.
	err = w.store.retry(w.ctx, "looking at the objects of kind "+ref.Kind, func(ctx context.Context) error {
		_, err := w.store.dynamic.Resource(mapping.Resource).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector, Limit: 1})
		return err
	})
	if apierrors.IsForbidden(err) {
		return nil, fmt.Errorf("%w: the release has objects of kind %s, and their readiness may not be looked at: give the right to list and watch %s: %w",
			ErrRefused, ref.Kind, mapping.Resource.GroupResource(), err)
	}
	if err != nil {
		return nil, err
	}
	factory := w.factories[namespace]
	if factory == nil {
		factory = dynamicinformer.NewFilteredDynamicSharedInformerFactory(w.store.dynamic, 0, namespace,
			func(options *metav1.ListOptions) { options.LabelSelector = selector })
		w.factories[namespace] = factory
	}
	generic := factory.ForResource(mapping.Resource)
	if err := generic.Informer().SetTransform(slim); err != nil {
		return nil, fmt.Errorf("watching the objects of kind %s: %w", ref.Kind, err)
	}
	registration, err := generic.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { w.notify() }, UpdateFunc: func(any, any) { w.notify() }, DeleteFunc: func(any) { w.notify() }})
	if err != nil {
		return nil, fmt.Errorf("watching the objects of kind %s: %w", ref.Kind, err)
	}
	w.listers[kindKey(ref)] = generic.Lister()
	return registration.HasSynced, nil
}

// get is the object as the cache shows it; nil when it does not.
func (w *resourceWatch) get(ref manifest.Ref) (*unstructured.Unstructured, error) {
	lister := w.listers[kindKey(ref)]
	if lister == nil {
		return nil, nil
	}
	object, err := lister.ByNamespace(ref.Namespace).Get(ref.Name)
	if apierrors.IsNotFound(err) {
		object, err = lister.Get(ref.Name) // of a kind without namespaces
	}
	if err != nil {
		return nil, err
	}
	u, ok := object.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%s is a %T in the cache", ref, object)
	}
	return u, nil
}

func resourceName(ref manifest.Ref) string {
	return ref.GroupVersionKind().GroupKind().String() + "/" + ref.Namespace + "/" + ref.Name
}

// lookAtResource judges a custom resource.
func (o *observer) lookAtResource(ref manifest.Ref, r *Rollout, now time.Time) Workload {
	name := resourceName(ref)
	cached, err := o.resources.get(ref)
	u := newest(o, name, cached, err)
	w := Workload{Ref: ref, Replicas: 1}
	w.Health = health.Resource(u, o.rules.of(r, ref))
	if u != nil {
		w.Exists, w.Release = true, u.GetAnnotations()[manifest.AnnotationRelease]
	}
	w.ReadySince = o.readySince(name, w.Health.Status == health.Ready, now)
	return w
}

// wroteResource tells the observer of a custom resource that was just written.
func (o *observer) wroteResource(u *unstructured.Unstructured) {
	ref := manifest.RefOf(u)
	if !manifest.IsCustom(ref) {
		return
	}
	names := []string{resourceName(ref)}
	if ref.Namespace == "" { // which the release may not know
		ref.Namespace = o.store.namespace
		names = append(names, resourceName(ref))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, name := range names {
		o.written[name] = u
		delete(o.removed, name)
		delete(o.ready, name)
	}
}
