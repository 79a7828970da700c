package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// measured tells whether metric gates are asked in the state.
func (s State) measured() bool { return s == Canary || s == Preview || s == Switched }

// where names the step that is judged, for people.
func (r *Rollout) where() string {
	switch r.State {
	case Preview:
		return "the preview"
	case Switched:
		return "the new version after the switch"
	}
	return fmt.Sprintf("canary step %d", r.Step)
}

func (r *Rollout) blueGreenSentence() string {
	switch {
	case r.State == Preview:
		return fmt.Sprintf("revision %d: preview beside the old version, which serves; the live Service is not touched yet", r.Revision)
	case r.StepReadyAt.IsZero():
		return fmt.Sprintf("revision %d: the live Service is being switched", r.Revision)
	}
	return fmt.Sprintf("revision %d: serves since %s; the old version is kept until %s for an instant return", r.Revision,
		r.StepReadyAt.Format(time.TimeOnly), r.StepReadyAt.Add(r.phaseTime()).Format(time.TimeOnly))
}

// phaseTime is how long a phase of blue-green must stay good before it passes.
func (r *Rollout) phaseTime() time.Duration {
	if r.State == Preview {
		return max(r.Strategy.BlueGreen.Hold, r.Bake)
	}
	if keep := r.Strategy.BlueGreen.KeepOld; keep != nil && *keep > 0 {
		return *keep
	}
	return r.Bake
}

// phaseDeadline bounds a phase whatever its pods do, as stepDeadline does a step.
func (r *Rollout) phaseDeadline() time.Time {
	if r.StepReadyAt.IsZero() {
		return r.StateSince.Add(r.Bake + r.Deadline)
	}
	return r.StepReadyAt.Add(r.phaseTime() + r.patience())
}

// decidePreview brings the new version up beside the old one and judges it
// there. Nothing that serves is written to.
func decidePreview(r *Rollout, obs Observation, now time.Time) Action {
	w := watch{ready: true}
	until := r.StepReadyAt.Add(r.phaseTime())
	var evidence []string
	for _, ref := range r.Previews {
		stable := obs.workload(ref)
		if stable == nil || !stable.Exists {
			return failing(r, ref, health.Verdict{Reason: health.WorkloadMissing, Message: "the stable workload is gone"})
		}
		c, size := obs.companion(ref, PreviewTrack), max(stable.Replicas, 1)
		if c == nil || c.Release != r.Digest || c.Replicas != size || !obs.accompanied(ref, PreviewTrack) {
			return Action{Kind: ScaleCanary, Ref: ref, Track: PreviewTrack, Replicas: size,
				Why: fmt.Sprintf("preview: %d pods of the new version of %s beside the old one, without live traffic", size, ref.Name)}
		}
		if c.Health.Status == health.Failed {
			return failing(r, ref, c.Health)
		}
		up, since := c.up()
		if up < size {
			w.ready = false
			w.waiting = fmt.Sprintf("preview: %d of %d pods of %s are up; %s", up, size, ref.Name, c.Health.Message)
		} else if baked := since.Add(r.Bake); baked.After(until) {
			until = baked // what this process has not watched does not count
		}
		w.recheck = sooner(w.recheck, c.Health.Recheck)
		evidence = append(evidence, fmt.Sprintf("%s: %d of %d pods stayed up without live traffic for %s, %d restarts",
			PreviewTrack.Name(ref.Name), up, size, now.Sub(latest(since, r.StepReadyAt)).Round(100*time.Millisecond), c.Health.Restarts))
	}
	pass := Action{Kind: Advance, Why: "the preview passed: switching the live Services", Move: &Move{To: Switched, Step: 2}}
	if w.ready && !r.StepReadyAt.IsZero() && !now.Before(until) && r.openGate() == "" {
		pass.Move.Proof = healthGate(r.Step, strings.Join(evidence, "; "), now)
		pass.Move.Proof.metrics = append(r.metricGates(now), r.checkProofs()...)
	}
	return concludePhase(r, w, until, pass, now)
}

// decideSwitched switches the live Services and judges the new version under
// its traffic, while the old one waits to have it back.
func decideSwitched(r *Rollout, obs Observation, now time.Time) Action {
	w := watch{ready: true}
	for _, ref := range r.Previews {
		c := obs.companion(ref, PreviewTrack)
		if c == nil || c.Release != r.Digest {
			return failing(r, ref, health.Verdict{Reason: health.WorkloadMissing, Message: "the preview workload is gone"})
		}
		if c.Health.Status == health.Failed {
			return failing(r, ref, c.Health)
		}
		if a, ok := switchOver(&w, obs, c); ok {
			return a
		}
		if a, ok := tend(r, &w, obs, c, now); ok {
			return a
		}
	}
	pass := Action{Kind: Advance, Why: "the new version passed under live traffic: the old one makes way", Move: &Move{To: Promoting}}
	var until time.Time
	if w.ready {
		pass.Move.Proof, until = judgeServing(r, obs, r.Previews, PreviewTrack, r.phaseTime(), now)
	}
	return concludePhase(r, w, until, pass, now)
}

// switchOver does what is next until the workload's live Services send to its
// preview: pods that are ready get traffic from every Service that selects
// them, so that the Service is first tied to the old pods, then the new ones
// may turn ready, and then one write moves all of the traffic.
func switchOver(w *watch, obs Observation, c *CanaryWorkload) (Action, bool) {
	stable := obs.workload(c.Stable)
	for _, s := range obs.servicesOf(c.Stable) {
		if s.Points == PointsPreview {
			continue
		}
		tied := stable != nil && s.Points == PointsStable && s.Hash == stable.Hash
		switch {
		case !c.ReadySince.IsZero() && len(c.Dark) == 0:
			return Action{Kind: PointService, Ref: s.Service, Points: PointsPreview,
				Why: fmt.Sprintf("switching %s to the new version of %s", s.Service, c.Stable.Name)}, true
		case tied:
			w.ready, w.waiting = false, fmt.Sprintf("switching: %s", c.Health.Message)
		case stable == nil || stable.Hash == "":
			w.ready, w.waiting = false, fmt.Sprintf("switching: waiting to see the pods of %s", c.Stable.Name)
			return Action{}, false
		default:
			return Action{Kind: PointService, Ref: s.Service, Points: PointsStable, Hash: stable.Hash, Base: true,
				Why: fmt.Sprintf("tying %s to the old pods, so that the new ones can turn ready without traffic", s.Service)}, true
		}
	}
	return Action{}, false
}

// tend keeps a preview that may get live traffic whole: pods that came up later
// are let in, and it grows with the stable workload, whose autoscaler sees the
// load of both. It never shrinks under traffic.
func tend(r *Rollout, w *watch, obs Observation, c *CanaryWorkload, now time.Time) (Action, bool) {
	if stable := obs.workload(c.Stable); stable != nil && stable.Exists && stable.Replicas > c.Replicas {
		return Action{Kind: ScaleCanary, Ref: c.Stable, Track: PreviewTrack, Replicas: stable.Replicas,
			Why: fmt.Sprintf("the new version of %s grows to %d pods with the old one", c.Stable.Name, stable.Replicas)}, true
	}
	for _, s := range obs.servicesOf(c.Stable) {
		if s.Points == PointsOwn {
			return Action{}, false // waits to be tied first
		}
	}
	baked, next := c.baked(r.Bake, now)
	if len(baked) > 0 {
		return Action{Kind: Admit, Ref: c.Stable, Track: PreviewTrack, Pods: baked,
			Why: fmt.Sprintf("letting %d of %d pods of the new version of %s turn ready", len(baked), c.Replicas, c.Stable.Name)}, true
	}
	if c.ReadySince.IsZero() {
		w.ready = false
		if w.waiting == "" {
			w.waiting = PreviewTrack.Name(c.Stable.Name) + ": " + c.Health.Message
		}
	}
	w.recheck = sooner(sooner(w.recheck, next), c.Health.Recheck)
	return Action{}, false
}

// tendPreviews looks after the previews while they serve and the stable
// workload moves to the new version behind them.
func tendPreviews(r *Rollout, obs Observation, now time.Time) (action Action, recheck time.Time, ok bool) {
	w := watch{}
	for _, ref := range r.Previews {
		c := obs.companion(ref, PreviewTrack)
		if c == nil {
			continue // someone removed it: the stable workload is judged all the same
		}
		if c.Health.Status == health.Failed {
			return failing(r, ref, c.Health), time.Time{}, true
		}
		if a, ok := tend(r, &w, obs, c, now); ok {
			return a, time.Time{}, true
		}
	}
	return Action{}, w.recheck, false
}

// concludePhase takes pass if it has its proof, or says what the phase waits for.
func concludePhase(r *Rollout, w watch, until time.Time, pass Action, now time.Time) Action {
	if failed := r.failedGate(); failed != nil {
		return Action{Kind: Advance, Why: failed.Message, Move: &Move{To: RollingBack, Ending: EndedByFailure, Failure: failed}}
	}
	if w.ready && r.StepReadyAt.IsZero() {
		why := "preview: all pods are up"
		if r.State == Switched {
			why = "switched: all live traffic goes to the new version"
		}
		return Action{Kind: Mark, Ready: true, Why: why}
	}
	if r.Paused {
		return Action{Kind: Wait, Until: w.recheck, Why: fmt.Sprintf("paused by %s: %s", orUnknown(r.PausedBy), r.Sentence())}
	}
	if pass.Move.Proof != nil {
		return pass
	}
	open := r.openGate()
	deadline := r.phaseDeadline()
	if w.waiting == "" && !r.StepReadyAt.IsZero() {
		silent, at := r.unanswered(r.phaseTime(), now)
		if silent != nil {
			return Action{Kind: Advance, Why: silent.Message, Move: &Move{To: RollingBack, Ending: EndedByFailure, Failure: silent}}
		}
		deadline = sooner(at, deadline)
	}
	if !now.Before(deadline) {
		return late(r, now, cmp.Or(w.waiting, open))
	}
	held := w.waiting == "" && !now.Before(until) && r.awaitsPerson()
	if w.waiting == "" {
		w.waiting = fmt.Sprintf("%s is healthy; %s", r.where(), open)
		if now.Before(until) {
			w.waiting = fmt.Sprintf("%s is healthy, watched until %s", r.where(), until.Format(time.TimeOnly))
		}
	} else {
		until = time.Time{}
	}
	return Action{Kind: Wait, Until: sooner(sooner(w.recheck, after(until, now)), deadline), Held: held, Why: w.waiting}
}

// returnTraffic does what is next until every live Service has its own
// selector and no preview is left. The old pods get all traffic in one write
// where they are whole; where they are not, all ready pods serve.
func returnTraffic(record *Record, r *Rollout, obs Observation, now time.Time) (Action, bool) {
	for _, s := range obs.Services {
		if s.Points != PointsPreview {
			continue
		}
		stable := obs.workload(s.Workload)
		if stable == nil || stable.Hash == "" || !r.baseServes(record, stable) {
			return letAllServe(r, s), true
		}
		return Action{Kind: PointService, Ref: s.Service, Points: PointsStable, Hash: stable.Hash, Base: true,
			Why: fmt.Sprintf("switching %s back to the old pods", s.Service)}, true
	}
	if a, ok := removeCanary(obs); ok {
		return a, true
	}
	return ownSelectors(r, obs, now)
}

// baseServes tells whether the stable workload can have all the traffic: it was
// never written to and has a pod that serves, or it is whole again.
func (r *Rollout) baseServes(record *Record, stable *Workload) bool {
	if r.StableTouched || record.Stable != r.Base {
		return r.Restored && !stable.ReadySince.IsZero()
	}
	return stable.Health.Ready > 0
}

// letAllServe gives a live Service its own selector.
func letAllServe(r *Rollout, s Service) Action {
	return Action{Kind: PointService, Ref: s.Service, Points: PointsOwn, Base: r.State != Finishing && (!r.StableTouched || r.Restored),
		Why: fmt.Sprintf("giving %s its own selector back: all ready pods serve", s.Service)}
}

// ownSelectors gives live Services the selectors of their manifests back, once
// no pod of a rejected preview can get traffic by that.
func ownSelectors(r *Rollout, obs Observation, now time.Time) (Action, bool) {
	for _, s := range obs.Services {
		if s.Points == PointsOwn {
			continue
		}
		if patience := r.StateSince.Add(r.Deadline); s.Points == PointsStable && obs.Leaving > 0 && now.Before(patience) {
			return Action{Kind: Wait, Until: patience, Why: fmt.Sprintf("waiting until %d pods of the preview have left", obs.Leaving)}, true
		}
		return letAllServe(r, s), true
	}
	return Action{}, false
}

// keepServing looks after the traffic while the stable workload is put back
// behind a preview that has it: it stays there until that is whole, and goes to
// every ready pod if those that have it are not whole themselves.
func keepServing(r *Rollout, obs Observation) (Action, bool) {
	for _, s := range obs.Services {
		stable := obs.workload(s.Workload)
		switch {
		case s.Points == PointsPreview && !obs.previewReady(s.Workload),
			s.Points == PointsStable && (stable == nil || stable.ReadySince.IsZero()):
			return letAllServe(r, s), true
		}
	}
	return Action{}, false
}

// previewReady tells whether all pods of the workload's preview serve.
func (o *Observation) previewReady(workload manifest.Ref) bool {
	c := o.companion(workload, PreviewTrack)
	return c != nil && !c.ReadySince.IsZero()
}

// previewsServe tells whether the previews have all of the traffic.
func (o *Observation) previewsServe() bool {
	for _, s := range o.Services {
		if s.Points != PointsPreview {
			return false
		}
	}
	return len(o.Services) > 0
}

// up counts the pods that run and are well, ready or not, and says since when
// the last of them has.
func (c *CanaryWorkload) up() (n int32, since time.Time) {
	n, since = int32(len(c.Serving)), c.ReadySince
	for _, pod := range c.Dark {
		if !pod.UpSince.IsZero() {
			n, since = n+1, latest(since, pod.UpSince)
		}
	}
	return n, since
}

func (o *Observation) servicesOf(workload manifest.Ref) []Service {
	var found []Service
	for _, s := range o.Services {
		if s.Workload.Same(workload) {
			found = append(found, s)
		}
	}
	return found
}

// accompanied tells whether every live Service of the workload has that of a companion.
func (o *Observation) accompanied(workload manifest.Ref, track Track) bool {
	for _, s := range o.servicesOf(workload) {
		if !slices.Contains(s.Companions, track) {
			return false
		}
	}
	return true
}

// after is t when it is still to come.
func after(t, now time.Time) time.Time {
	if t.After(now) {
		return t
	}
	return time.Time{}
}
