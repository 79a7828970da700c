package rollout

import (
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// modelRoute is the route of the model, and how many canary pods serve behind it.
type modelRoute struct {
	gone     bool
	split    traffic.Split
	touched  bool
	tampered bool // by someone else
	taken    bool // by the router
	deaf     bool // a router that takes nothing
	in       int32
}

var shopRoute = manifest.Ref{APIVersion: "gateway.networking.k8s.io/v1", Kind: "HTTPRoute", Namespace: "x", Name: "shop"}

// beginRoute draws whether a canary gets its share by a route.
func (m *model) beginRoute(r *Rollout) {
	m.route.gone = false
	if !rapid.Bool().Draw(m.t, "routed") {
		return
	}
	live := LiveService{Service: shopService, Workload: m.ref}
	r.Services = []LiveService{live}
	r.Routes = []LiveRoute{{Router: traffic.Gateway, Route: shopRoute, Services: r.Services}}
	r.Strategy.Traffic = []TrafficRoute{{Router: traffic.Gateway, Name: "shop"}}
	r.Routes[0].Baseline = true
	if rapid.Bool().Draw(m.t, "match") {
		r.Strategy.Steps[0] = Step{Match: &traffic.Match{Header: "x-canary", Value: "yes"}}
	}
	m.route.deaf = rapid.IntRange(0, 4).Draw(m.t, "deaf") == 0
}

// serving are the canary pods that are baked and ready.
func (m *model) serving() []string {
	switch m.health["canary"] {
	case health.Ready:
		return make([]string, m.route.in)
	case health.Degraded:
		return make([]string, m.route.in/2)
	}
	return nil
}

func (m *model) observeRoute(obs *Observation) {
	r := m.record.Current
	if len(r.Routes) == 0 {
		return
	}
	s := &obs.Services[0]
	s.Companions = nil
	if m.canary != "" {
		s.Companions = append(s.Companions, CanaryTrack)
	}
	if m.base != "" {
		s.Companions = append(s.Companions, BaselineTrack)
	}
	if m.canary != "" && len(m.serving()) > 0 && (m.baseIn || !r.Strategy.compares()) {
		s.Reached = m.readySince("reached", health.Ready)
	} else {
		delete(m.since, "reached")
	}
	rt := Route{LiveRoute: r.Routes[0], Exists: !m.route.gone}
	rt.Split, rt.Touched, rt.Intact = m.route.split, m.route.touched, !m.route.tampered
	rt.Taken = m.route.taken
	obs.Routes = []Route{rt}
}

// scaledRoute keeps the pods that serve, as a Deployment does.
func (m *model) scaledRoute(r *Rollout, a Action) {
	if m.canary != r.Digest {
		m.route.in = 0
	}
	m.route.in = min(m.route.in, a.Replicas)
}

func (m *model) setWeight(r *Rollout, a Action) {
	rt := &m.route
	rt.split, rt.touched, rt.tampered, rt.taken = a.Split, !a.Split.None(), false, false
	l := &r.Routes[0]
	l.Told, l.Written = a.Split, true
	if a.Overwrites {
		if l.Overwritten++; l.Overwritten > maxOverwritten {
			m.t.Fatal("someone else's changes are put right for ever")
		}
	}
}

// someoneElse changes the weights, puts the manifest's back, or deletes the route.
func (m *model) someoneElse() {
	rt := &m.route
	if len(m.record.Current.Routes) == 0 || m.record.Current.State.Final() {
		return
	}
	rt.taken = false
	switch rapid.IntRange(0, 9).Draw(m.t, "someone else") {
	case 0:
		rt.gone, rt.split, rt.touched, rt.tampered = true, traffic.Split{}, false, false
	case 1, 2, 3:
		rt.split, rt.touched, rt.tampered = traffic.Split{}, false, false
	default:
		if rt.touched {
			rt.split, rt.tampered = traffic.Split{Weight: rapid.IntRange(0, 100).Draw(m.t, "tampered")}, true
		}
	}
}

// bearable tells whether the canary pods that serve can bear what the route gives them.
func (m *model) bearable(s traffic.Split) bool {
	n := len(m.serving())
	return s.Weight == 0 && s.Match == nil || n > 0 && s.Weight <= 100*n/int(m.n)
}

// checkRoute holds an action against what it would do to the requests behind a route.
func (m *model) checkRoute(r *Rollout, a Action) {
	rt := &m.route
	if len(r.Routes) == 0 || rt.gone {
		return
	}
	live := rt.touched && !rt.split.None()
	if a.Kind == SetWeight && a.Split.Baseline > rt.split.Baseline && (!m.baseIn || m.base == "") {
		m.t.Fatal("requests given to a baseline that is not there")
	}
	if a.Kind == RemoveCanary && a.Track == BaselineTrack && live && rt.split.Baseline > 0 {
		m.t.Fatal("the baseline goes while it has requests")
	}
	switch a.Kind {
	case SetWeight:
		switch {
		case !m.bearable(a.Split) && a.Split.Weight >= rt.split.Weight:
			m.t.Fatalf("%s given to %d pods of %d", a.Split, len(m.serving()), m.n)
		case !a.Split.None() && m.canary != r.Digest:
			m.t.Fatal("requests given to pods of another release")
		case !a.Split.None() && r.State != Canary && r.State != Promoting && r.State != Rolling:
			m.t.Fatalf("requests given in state %s", r.State)
		case !a.Split.None() && r.State != Canary && a.Split.Weight > rt.split.Weight:
			m.t.Fatal("the weight rose when nothing judged it")
		case a.Split.Weight > rt.split.Weight && r.State == Canary && m.service.points != PointsStable:
			m.t.Fatal("weight given while the stable Service selects the canary too")
		}
	case Admit, ScaleCanary, PointService, Mark, Wait:
		if a.Track != BaselineTrack && (r.State == Canary || r.State == Rolling) && live && !m.bearable(rt.split) {
			m.t.Fatalf("%s while %s goes to %d pods of %d", a.Kind, rt.split, len(m.serving()), m.n)
		}
	}
	if a.Kind == Admit && a.Track == CanaryTrack && m.service.points != PointsStable {
		m.t.Fatal("canary pods turn ready while the stable Service selects them")
	}
	if back := r.State == RollingBack || r.State == Withdrawing || r.State == Finishing; back && rt.touched && a.Kind != SetWeight && a.Kind != Obey && a.Kind != BeginHook && (a.Kind != Wait || len(r.Hooks) == 0) {
		m.t.Fatalf("%s in state %s while the canary has %s", a.Kind, r.State, rt.split)
	}
	if a.Kind == RemoveCanary && a.Track == CanaryTrack {
		if live {
			m.t.Fatal("canary pods go while they have requests")
		}
		if r.Routes[0].Written && !rt.taken && m.now.Before(r.StateSince.Add(min(routePatience, r.Deadline))) && r.State != Applying {
			m.t.Fatal("canary pods go before the router has taken their requests away")
		}
	}
	if a.Kind == Mark && a.Ready && r.State == Canary {
		if want := r.Strategy.split(r.Strategy.Steps[r.Step-1]); !rt.split.Same(want) || rt.tampered || !rt.taken {
			m.t.Fatalf("a step's clock starts, and the route gives %s, not %s", rt.split, want)
		}
	}
	if a.Move != nil && a.Move.Proof != nil && a.Move.Proof.gate.Kind == "health" && r.State == Canary && (!rt.taken || rt.tampered) {
		m.t.Fatal("a step passed, and its router had not taken the weight")
	}
}

// checkRouteEnd holds an ended rollout against what must be left in the route: nothing.
func (m *model) checkRouteEnd(r *Rollout) {
	if m.route.touched && !m.route.gone {
		m.t.Fatalf("ended in %s with %s in the route", r.State, m.route.split)
	}
}
