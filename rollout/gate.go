package rollout

import (
	"fmt"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// BatchGate is the kind of the gate between two batches of a rolling update.
const BatchGate = "batch"

// healthGate is the proof that all pods were judged good for the bake time.
func healthGate(step int, evidence string, now time.Time) *proof {
	return &proof{gate: Gate{Step: step, Kind: "health", Passed: true, Evidence: evidence, At: now}}
}

// manualGate is a person's word in place of a judge's.
func manualGate(step int, by string, now time.Time) *proof {
	return &proof{gate: Gate{Step: step, Kind: "manual", Passed: true, Evidence: "promoted by " + orUnknown(by), By: by, At: now}}
}

// judgeStep is the gate of the canary's present step. All its pods have baked
// without traffic before they turned ready; it passes when they have then
// served without a break for the step's live time, and no other gate is open. Otherwise until is when that
// may be.
func judgeStep(r *Rollout, obs Observation, now time.Time) (passed *proof, until time.Time) {
	return judgeServing(r, obs, r.Canaries, CanaryTrack, liveTime(r, r.Strategy.Steps[r.Step-1]), now)
}

// judgeServing is the gate of companions that have traffic, for the time live.
func judgeServing(r *Rollout, obs Observation, refs []manifest.Ref, track Track, live time.Duration, now time.Time) (passed *proof, until time.Time) {
	if r.StepReadyAt.IsZero() {
		return nil, time.Time{}
	}
	until = r.StepReadyAt.Add(live)
	var evidence []string
	for _, ref := range refs {
		c := obs.companion(ref, track)
		if c == nil || c.ReadySince.IsZero() {
			return nil, time.Time{}
		}
		// A pod that was replaced, or a process that just took over, has not seen
		// all of it: what was not watched does not count.
		if watched := c.ReadySince.Add(min(live, r.Bake)); watched.After(until) {
			until = watched
		}
		evidence = append(evidence, fmt.Sprintf("%s: %d of %d pods baked for %s without traffic, then served for %s, %d restarts",
			track.Name(ref.Name), c.Health.Ready, c.Replicas, r.Bake, now.Sub(c.ReadySince).Round(100*time.Millisecond), c.Health.Restarts))
	}
	if r.State == Canary {
		for _, ref := range r.Partitioned {
			if r.waveOf(ref) != r.Wave {
				continue
			}
			w := obs.workload(ref)
			if w == nil || w.ReadySince.IsZero() {
				return nil, time.Time{}
			}
			until = latest(until, w.bakedAt(r.Bake))
			evidence = append(evidence, w.batchEvidence(now))
		}
	}
	if now.Before(until) {
		return nil, until
	}
	if r.openGate() != "" {
		return nil, time.Time{} // its next answer wakes us
	}
	passed = healthGate(r.Step, strings.Join(evidence, "; "), now)
	passed.metrics = append(r.metricGates(now), r.checkProofs()...)
	return passed, time.Time{}
}

// judgeWorkloads is the gate of the stable workloads. Deployments bake each pod
// on the way, by the minReadySeconds they were given; others bake at the end.
func judgeWorkloads(r *Rollout, obs Observation, now time.Time) (passed *proof, until time.Time) {
	var evidence []string
	for _, w := range obs.Workloads {
		if !r.begun(w.Ref) {
			continue
		}
		if w.ReadySince.IsZero() {
			return nil, time.Time{}
		}
		until = latest(until, w.bakedAt(r.Bake))
		if !manifest.IsWorkload(w.Ref) {
			evidence = append(evidence, fmt.Sprintf("%s %s: %s", w.Ref.Kind, w.Ref.Name, w.Health.Message))
			continue
		}
		evidence = append(evidence, fmt.Sprintf("%s: %d of %d pods available, %d restarts", w.Ref.Name, w.Health.Available, w.Health.Desired, w.Health.Restarts))
	}
	if now.Before(until) {
		return nil, until
	}
	if len(evidence) == 0 {
		evidence = []string{"the release has no workload to judge"}
	}
	return healthGate(0, strings.Join(evidence, "; "), now), time.Time{}
}
