package rollout

import (
	"context"
	"fmt"
	"strings"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// Route is a route of a rollout as it is now.
type Route struct {
	LiveRoute
	Exists bool
	// State is what it gives the canary, Reported what its router says of it.
	traffic.State
	traffic.Reported
}

// routeWatch caches the routes of one rollout, and which pods its canary
// Services have.
type routeWatch struct {
	routes    map[string]cache.Store // by routeKey
	endpoints discoverylisters.EndpointSliceLister
}

func routeKey(ref manifest.Ref) string { return ref.Kind + "/" + ref.Name }

// factory is what informers of both kinds of client are started and ended by.
type factory interface {
	Start(<-chan struct{})
	Shutdown()
}

// follow starts the informers for the rollout's routes, each for its one
// object, and returns when their first lists are in.
func (o *observer) follow(ctx context.Context, r *Rollout) error {
	if len(r.Routes) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	followed := &routeWatch{routes: map[string]cache.Store{}}
	var factories []factory
	var watched []cache.SharedIndexInformer
	for i := range r.Routes {
		for _, ref := range []manifest.Ref{r.Routes[i].Route, r.Routes[i].holder()} {
			if followed.routes[routeKey(ref)] != nil {
				continue
			}
			gvk := ref.GroupVersionKind()
			mapping, err := o.store.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
			if err != nil {
				cancel()
				return fmt.Errorf("watching %s: %w", ref, err)
			}
			f := dynamicinformer.NewFilteredDynamicSharedInformerFactory(o.store.dynamic, 0, o.store.namespace,
				func(options *metav1.ListOptions) { options.FieldSelector = "metadata.name=" + ref.Name })
			informer := f.ForResource(mapping.Resource).Informer()
			followed.routes[routeKey(ref)] = informer.GetStore()
			factories, watched = append(factories, f), append(watched, informer)
		}
	}
	var canaries []string
	for _, s := range r.Services {
		for _, track := range r.companionTracks() {
			canaries = append(canaries, track.Name(s.Service.Name))
		}
	}
	f := informers.NewSharedInformerFactoryWithOptions(o.store.kube, 0, informers.WithNamespace(o.store.namespace), informers.WithTransform(slim),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.LabelSelector = fmt.Sprintf("%s in (%s)", discoveryv1.LabelServiceName, strings.Join(canaries, ","))
		}))
	factories, watched = append(factories, f), append(watched, f.Discovery().V1().EndpointSlices().Informer())
	followed.endpoints = f.Discovery().V1().EndpointSlices().Lister()
	stop := o.stop
	o.stop = func() {
		cancel()
		for _, f := range factories {
			f.Shutdown()
		}
		stop()
	}
	var synced []cache.InformerSynced
	for _, informer := range watched {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { o.notify() }, UpdateFunc: func(any, any) { o.notify() }, DeleteFunc: func(any) { o.notify() }})
		if err != nil {
			return fmt.Errorf("watching the routes of namespace %s: %w", o.store.namespace, err)
		}
		synced = append(synced, registration.HasSynced)
	}
	for _, f := range factories {
		f.Start(ctx.Done())
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return fmt.Errorf("watching the routes of namespace %s: %w", o.store.namespace, context.Cause(ctx))
	}
	o.mu.Lock()
	o.followed = followed
	o.mu.Unlock()
	return nil
}

// routeObject is a route, or a holder, as the cluster shows it; nil when there is none.
func (o *observer) routeObject(ref manifest.Ref) *unstructured.Unstructured {
	if o.followed == nil || o.followed.routes[routeKey(ref)] == nil {
		return nil
	}
	object, exists, err := o.followed.routes[routeKey(ref)].GetByKey(o.store.namespace + "/" + ref.Name)
	cached, _ := object.(*unstructured.Unstructured)
	if !exists {
		cached = nil
	}
	return newest(o, routeKey(ref), cached, err)
}

// wroteRoute tells the observer of a holder that was just written, or deleted
// when written is nil.
func (o *observer) wroteRoute(ref manifest.Ref, held, written *unstructured.Unstructured) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := routeKey(ref)
	delete(o.written, key)
	delete(o.removed, key)
	if written != nil {
		o.written[key] = written
	} else if held != nil {
		o.removed[key] = string(held.GetUID())
	}
}

// applied takes note of an object that was applied, if it is a route.
func (o *observer) applied(u *unstructured.Unstructured) {
	if key := routeKey(manifest.RefOf(u)); o.followed != nil && o.followed.routes[key] != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.written[key] = u
	}
}

// lookAtRoutes observes what gives a canary its share.
func (o *observer) lookAtRoutes(obs *Observation, r *Rollout) {
	for _, l := range r.Routes {
		held := o.routeObject(l.holder())
		route := Route{LiveRoute: l, Exists: o.routeObject(l.Route) != nil,
			State: l.router().Read(held, l.backends()), Reported: l.router().Reported(held)}
		obs.Routes = append(obs.Routes, route)
	}
}

// splitNow is what a live route gives its canary.
func (o *observer) splitNow(l *LiveRoute) traffic.Split {
	o.mu.Lock()
	defer o.mu.Unlock()
	return l.router().Read(o.routeObject(l.holder()), l.backends()).Split
}

// reached is since when the Services of canary and baseline beside a live one
// have had all their pods that serve as endpoints; zero when one has not.
func (o *observer) reached(obs Observation, r *Rollout, live LiveService, now time.Time) time.Time {
	if len(r.Routes) == 0 {
		return time.Time{}
	}
	var since time.Time
	for _, track := range r.companionTracks() {
		n := 0
		if c := obs.companion(live.Workload, track); c != nil {
			n = len(c.Serving)
		}
		at := o.reachedSince(track.Name(live.Service.Name), n, now)
		if at.IsZero() {
			return at
		}
		since = latest(since, at)
	}
	return since
}

// reachedSince is since when a Service has had at least n ready endpoints
// without a break; zero when it has not.
func (o *observer) reachedSince(service string, n int, now time.Time) time.Time {
	if o.followed == nil || n == 0 {
		return o.readySince("endpoints/"+service, false, now)
	}
	list, err := o.followed.endpoints.EndpointSlices(o.store.namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
	ready := 0
	for _, slice := range list {
		for i := range slice.Endpoints {
			if serving := slice.Endpoints[i].Conditions.Ready; serving == nil || *serving {
				ready++
			}
		}
	}
	return o.readySince(fmt.Sprintf("endpoints/%s", service), err == nil && ready >= n, now)
}
