package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// partitioned tells whether the workload is moved in batches.
func (r *Rollout) partitioned(ref manifest.Ref) bool {
	return slices.ContainsFunc(r.Partitioned, ref.Same)
}

// movePartition does what a workload that is moved in batches needs next.
func movePartition(r *Rollout, w Workload) (Action, bool) {
	if !r.partitioned(w.Ref) {
		return Action{}, false
	}
	written := w.Exists && w.Release == r.Digest
	if want := r.partition(w); !written || (w.Partition != want && (!r.Paused || r.State == Canary)) {
		return Action{Kind: ApplyWorkload, Ref: w.Ref, Bake: r.Bake, Partition: &want,
			Why: fmt.Sprintf("%s %d: %d of %d pods of %s to the new version", batchName(r.State), r.Step, max(w.Replicas-want, 0), w.Replicas, w.Ref.Name)}, true
	}
	return replaceStuck(w)
}

func batchName(state State) string {
	if state == Canary {
		return "canary step"
	}
	return "batch"
}

// replaceStuck clears pods that their controller would wait for in vain.
func replaceStuck(w Workload) (Action, bool) {
	if len(w.Stuck) == 0 {
		return Action{}, false
	}
	return Action{Kind: DeletePods, Ref: w.Ref, Pods: w.Stuck,
		Why: fmt.Sprintf("replacing %s, which does not serve: its controller would wait for it, and its version is not wanted", w.Stuck[0].Name)}, true
}

// judgeBatch is the gate between two batches: all pods that were replaced have
// been ready, beside all others, for the bake time. last tells that no batch is left.
func judgeBatch(r *Rollout, obs Observation, now time.Time) (passed *proof, until time.Time, last bool) {
	last = true
	evidence := ""
	for _, w := range obs.Workloads {
		if !r.partitioned(w.Ref) || w.Partition == w.OwnPartition || !r.begun(w.Ref) {
			continue
		}
		last = false
		if w.ReadySince.IsZero() {
			return nil, time.Time{}, false
		}
		until = latest(until, w.bakedAt(r.Bake))
		if evidence != "" {
			evidence += "; "
		}
		evidence += w.batchEvidence(now)
	}
	if last || now.Before(until) {
		return nil, until, last
	}
	return &proof{gate: Gate{Step: r.Step, Kind: BatchGate, Passed: true, Evidence: evidence, At: now}}, time.Time{}, false
}

// bakedAt is when a workload that is ready has been watched for the bake time.
// Where its controller bakes every pod on the way, that is over when it is ready.
func (w *Workload) bakedAt(bake time.Duration) time.Time {
	if w.MinReady >= bake {
		return time.Time{}
	}
	return w.ReadySince.Add(bake)
}

// batchEvidence is what a gate saw of a workload that is moved in batches.
func (w *Workload) batchEvidence(now time.Time) string {
	return fmt.Sprintf("%s: %d of %d pods are new, and all have been ready for %s, %d restarts", w.Ref.Name,
		max(w.Replicas-w.Partition, 0), w.Replicas, max(now.Sub(w.ReadySince), w.MinReady).Round(100*time.Millisecond), w.Health.Restarts)
}

// partitionedCanary looks at the StatefulSets of a canary step, which share it
// with the canaries of Deployments: their pods are replaced in place.
func (w *watch) partitionedCanary(r *Rollout, obs Observation) (Action, bool) {
	for _, ref := range r.Partitioned {
		if r.waveOf(ref) != r.Wave {
			continue
		}
		stateful := obs.workload(ref)
		if stateful == nil || !stateful.Exists {
			return failing(r, ref, health.Verdict{Reason: health.WorkloadMissing, Message: "the stable workload is gone"}), true
		}
		if stateful.Release == r.Digest && stateful.Health.Status == health.Failed {
			return failing(r, ref, stateful.Health), true
		}
		if a, ok := movePartition(r, *stateful); ok {
			return a, true
		}
		if stateful.ReadySince.IsZero() {
			w.ready = false
			w.waiting = fmt.Sprintf("canary step %d: %s: %s", r.Step, ref.Name, stateful.Health.Message)
		}
		w.recheck = sooner(w.recheck, stateful.Health.Recheck)
	}
	return Action{}, false
}
