package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// MaxRoutes bounds the routes of a strategy.
const MaxRoutes = 10

// TrafficRoute names a route by which a canary gets its share.
type TrafficRoute struct {
	Router traffic.Kind `json:"router"`
	Name   string       `json:"name"`
}

// LiveRoute is a route that a rollout writes weights to.
type LiveRoute struct {
	Router traffic.Kind `json:"router"`
	Route  manifest.Ref `json:"route"`
	// Services are those of the release that it sends to and whose workloads have
	// a canary. Each is narrowed to the stable pods while the canary is judged.
	Services []LiveService `json:"services"`
	// Baseline tells that a fresh baseline gets a share, too.
	Baseline bool `json:"baseline,omitempty"`
	// Told is the split that was written last, Written whether any was.
	Told    traffic.Split `json:"told"`
	Written bool          `json:"written,omitempty"`
	// Overwritten counts how often someone else's change of it was put right.
	Overwritten int `json:"overwritten,omitempty"`
}

// router knows the routes of its kind.
func (l *LiveRoute) router() traffic.Router { return traffic.For(l.Router) }

// holder is the object that the split is written to.
func (l *LiveRoute) holder() manifest.Ref { return l.router().Holder(l.Route) }

// own tells whether the holder is an object of ours beside the route.
func (l *LiveRoute) own() bool { return !l.holder().Same(l.Route) }

// backends are the Services that share the requests.
func (l *LiveRoute) backends() traffic.Backends {
	var b traffic.Backends
	for _, s := range l.Services {
		pair := traffic.Pair{Stable: s.Service.Name, Canary: CanaryTrack.Name(s.Service.Name)}
		if l.Baseline {
			pair.Baseline = BaselineTrack.Name(s.Service.Name)
		}
		b = append(b, pair)
	}
	return b
}

// routed tells whether the workload's canary gets its share by a route.
func (r *Rollout) routed(workload manifest.Ref) bool {
	return r.routeOf(func(l *LiveRoute) bool {
		return slices.ContainsFunc(l.Services, func(s LiveService) bool { return s.Workload.Same(workload) })
	}) != nil
}

func (r *Rollout) routeOf(which func(*LiveRoute) bool) *LiveRoute {
	for i := range r.Routes {
		if which(&r.Routes[i]) {
			return &r.Routes[i]
		}
	}
	return nil
}

// companionTracks are those of the companions which have Services of their own.
func (r *Rollout) companionTracks() []Track {
	switch {
	case len(r.Routes) == 0:
		return []Track{PreviewTrack}
	case r.Strategy.compares():
		return []Track{CanaryTrack, BaselineTrack}
	}
	return []Track{CanaryTrack}
}

// split is what a step asks routes for. A baseline gets what the canary gets, or
// what is left beside it.
func (s Strategy) split(step Step) traffic.Split {
	split := traffic.Split{Weight: step.Weight, Match: step.Match}
	if s.compares() {
		split.Baseline = min(step.Weight, 100-step.Weight)
	}
	return split
}

// checkTraffic refuses what routers cannot do, before anything is looked at.
func (s *Strategy) checkTraffic() error {
	if len(s.Traffic) > 0 && s.Kind != CanaryStrategy {
		return fmt.Errorf("%w: traffic by a router needs the strategy canary; blue-green switches Services, which is behind any router", ErrInvalid)
	}
	if len(s.Traffic) > MaxRoutes {
		return fmt.Errorf("%w: %d routes; at most %d are allowed", ErrInvalid, len(s.Traffic), MaxRoutes)
	}
	seen := map[TrafficRoute]bool{}
	for _, route := range s.Traffic {
		switch {
		case traffic.For(route.Router) == nil:
			return fmt.Errorf("%w: unknown router %q: use gateway, nginx, istio or traefik", ErrInvalid, route.Router)
		case route.Name == "" || len(route.Name) > 253:
			return fmt.Errorf("%w: traffic: %q can't be the name of a route", ErrInvalid, route.Name)
		case seen[route]:
			return fmt.Errorf("%w: traffic names %s/%s twice", ErrInvalid, route.Router.Resource(), route.Name)
		}
		seen[route] = true
	}
	for i, step := range s.Steps {
		if err := s.checkSplit(step); err != nil {
			return fmt.Errorf("%w: canary step %d: %w", ErrInvalid, i+1, err)
		}
	}
	return nil
}

func (s *Strategy) checkSplit(step Step) error {
	if len(s.Traffic) == 0 {
		if step.Match != nil {
			return errors.New("match picks requests by a router, and none is named; name one under traffic")
		}
		return nil
	}
	if err := step.Match.Check(); err != nil {
		return err
	}
	if s.compares() && (step.Weight == 0 || step.Weight == 100) {
		return fmt.Errorf("a metric is compared with a baseline, which gets no requests beside a weight of %d; use 1 to 99", step.Weight)
	}
	for _, route := range s.Traffic {
		if err := traffic.For(route.Router).Can(s.split(step)); err != nil {
			return err
		}
	}
	return nil
}

// planRoutes says which routes a canary gets its share by, and which Services
// those send to. live finds a route in the cluster; nil when there is none. A
// note tells what is done otherwise than asked for.
func (r *Rollout) planRoutes(release, base *manifest.Release, live func(TrafficRoute) (*unstructured.Unstructured, error)) (notes []string, err error) {
	if len(r.Strategy.Traffic) == 0 || len(r.Canaries)+len(r.Partitioned) == 0 {
		return nil, nil
	}
	for _, asked := range r.Strategy.Traffic {
		route, err := live(asked)
		if err != nil {
			return nil, err
		}
		if route == nil {
			r.Routes, r.Services = nil, nil
			return r.byReplicas(fmt.Sprintf("%s/%s does not exist yet", asked.Router.Resource(), asked.Name))
		}
		l := LiveRoute{Router: asked.Router, Route: manifest.RefOf(route), Baseline: r.Strategy.compares()}
		if l.Services, err = r.servicesOf(l, route, release, base); err != nil {
			return nil, err
		}
		if len(l.Services) == 0 {
			continue
		}
		for _, version := range []*unstructured.Unstructured{route, release.Find(l.Route)} {
			if err := l.splits(version, r.Strategy); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
			}
		}
		r.Routes = append(r.Routes, l)
		for _, s := range l.Services {
			if !slices.Contains(r.Services, s) {
				r.Services = append(r.Services, s)
			}
		}
	}
	if len(r.Routes) == 0 {
		return r.byReplicas("no workload that changes is behind a route that was named")
	}
	for _, ref := range r.Canaries {
		if !r.routed(ref) {
			notes = append(notes, fmt.Sprintf("%s is behind none of the routes: its share is by replicas", ref))
		}
	}
	for _, l := range r.Routes {
		if l.router().Reported(&unstructured.Unstructured{Object: map[string]any{}}).Silent {
			notes = append(notes, fmt.Sprintf("%s does not tell when it has taken a weight: steps begin when it is written", l.Route))
		}
	}
	return notes, nil
}

// byReplicas lets the canary have its share by replicas, where that is possible.
func (r *Rollout) byReplicas(why string) ([]string, error) {
	for i, step := range r.Strategy.Steps {
		if step.Match != nil {
			return nil, fmt.Errorf("%w: canary step %d picks requests by a match, and %s; deploy the route first", ErrInvalid, i+1, why)
		}
	}
	return []string{why + ": the canary's share is by replicas"}, nil
}

// servicesOf are the Services of both releases that a route sends to and that
// select the pods of a workload with a canary.
func (r *Rollout) servicesOf(l LiveRoute, route *unstructured.Unstructured, release, base *manifest.Release) ([]LiveService, error) {
	named := l.router().Services(route)
	ours := false
	for _, u := range release.Objects {
		ours = ours || isService(manifest.RefOf(u)) && slices.Contains(named, u.GetName())
	}
	if !ours {
		return nil, fmt.Errorf("%w: %s sends to none of the Services in the manifests (%s); name a route that does", ErrInvalid, l.Route, listed(named))
	}
	for _, ref := range r.Partitioned {
		for _, u := range release.Objects {
			if isService(manifest.RefOf(u)) && slices.Contains(named, u.GetName()) && selects(u, release.Find(ref)) {
				return nil, fmt.Errorf("%w: %s sends to pods of %s, which changes: its pods are replaced in place, so that a router can't tell them apart; leave traffic out", ErrInvalid, l.Route, ref)
			}
		}
	}
	var found []LiveService
	for _, ref := range r.Canaries {
		tracks := []Track{CanaryTrack}
		if r.Strategy.compares() {
			tracks = append(tracks, BaselineTrack)
		}
		var live []LiveService
		for _, track := range tracks { // whose Services need names
			var err error
			if live, err = liveServices(release, base, release.Find(ref), track); err != nil {
				return nil, err
			}
		}
		for _, s := range live {
			if slices.Contains(named, s.Service.Name) {
				found = append(found, s)
			}
		}
	}
	return found, nil
}

func listed(names []string) string {
	if len(names) == 0 {
		return "it names no Service"
	}
	return "it names " + strings.Join(names, ", ")
}

// splits tries the weights of all steps on a route.
func (l *LiveRoute) splits(route *unstructured.Unstructured, strategy Strategy) error {
	if route == nil {
		return nil
	}
	if _, ours := route.GetAnnotations()[traffic.Annotation]; !ours && !l.own() && l.router().Read(route, l.backends()).Touched {
		return fmt.Errorf("%s sends to the Service of the canary by itself; take it out", l.Route)
	}
	for i, step := range strategy.Steps {
		if _, err := l.router().Split(route, nil, l.backends(), strategy.split(step)); err != nil {
			return fmt.Errorf("canary step %d: %w", i+1, err)
		}
	}
	return nil
}

// chooseRoutes settles by which routes r's canary gets its share. It writes nothing.
func (d *driver) chooseRoutes(ctx context.Context, r *Rollout) error {
	notes, err := r.planRoutes(d.release, d.base, func(asked TrafficRoute) (*unstructured.Unstructured, error) { return d.findRoute(ctx, asked) })
	if err != nil {
		return err
	}
	for _, note := range notes {
		if r.Note != "" {
			r.Note += "; "
		}
		r.Note += note
	}
	return nil
}

// findRoute reads a route in the best version that the cluster has.
func (c *store) findRoute(ctx context.Context, asked TrafficRoute) (*unstructured.Unstructured, error) {
	kinds := traffic.For(asked.Router).Kinds()
	for _, kind := range kinds {
		_, err := c.mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking for %s/%s: %w", asked.Router.Resource(), asked.Name, err)
		}
		return c.get(ctx, manifest.Ref{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Namespace: c.namespace, Name: asked.Name})
	}
	return nil, fmt.Errorf("%w: the cluster has no %s (%s); install its CustomResourceDefinitions, or leave traffic out", ErrInvalid, kinds[0].Kind, kinds[0].Group)
}
