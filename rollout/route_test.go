package rollout

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

const behind = planned + `
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec: {rules: [{backendRefs: [{name: shop, port: 80}]}]}
`

// routedAt is a canary behind a route, at its first step, with everything as it should be.
func routedAt(weight int) (*Record, Observation, time.Time) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	live := LiveService{Service: shopService, Workload: shopRef}
	l := LiveRoute{Router: traffic.Gateway, Route: shopRoute, Services: []LiveService{live}}
	record := &Record{App: "shop", Namespace: "x", Revisions: 2, Verified: 1, Stable: 1}
	record.Current = &Rollout{Revision: 2, Digest: "d2", State: Canary, Base: 1, Step: 1, StateSince: now, Bake: 10 * time.Second, Deadline: time.Minute,
		Strategy: Strategy{Kind: CanaryStrategy, Steps: []Step{{Weight: weight, Hold: time.Minute}}, Traffic: []TrafficRoute{{traffic.Gateway, "shop"}}},
		Canaries: []manifest.Ref{shopRef}, Services: l.Services, Routes: []LiveRoute{l}}
	obs := Observation{
		Workloads: []Workload{{Ref: shopRef, Exists: true, Release: "d1", Replicas: 10, Hash: "h1", ReadySince: now, Health: health.Verdict{Status: health.Ready}}},
		Services:  []Service{{LiveService: live, Exists: true, Points: PointsStable, Hash: "h1", Companions: []Track{CanaryTrack}, Reached: now}},
		Routes:    []Route{{LiveRoute: l, Exists: true, State: traffic.State{Intact: true}}},
	}
	size := canarySize(weight, 10)
	obs.Canaries = []CanaryWorkload{{Stable: shopRef, Track: CanaryTrack, Release: "d2", Replicas: size, ReadySince: now, Health: health.Verdict{Status: health.Ready, Ready: size}}}
	for i := range size {
		obs.Canaries[0].Serving = append(obs.Canaries[0].Serving, fmt.Sprint("c", i))
	}
	return record, obs, now.Add(5 * time.Second)
}

// give makes the route give the canary a split, as it was told.
func give(record *Record, obs *Observation, s traffic.Split) {
	record.Current.Routes[0].Told, record.Current.Routes[0].Written = s, !s.None()
	obs.Routes[0] = Route{LiveRoute: record.Current.Routes[0], Exists: true, State: traffic.State{Split: s, Touched: !s.None(), Intact: true}, Reported: traffic.Reported{Taken: true}}
}

func TestAStepBeginsWhenTheRouterHasTakenTheWeight(t *testing.T) {
	record, obs, now := routedAt(20)
	a := Decide(record, obs, now)
	require.Equal(t, SetWeight, a.Kind)
	require.Equal(t, traffic.Split{Weight: 20}, a.Split)
	give(record, &obs, a.Split)
	obs.Routes[0].Reported = traffic.Reported{Why: "the Gateway edge has not taken it yet"}
	a = Decide(record, obs, now)
	require.Equal(t, Wait, a.Kind)
	require.Contains(t, a.Why, "has not taken it yet")
	late := record.Current.StateSince.Add(70 * time.Second)
	require.Equal(t, late, a.Until)
	a = Decide(record, obs, late)
	require.Equal(t, RouteNotTaken, a.Move.Failure.Reason)
	require.Equal(t, RollingBack, a.Move.To)
	obs.Routes[0].Reported = traffic.Reported{Taken: true}
	a = Decide(record, obs, now)
	require.True(t, a.Kind == Mark && a.Ready, "%+v", a)
}

func TestNoWeightWithoutPodsThatCanBearIt(t *testing.T) {
	record, obs, now := routedAt(50)
	obs.Services[0].Reached = time.Time{} // the endpoints are not known yet
	a := Decide(record, obs, now)
	require.Equal(t, Wait, a.Kind)
	require.Contains(t, a.Why, "endpoints of Service/shop-canary")
	obs.Services[0].Reached = now
	require.Equal(t, now.Add(routeSettle), Decide(record, obs, now).Until)

	give(record, &obs, traffic.Split{Weight: 50, Match: &traffic.Match{Header: "x", Value: "y"}})
	for serving, want := range map[int]traffic.Split{3: {Weight: 30, Match: &traffic.Match{Header: "x", Value: "y"}}, 0: {}} {
		few := obs
		few.Canaries = []CanaryWorkload{obs.Canaries[0]}
		few.Canaries[0].ReadySince, few.Canaries[0].Serving = time.Time{}, obs.Canaries[0].Serving[:serving]
		a := Decide(record, few, now)
		require.Equal(t, SetWeight, a.Kind)
		require.True(t, want.Same(a.Split), a.Split)
		require.False(t, a.Overwrites)
		record.Current.State = Rolling // nor while the stable workload is replaced
		require.Equal(t, SetWeight, Decide(record, few, now).Kind)
		record.Current.State = Canary
	}
	// An autoscaler doubles the stable workload.
	obs.Workloads[0].Replicas = 20
	a = Decide(record, obs, now)
	require.Equal(t, SetWeight, a.Kind)
	require.Equal(t, 25, a.Split.Weight)
}

func TestPodsOfTheCanaryWaitUntilTheServiceIsTied(t *testing.T) {
	record, obs, now := routedAt(20)
	c := &obs.Canaries[0]
	c.ReadySince, c.Serving, c.Dark = time.Time{}, nil, []DarkPod{{Name: "c0", UID: "1", UpSince: now.Add(-time.Minute)}}
	obs.Services[0].Points, obs.Services[0].Hash = PointsOwn, ""
	a := Decide(record, obs, now)
	require.Equal(t, PointService, a.Kind)
	require.Equal(t, PointsStable, a.Points)
	require.Equal(t, "h1", a.Hash)
	require.True(t, a.Base)
	obs.Services[0].Points, obs.Services[0].Hash = PointsStable, "h1"
	require.Equal(t, Admit, Decide(record, obs, now).Kind)
	// Someone replaces the stable pods: the old ones, to which the Service is tied, go.
	obs.Workloads[0].Hash, obs.Workloads[0].ReadySince, obs.Workloads[0].Health.OldReady = "h2", time.Time{}, 5
	a = Decide(record, obs, now)
	require.Equal(t, PointService, a.Kind)
	require.Equal(t, PointsOwn, a.Points)
	obs.Services[0].Points, obs.Services[0].Hash = PointsOwn, ""
	require.NotEqual(t, Admit, Decide(record, obs, now).Kind)
	obs.Workloads[0].ReadySince, obs.Workloads[0].Health.OldReady = now, 0
	require.Equal(t, "h2", Decide(record, obs, now).Hash)
}

func TestTheWeightGoesFirstOnTheWayBack(t *testing.T) {
	for _, touched := range []bool{false, true} {
		record, obs, now := routedAt(20)
		r := record.Current
		give(record, &obs, traffic.Split{Weight: 20})
		r.State, r.StateSince, r.StableTouched = RollingBack, now, touched
		a := Decide(record, obs, now)
		require.Equal(t, SetWeight, a.Kind)
		require.True(t, a.Split.None())
		give(record, &obs, a.Split)
		r.Routes[0].Written, obs.Routes[0].Written = true, true
		obs.Routes[0].Reported = traffic.Reported{Why: "not yet"}
		a = Decide(record, obs, now)
		if touched { // the base comes back meanwhile
			require.Equal(t, ApplyBase, a.Kind)
			r.Restored = true
			a = Decide(record, obs, now)
		}
		require.Equal(t, Wait, a.Kind)
		require.Equal(t, now.Add(routePatience), a.Until)
		require.Equal(t, RemoveCanary, Decide(record, obs, a.Until).Kind)
		obs.Routes[0].Reported = traffic.Reported{Taken: true}
		require.Equal(t, RemoveCanary, Decide(record, obs, now).Kind)
	}
}

// A fresh baseline gets what the canary gets, and is out of the route before its
// pods go.
func TestABaselineHasItsShare(t *testing.T) {
	record, obs, now := routedAt(20)
	r := record.Current
	r.Strategy.Metrics = []MetricGate{{Name: "errors", Bad: "bad", Total: "all"}}
	r.Routes[0].Baseline, obs.Routes[0].LiveRoute.Baseline = true, true
	record.Current.Base = 1
	record.History = []Rollout{{Revision: 1, Digest: "d1"}}
	a := Decide(record, obs, now)
	require.True(t, a.Kind == ScaleCanary && a.Track == BaselineTrack && a.Replicas == 2, "%+v", a)
	obs.Canaries = append(obs.Canaries, CanaryWorkload{Stable: shopRef, Track: BaselineTrack, Release: "d1", Replicas: 2, ReadySince: r.StateSince, Serving: []string{"b1", "b2"}})
	obs.Services[0].Companions = []Track{CanaryTrack, BaselineTrack}
	a = Decide(record, obs, now)
	require.Equal(t, traffic.Split{Weight: 20, Baseline: 20}, a.Split)
	give(record, &obs, a.Split)
	obs.Canaries[1].Serving, obs.Canaries[1].ReadySince = []string{"b1"}, time.Time{}
	require.Equal(t, traffic.Split{Weight: 20, Baseline: 10}, Decide(record, obs, now).Split)
	r.State, r.StateSince = Promoting, now
	a = Decide(record, obs, now)
	require.Equal(t, SetWeight, a.Kind)
	require.Equal(t, traffic.Split{Weight: 20}, a.Split)
	give(record, &obs, a.Split)
	obs.Routes[0].Taken = false
	require.Equal(t, Wait, Decide(record, obs, now).Kind)
	obs.Routes[0].Taken = true
	a = Decide(record, obs, now)
	require.True(t, a.Kind == RemoveCanary && a.Track == BaselineTrack)
	require.Equal(t, traffic.Split{Weight: 80, Baseline: 20}, r.Strategy.split(Step{Weight: 80}))
}

func TestChangesBySomeoneElseArePutRightAndCounted(t *testing.T) {
	record, obs, now := routedAt(20)
	give(record, &obs, traffic.Split{Weight: 20})
	record.Current.StepReadyAt = now
	for _, state := range []traffic.State{
		{Split: traffic.Split{Weight: 90}, Touched: true}, // by hand
		{Split: traffic.Split{Weight: 5}, Touched: true},
		{Intact: true}, // by the manifest
	} {
		obs.Routes[0].State = state
		a := Decide(record, obs, now)
		require.Equal(t, SetWeight, a.Kind)
		require.True(t, a.Overwrites)
		require.Equal(t, 20, a.Split.Weight)
		require.Contains(t, a.Why, "someone else")
		obs.Routes[0].Overwritten = maxOverwritten
		a = Decide(record, obs, now)
		require.Equal(t, RouteContested, a.Move.Failure.Reason)
		obs.Routes[0].Overwritten = 0
	}
	obs.Routes[0].Exists = false
	require.Equal(t, RouteMissing, Decide(record, obs, now).Move.Failure.Reason)
}

func TestWhichRoutes(t *testing.T) {
	base := releaseOf(t, behind)
	changed := func(more string) *manifest.Release { return releaseOf(t, behind[len(planned):]+"---"+plannedNext+more) }
	by := func(kind traffic.Kind, names ...string) (found []TrafficRoute) {
		for _, name := range names {
			found = append(found, TrafficRoute{kind, name})
		}
		return found
	}
	match := &traffic.Match{Header: "x", Value: "y"}
	for name, test := range map[string]struct {
		routes  []TrafficRoute
		release *manifest.Release
		step    Step
		want    int
		note    string
		says    string
	}{
		"one":             {by(traffic.Gateway, "shop"), changed(""), Step{Weight: 20, Match: match}, 1, "", ""},
		"none asked for":  {nil, changed(""), Step{Weight: 20}, 0, "", ""},
		"not there":       {by(traffic.Gateway, "web"), changed(""), Step{Weight: 20}, 0, "does not exist yet: the canary's share is by replicas", ""},
		"one not there":   {by(traffic.Gateway, "shop", "web"), changed(""), Step{Weight: 20}, 0, "does not exist yet", ""},
		"match not there": {by(traffic.Gateway, "web"), changed(""), Step{Match: match}, 0, "", "deploy the route first"},
		"of others":       {by(traffic.Gateway, "others"), changed(""), Step{Weight: 20}, 0, "", "it names legacy"},
		"new version can't": {by(traffic.Gateway, "shop"), releaseOf(t, plannedNext+"---\napiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec: {selector: {app: shop}, ports: [{port: 80}]}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: shop}\nspec: {rules: [{backendRefs: [{name: other, port: 80}]}]}\n"),
			Step{Weight: 20}, 0, "", "sends nothing to the Services shop"},
		"no whole number": {by(traffic.Gateway, "tenth"), changed(""), Step{Weight: 20}, 0, "", "multiply all weights"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Rollout{Strategy: Strategy{Kind: CanaryStrategy, Steps: []Step{test.step}, Traffic: test.routes}}
			_, err := r.arrange(test.release, base, false)
			require.NoError(t, err)
			require.NotEmpty(t, r.Canaries)
			notes, err := r.planRoutes(test.release, base, func(asked TrafficRoute) (*unstructured.Unstructured, error) {
				backends := map[string][]any{"shop": {backend("shop", 1)}, "others": {backend("legacy", 1)}, "tenth": {backend("shop", 9), backend("legacy", 1)}}[asked.Name]
				if backends == nil {
					return nil, nil
				}
				return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
					"metadata": map[string]any{"name": asked.Name, "namespace": "x"}, "spec": map[string]any{"rules": []any{map[string]any{"backendRefs": backends}}}}}, nil
			})
			if test.says != "" {
				require.ErrorIs(t, err, ErrInvalid)
				require.ErrorContains(t, err, test.says)
				return
			}
			require.NoError(t, err)
			require.Len(t, r.Routes, test.want)
			require.Len(t, r.Services, test.want)
			require.Contains(t, fmt.Sprint(notes), test.note)
			if test.want > 0 {
				require.True(t, r.routed(shopRef))
				require.Equal(t, traffic.Backends{{Stable: "shop", Canary: "shop-canary"}}, r.Routes[0].backends())
			}
		})
	}
}

func backend(name string, weight int64) any {
	return map[string]any{"name": name, "port": int64(80), "weight": weight}
}

func TestTrafficThatMakesNoSenseIsRefused(t *testing.T) {
	match := &traffic.Match{Cookie: "canary", Value: "yes"}
	compared := []MetricGate{{Name: "errors", Prometheus: "http://p:9090", Bad: "bad", Total: "all"}}
	for name, strategy := range map[string]Strategy{
		"not a canary":      {Kind: RollingStrategy, Traffic: []TrafficRoute{{traffic.Gateway, "shop"}}},
		"unknown router":    {Kind: CanaryStrategy, Steps: []Step{{Weight: 1}}, Traffic: []TrafficRoute{{"haproxy", "shop"}}},
		"no name":           {Kind: CanaryStrategy, Steps: []Step{{Weight: 1}}, Traffic: []TrafficRoute{{traffic.Gateway, ""}}},
		"twice":             {Kind: CanaryStrategy, Steps: []Step{{Weight: 1}}, Traffic: []TrafficRoute{{traffic.Gateway, "shop"}, {traffic.Gateway, "shop"}}},
		"match by replicas": {Kind: CanaryStrategy, Steps: []Step{{Weight: 1, Match: match}}},
		"cookie":            {Kind: CanaryStrategy, Steps: []Step{{Weight: 1, Match: match}}, Traffic: []TrafficRoute{{traffic.Gateway, "shop"}}},
		"nginx's cookie":    {Kind: CanaryStrategy, Steps: []Step{{Weight: 1, Match: match}}, Traffic: []TrafficRoute{{traffic.Nginx, "shop"}}},
		"traefik's match":   {Kind: CanaryStrategy, Steps: []Step{{Weight: 1, Match: match}}, Traffic: []TrafficRoute{{traffic.Traefik, "shop"}}},
		"no match":          {Kind: CanaryStrategy, Steps: []Step{{Weight: 1, Match: &traffic.Match{}}}, Traffic: []TrafficRoute{{traffic.Istio, "shop"}}},
		"weight 0":          {Kind: CanaryStrategy, Steps: []Step{{}}, Traffic: []TrafficRoute{{traffic.Istio, "shop"}}},
		"no baseline left":  {Kind: CanaryStrategy, Steps: []Step{{Weight: 100}}, Traffic: []TrafficRoute{{traffic.Istio, "shop"}}, Metrics: compared},
		"nginx's baseline":  {Kind: CanaryStrategy, Steps: []Step{{Weight: 10}}, Traffic: []TrafficRoute{{traffic.Nginx, "shop"}}, Metrics: compared},
	} {
		t.Run(name, func(t *testing.T) {
			request := Request{App: "shop", Namespace: "x", Release: releaseOf(t, behind), Strategy: strategy}
			require.ErrorIs(t, request.check(), ErrInvalid)
		})
	}
}

// The release's own route is applied with the weights that are live.
func TestWeightsAreWovenIntoTheManifest(t *testing.T) {
	l := LiveRoute{Router: traffic.Gateway, Route: shopRoute, Services: []LiveService{{Service: shopService, Workload: shopRef}}}
	u := releaseOf(t, behind).Find(shopRoute).DeepCopy()
	plain := u.DeepCopy()
	require.NoError(t, weave(u, &l, traffic.Split{}))
	require.Equal(t, plain, u)
	require.NoError(t, weave(u, &l, traffic.Split{Weight: 20}))
	state := l.router().Read(u, l.backends())
	require.True(t, state.Intact && state.Weight == 20)
	cleared, err := l.router().Clear(u, l.backends())
	require.NoError(t, err)
	require.Equal(t, plain, cleared)

	r := &Rollout{State: Canary, Routes: []LiveRoute{l}, Services: l.Services}
	again := plain.DeepCopy()
	require.NoError(t, r.arranged(again, u))
	require.Equal(t, u, again, "weights are no drift")
	service := releaseOf(t, behind).Find(shopService).DeepCopy()
	tied := service.DeepCopy()
	require.NoError(t, aim(tied, PointsStable, "h1"))
	require.NoError(t, r.arranged(service, tied))
	require.Equal(t, tied, service)
}

func TestOurOwnWeightsAreNoConflict(t *testing.T) {
	conflict := func(managers ...string) error {
		var causes []metav1.StatusCause
		for _, manager := range managers {
			causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeFieldManagerConflict, Message: fmt.Sprintf("conflict with %q using v1", manager), Field: ".spec.rules"})
		}
		return apierrors.NewApplyConflict(causes, "apply failed")
	}
	require.True(t, ownConflict(fmt.Errorf("trying: %w", conflict(trafficManager))))
	require.False(t, ownConflict(conflict(trafficManager, "flux")))
	require.False(t, ownConflict(conflict("tidegate-traffic-other")))
	require.False(t, ownConflict(nil))
	require.False(t, ownConflict(apierrors.NewConflict(schema.GroupResource{Resource: "httproutes"}, "shop", nil)))
}
