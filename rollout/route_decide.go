package rollout

import (
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// Reasons that routes give.
const (
	RouteNotTaken  health.Reason = "RouteNotTaken"  // the router did not take a weight by the deadline
	RouteMissing   health.Reason = "RouteMissing"   // someone deleted the route
	RouteContested health.Reason = "RouteContested" // someone else kept changing the weights
)

const (
	// maxOverwritten is how often a change of the weights by someone else is put
	// right in a rollout before it counts as a fight.
	maxOverwritten = 5
	// routeSettle is how long endpoints must have been known before requests are
	// sent to them: what forwards packets hears of them a moment later.
	routeSettle = time.Second
	// routePatience is how long a router that does not answer is waited for on the
	// way back, before canary pods go all the same.
	routePatience = 30 * time.Second
)

// carried is the greatest weight that the pods of a track behind a route can
// bear: the share which those that are baked and ready are of the stable workload.
func (o *Observation) carried(r *Rollout, rt *Route, track Track) int {
	most := 100
	for _, s := range rt.Services {
		stable, c := o.workload(s.Workload), o.companion(s.Workload, track)
		if stable == nil || c == nil || track == CanaryTrack && c.Release != r.Digest {
			return 0
		}
		most = min(most, 100*len(c.Serving)/max(int(stable.Replicas), 1))
	}
	return most
}

// borne is no more of a split than the canary pods can bear.
func (o *Observation) borne(r *Rollout, rt *Route, s traffic.Split) traffic.Split {
	most := o.carried(r, rt, CanaryTrack)
	if s.Weight = min(s.Weight, most); most == 0 {
		s.Match = nil // it would be answered by nobody
	}
	if s.Baseline > 0 {
		s.Baseline = min(s.Baseline, o.carried(r, rt, BaselineTrack))
	}
	return s
}

// lowerWeights takes requests from canary pods that are not there to answer
// them, before anything else is done.
func lowerWeights(r *Rollout, obs Observation) (Action, bool) {
	for i := range obs.Routes {
		rt := &obs.Routes[i]
		if !rt.Exists || !rt.Touched {
			continue
		}
		s := obs.borne(r, rt, rt.wanted())
		s.Weight, s.Baseline = min(s.Weight, rt.Weight), min(s.Baseline, rt.Split.Baseline)
		if s.Weight == rt.Weight && s.Baseline == rt.Split.Baseline && (s.Match != nil || rt.Match == nil) {
			continue // it has no more than it can bear
		}
		if rt.changed() && r.State == Canary {
			return rt.set(r, s, true)
		}
		return Action{Kind: SetWeight, Ref: rt.Route, Split: s,
			Why: fmt.Sprintf("%s: %s instead of %s, which is what the canary pods that are ready can bear", rt.Route, s, rt.Split)}, true
	}
	return Action{}, false
}

// wanted is what the route was told last, or has, where nobody else changed it.
func (rt *Route) wanted() traffic.Split {
	if rt.changed() {
		return rt.Told
	}
	return rt.Split
}

// tie narrows the Services of a workload to its stable pods, so that canary
// pods that turn ready get what the route gives them and nothing else.
func (w *watch) tie(obs Observation, stable *Workload) (Action, bool) {
	for _, s := range obs.servicesOf(stable.Ref) {
		switch {
		case s.Points == PointsStable && s.Hash == stable.Hash:
		case stable.Hash == "":
			w.ready, w.waiting = false, fmt.Sprintf("waiting to see the pods of %s", stable.Ref.Name)
		case s.Points == PointsStable && stable.ReadySince.IsZero():
			// Someone else replaces the stable pods: all that are ready serve meanwhile.
			return Action{Kind: PointService, Ref: s.Service, Points: PointsOwn, Base: true,
				Why: fmt.Sprintf("someone replaces the pods of %s: all that are ready serve %s meanwhile", stable.Ref.Name, s.Service)}, true
		case !stable.ReadySince.IsZero() || stable.Health.OldReady == 0:
			return Action{Kind: PointService, Ref: s.Service, Points: PointsStable, Hash: stable.Hash, Base: true,
				Why: fmt.Sprintf("tying %s to the stable pods: the canary's share is the route's alone", s.Service)}, true
		default:
			w.ready, w.waiting = false, fmt.Sprintf("waiting for the pods of %s, which someone replaces", stable.Ref.Name)
		}
	}
	return Action{}, false
}

// tied tells whether the canary pods of a workload may turn ready.
func (o *Observation) tied(stable *Workload) bool {
	for _, s := range o.servicesOf(stable.Ref) {
		if s.Points != PointsStable || s.Hash != stable.Hash || stable.Hash == "" {
			return false
		}
	}
	return true
}

// shareOut gives the canary what the step says, once its pods are there to
// answer, and waits until the routers have taken that.
func (w *watch) shareOut(r *Rollout, obs Observation, step Step, now time.Time) (Action, bool) {
	ready := w.ready
	for i := range obs.Routes {
		rt := &obs.Routes[i]
		if !rt.Exists {
			return routeFailing(rt, RouteMissing, "someone deleted the route"), true
		}
		changed, want := rt.changed(), obs.borne(r, rt, rt.wanted())
		if ready {
			want = r.Strategy.split(step)
			if at := obs.reached(rt); (changed || !rt.Split.Same(want)) && (at.IsZero() || now.Before(at.Add(routeSettle))) {
				w.hold(fmt.Sprintf("waiting until the canary pods are endpoints of %s", listServices(rt)), rt)
				if !at.IsZero() {
					w.recheck = sooner(w.recheck, at.Add(routeSettle))
				}
				continue
			}
		}
		if a, ok := rt.set(r, want, changed); ok {
			return a, true
		}
		if ready && !rt.Taken {
			w.untaken = true
			w.hold(fmt.Sprintf("waiting until its router has taken %s: %s", want, rt.Reported.Why), rt)
		}
	}
	return Action{}, false
}

// hold keeps a step from passing for the sake of a route.
func (w *watch) hold(why string, rt *Route) {
	w.ready, w.routing, w.waiting = false, true, fmt.Sprintf("%s: %s", rt.Route, why)
}

// changed tells whether someone else changed the weights since they were written.
func (rt *Route) changed() bool {
	return rt.Touched && !rt.Intact || !rt.Touched && !rt.Told.None()
}

// set writes a split, unless the route has it.
func (rt *Route) set(r *Rollout, want traffic.Split, changed bool) (Action, bool) {
	a := Action{Kind: SetWeight, Ref: rt.Route, Split: want, Overwrites: changed,
		Why: fmt.Sprintf("canary step %d: %s gives the canary %s", r.Step, rt.Route, want)}
	switch {
	case changed && rt.Overwritten >= maxOverwritten:
		return routeFailing(rt, RouteContested, fmt.Sprintf("someone else changed its weights %d times, and now gives the canary %s in place of %s; take the route out of what writes it, or leave traffic out", rt.Overwritten+1, rt.Split, rt.Told)), true
	case changed:
		a.Why = fmt.Sprintf("%s: someone else changed the weights to %s; setting %s again", rt.Route, rt.Split, want)
	case rt.Split.Same(want):
		return Action{}, false
	}
	return a, true
}

// reached is since when all canary Services behind a route have had their pods
// as endpoints; zero when one has not.
func (o *Observation) reached(rt *Route) time.Time {
	var since time.Time
	for _, want := range rt.Services {
		for _, s := range o.servicesOf(want.Workload) {
			if s.Service.Same(want.Service) {
				if s.Reached.IsZero() {
					return time.Time{}
				}
				since = latest(since, s.Reached)
			}
		}
	}
	return since
}

func listServices(rt *Route) string {
	text := ""
	for i, s := range rt.Services {
		if i > 0 {
			text += ", "
		}
		text += "Service/" + CanaryTrack.Name(s.Service.Name)
	}
	return text
}

func routeFailing(rt *Route, reason health.Reason, message string) Action {
	f := &Failure{Reason: reason, Message: rt.Route.String() + ": " + message}
	return Action{Kind: Advance, Why: f.Message, Move: &Move{To: RollingBack, Ending: EndedByFailure, Failure: f}}
}

// dropBaseline takes the baseline, which has served its purpose, out of every
// route, and waits until the routers have.
func dropBaseline(r *Rollout, obs Observation, now time.Time) (Action, bool) {
	dropping := false
	for i := range obs.Routes {
		rt := &obs.Routes[i]
		if rt.Exists && rt.Split.Baseline > 0 {
			s := obs.borne(r, rt, rt.Split)
			s.Baseline = 0
			return Action{Kind: SetWeight, Ref: rt.Route, Split: s, Why: fmt.Sprintf("%s: the baseline gets no more requests", rt.Route)}, true
		}
		dropping = dropping || rt.LiveRoute.Baseline
	}
	for i := range obs.Canaries {
		if dropping && obs.Canaries[i].Track == BaselineTrack {
			return awaitRouters(r, obs, now)
		}
	}
	return Action{}, false
}

// clearRoutes takes the canary out of every route. On the way back that is the
// first write of all.
func clearRoutes(obs Observation) (Action, bool) {
	for i := range obs.Routes {
		if rt := &obs.Routes[i]; rt.Touched && (rt.Exists || rt.own()) {
			return Action{Kind: SetWeight, Ref: rt.Route, Why: fmt.Sprintf("%s: the canary gets no more requests", rt.Route)}, true
		}
	}
	return Action{}, false
}

// awaitRouters waits, for a bounded time, until routers have taken the canary
// out: its pods must not go before.
func awaitRouters(r *Rollout, obs Observation, now time.Time) (Action, bool) {
	until := r.StateSince.Add(min(routePatience, r.Deadline))
	if len(obs.Canaries) == 0 || !now.Before(until) {
		return Action{}, false
	}
	for i := range obs.Routes {
		if rt := &obs.Routes[i]; rt.Exists && rt.Written && !rt.Taken {
			return Action{Kind: Wait, Until: until, Why: fmt.Sprintf("%s: waiting until its router sends the canary nothing more: %s", rt.Route, rt.Reported.Why)}, true
		}
	}
	return Action{}, false
}

// lateRoute is the reason of a step that was late because of its router alone.
func (w *watch) lateRoute(a Action) Action {
	if w.untaken && a.Move != nil && a.Move.Failure != nil {
		a.Move.Failure.Reason = RouteNotTaken
	}
	return a
}
