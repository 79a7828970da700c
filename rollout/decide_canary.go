package rollout

import (
	"cmp"
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

func decideCanary(record *Record, r *Rollout, obs Observation, now time.Time) Action {
	step := r.Strategy.Steps[r.Step-1]
	w := watch{ready: true}
	if a, ok := lowerWeights(r, obs); ok {
		return a
	}
	for _, ref := range r.Canaries {
		stable := obs.workload(ref)
		if stable == nil || !stable.Exists {
			return failing(r, ref, health.Verdict{Reason: health.WorkloadMissing, Message: "the stable workload is gone"})
		}
		size := canarySize(step.Weight, stable.Replicas)
		c := obs.companion(ref, CanaryTrack)
		if c == nil || c.Release != r.Digest || c.Replicas != size || !obs.accompanied(ref, CanaryTrack) {
			return Action{Kind: ScaleCanary, Ref: ref, Track: CanaryTrack, Replicas: size, Why: r.scaling(ref, step, size, stable.Replicas)}
		}
		if c.Health.Status == health.Failed {
			return failing(r, ref, c.Health)
		}
		if r.Strategy.compares() {
			b := obs.companion(ref, BaselineTrack)
			if b == nil || b.Release != record.digest(r.Base) || b.Replicas != size || !obs.accompanied(ref, BaselineTrack) {
				return Action{Kind: ScaleCanary, Ref: ref, Track: BaselineTrack, Replicas: size,
					Why: fmt.Sprintf("canary step %d: a fresh baseline of %d pods of revision %d, to compare with", r.Step, size, r.Base)}
			}
		}
		if r.routed(ref) {
			if a, ok := w.tie(obs, stable); ok {
				return a
			}
			if !obs.tied(stable) {
				continue // its pods must not turn ready yet
			}
		}
		if b := obs.companion(ref, BaselineTrack); b != nil && r.Strategy.compares() {
			if a, ok := w.companion(r, b, step.Weight, now); ok {
				return a
			}
		}
		if a, ok := w.companion(r, c, step.Weight, now); ok {
			return a
		}
	}
	if a, ok := w.partitionedCanary(r, obs); ok {
		return a
	}
	if a, ok := w.shareOut(r, obs, step, now); ok {
		return a
	}
	if failed := r.failedGate(); failed != nil {
		return Action{Kind: Advance, Why: failed.Message, Move: &Move{To: RollingBack, Ending: EndedByFailure, Failure: failed}}
	}
	if w.ready && r.StepReadyAt.IsZero() {
		return Action{Kind: Mark, Ready: true, Why: fmt.Sprintf("canary %d %%: all pods ready", step.Weight)}
	}
	if r.Paused {
		return Action{Kind: Wait, Until: w.recheck, Why: fmt.Sprintf("paused by %s at canary step %d", orUnknown(r.PausedBy), r.Step)}
	}
	passed, until := judgeStep(r, obs, now)
	if passed != nil && !w.routing {
		if r.Step < len(r.Strategy.Steps) {
			return Action{Kind: Advance, Why: fmt.Sprintf("canary step %d passed", r.Step), Move: &Move{To: Canary, Step: r.Step + 1, Proof: passed}}
		}
		return Action{Kind: Advance, Why: "the canary passed", Move: &Move{To: Promoting, Proof: passed}}
	}
	open := r.openGate()
	deadline := stepDeadline(r, step)
	if w.waiting == "" && !r.StepReadyAt.IsZero() {
		silent, at := r.unanswered(liveTime(r, step), now)
		if silent != nil {
			return Action{Kind: Advance, Why: silent.Message, Move: &Move{To: RollingBack, Ending: EndedByFailure, Failure: silent}}
		}
		deadline = sooner(at, deadline)
	}
	if !now.Before(deadline) {
		return w.lateRoute(late(r, now, cmp.Or(w.waiting, open)))
	}
	held := w.waiting == "" && until.IsZero() && r.awaitsPerson()
	switch {
	case w.waiting != "":
	case !until.IsZero():
		w.waiting = fmt.Sprintf("canary %d %%: healthy, held until %s", step.Weight, until.Format(time.TimeOnly))
	default:
		w.waiting = fmt.Sprintf("canary %d %%: healthy; %s", step.Weight, open)
	}
	return Action{Kind: Wait, Until: sooner(sooner(w.recheck, until), deadline), Held: held, Why: w.waiting}
}

// watch gathers, over all companions of a step, whether they are ready, what
// else is waited for, and when to look again.
type watch struct {
	ready   bool
	waiting string
	recheck time.Time
	// routing tells that a route holds the step, untaken that its router does.
	routing, untaken bool
}

// scaling says what a step's canary pods are for.
func (r *Rollout) scaling(ref manifest.Ref, step Step, size, n int32) string {
	if r.routed(ref) {
		return fmt.Sprintf("canary step %d: %d pods beside %d, to bear exactly %s", r.Step, size, n, r.Strategy.split(step))
	}
	return fmt.Sprintf("canary step %d: %d %% of %d pods is %d, %.1f %% of the traffic if all pods serve alike",
		r.Step, step.Weight, n, size, canaryTraffic(r, size, n))
}

// companion looks at a canary or its baseline and says if its pods can be let in.
func (w *watch) companion(r *Rollout, c *CanaryWorkload, weight int, now time.Time) (Action, bool) {
	baked, next := c.baked(r.Bake, now)
	if len(baked) > 0 {
		return Action{Kind: Admit, Ref: c.Stable, Track: c.Track, Pods: baked,
			Why: fmt.Sprintf("%s %d %%: %d of %d pods survived %s without traffic: letting them in", c.Track, weight, len(baked), c.Replicas, r.Bake)}, true
	}
	if c.ReadySince.IsZero() {
		w.ready = false
		w.waiting = fmt.Sprintf("%s %d %%: %s", c.Track, weight, c.Health.Message)
		if !next.IsZero() && c.Health.Status == health.Progressing {
			w.waiting = fmt.Sprintf("%s %d %%: baking %d of %d pods without traffic until %s", c.Track, weight, len(c.Dark), c.Replicas, next.Format(time.TimeOnly))
		}
	}
	w.recheck = sooner(sooner(w.recheck, next), c.Health.Recheck)
	return Action{}, false
}

// canaryTraffic is the share of the traffic, in percent, that size canary pods
// get beside n stable ones and, if there is one, a baseline of the same size.
func canaryTraffic(r *Rollout, size, n int32) float64 {
	others := n
	if r.Strategy.compares() {
		others += size
	}
	return 100 * float64(size) / float64(max(size+others, 1))
}

// liveTime is how long a step's pods must stay good with traffic: the step's
// hold, or the bake time where it has none, so that no step passes unseen.
func liveTime(r *Rollout, step Step) time.Duration {
	if step.Hold > 0 {
		return step.Hold
	}
	return r.Bake
}

// stepDeadline bounds a step whatever its pods do: first they must all be ready
// once, then the gate must pass.
func stepDeadline(r *Rollout, step Step) time.Time {
	if r.StepReadyAt.IsZero() {
		return r.StateSince.Add(r.Bake + r.Deadline)
	}
	return r.StepReadyAt.Add(liveTime(r, step) + r.patience())
}
