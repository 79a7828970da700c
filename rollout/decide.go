package rollout

import (
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// ActionKind names what can be done next.
type ActionKind string

// The actions. Each is one write, or a set of writes that may be repeated.
const (
	Wait          ActionKind = "wait"           // for a change, or until a time
	Obey          ActionKind = "obey"           // answer the command in the record
	Advance       ActionKind = "advance"        // record a move
	Mark          ActionKind = "mark"           // record progress within a state
	ApplyNeeded   ActionKind = "apply_needed"   // what new pods need and others do not notice
	ApplyRelease  ActionKind = "apply_release"  // the whole new release
	ApplyBase     ActionKind = "apply_base"     // the whole base, over whatever is there
	ApplyWorkload ActionKind = "apply_workload" // one workload again, with other settings
	ScaleCanary   ActionKind = "scale_canary"   // create a canary or its baseline, or change its size
	RemoveCanary  ActionKind = "remove_canary"
	DeletePods    ActionKind = "delete_pods"   // that a StatefulSet's controller waits for in vain
	PointService  ActionKind = "point_service" // send a live Service's traffic to other pods
	SetWeight     ActionKind = "set_weight"    // share out the requests of a route
	Admit         ActionKind = "admit"         // let canary pods that survived the bake into the Service
	BeginHook     ActionKind = "begin_hook"    // a Job around the release
	Prune         ActionKind = "prune"         // objects that no revision in use needs
)

// Action is the next thing to do, and why.
type Action struct {
	Kind ActionKind
	Why  string
	// Until is when to look again if nothing changes before; zero: on change only.
	Until time.Time
	// Ref is the workload; for canaries, the stable one.
	Ref      manifest.Ref
	Track    Track // of a companion
	Replicas int32
	Pods     []DarkPod
	Paused   bool
	Bake     time.Duration
	// Recreate lets old pods go before new ones come; Partition is a StatefulSet's.
	Recreate  bool
	Partition *int32
	// Points and Hash are the selector of a live Service: with PointService the
	// new one; with ApplyRelease and ApplyBase what it is to stay at. Base takes
	// the rest of the Service from the base.
	Points Pointing
	Hash   string
	Base   bool
	Hook   string
	// Split is what a route, which is Ref, gives the canary; Overwrites tells that
	// someone else had changed it.
	Split      traffic.Split
	Overwrites bool
	// Move is recorded when the action has succeeded; alone with Advance.
	Move *Move
	// Ready, Restored and Peak are what Mark (or a successful ApplyBase) records.
	Ready, Restored bool
	Peak            int32
	// Held tells that people or a window are waited for, not the release.
	Held bool
}

// Decide tells what to do next. It is pure: the same record, observation and
// time always give the same action.
func Decide(record *Record, obs Observation, now time.Time) Action {
	return withHooks(record.Current, decide(record, obs, now), now)
}

func decide(record *Record, obs Observation, now time.Time) Action {
	if record.Command != nil {
		return Action{Kind: Obey, Why: fmt.Sprintf("%s asked for by %s", record.Command.Kind, orUnknown(record.Command.By))}
	}
	r := record.Current
	switch r.State {
	case Pending:
		if a, held := r.held(now); held {
			return a
		}
		if a, waits := r.enters(now); waits {
			return a
		}
		return Action{Kind: Advance, Why: "the release is accepted", Move: &Move{To: Applying, Proof: r.entryProof()}}
	case Applying:
		return decideApplying(record, r, obs)
	case Canary:
		return decideCanary(record, r, obs, now)
	case Preview:
		return decidePreview(r, obs, now)
	case Switched:
		return decideSwitched(r, obs, now)
	case Promoting:
		// It has served its purpose, and takes room that the new pods may need.
		if a, ok := dropBaseline(r, obs, now); ok {
			return a
		}
		for _, c := range obs.Canaries {
			if c.Track == BaselineTrack {
				return Action{Kind: RemoveCanary, Ref: c.Stable, Track: c.Track, Why: "removing the baseline of " + c.Stable.Name}
			}
		}
		a := Action{Kind: ApplyRelease, Bake: r.Bake, Paused: r.Paused, Why: "promoting to the stable workload", Move: &Move{To: Rolling, Step: r.firstBatch()}}
		if r.Strategy.Kind == BlueGreenStrategy {
			a.Points, a.Why = PointsPreview, "bringing the stable workload to the new version, behind the preview which serves"
		}
		return a
	case Rolling:
		return decideRolling(r, obs, now)
	case Finishing:
		return decideFinishing(r, obs, now)
	case RollingBack:
		return decideRollingBack(record, r, obs, now)
	case Withdrawing:
		if a, ok := clearRoutes(obs); ok {
			return a
		}
		if a, ok := awaitRouters(r, obs, now); ok {
			return a
		}
		if a, ok := returnTraffic(record, r, obs, now); ok {
			return a
		}
		return Action{Kind: Advance, Why: "made way for a newer release", Move: &Move{To: Superseded}}
	}
	return Action{Kind: Wait, Why: r.Sentence()}
}

func decideApplying(record *Record, r *Rollout, obs Observation) Action {
	if r.inPlace() {
		a := Action{Kind: ApplyRelease, Bake: r.Bake, Paused: r.Paused && !r.recreates(), Recreate: r.recreates(), Why: "applying the release" + r.waveText(), Move: &Move{To: Rolling, Step: r.firstBatch()}}
		if r.recreates() {
			a.Why = "recreating: the old pods go before the new ones come, and nothing serves between"
		}
		return a
	}
	if a, ok := clearRoutes(obs); ok {
		return a
	}
	// A canary of an older rollout must not be taken for one of this.
	for _, c := range obs.Canaries {
		if c.Release != r.Digest {
			return Action{Kind: RemoveCanary, Ref: c.Stable, Track: c.Track, Why: fmt.Sprintf("removing the %s of another release", c.Track)}
		}
	}
	if !r.Restored && (record.Stable != r.Base && !r.StableTouched || disturbed(r, record.digest(r.Base), obs)) {
		return Action{Kind: ApplyBase, Why: "a superseded release had begun to replace the stable one: putting that back before the canary", Restored: true}
	}
	if r.Strategy.Kind == BlueGreenStrategy {
		return Action{Kind: ApplyNeeded, Why: "applying what the preview needs", Move: &Move{To: Preview, Step: 1}}
	}
	return Action{Kind: ApplyNeeded, Why: "applying what the canary needs", Move: &Move{To: Canary, Step: 1}}
}

func decideRolling(r *Rollout, obs Observation, now time.Time) Action {
	waiting := ""
	if a, ok := lowerWeights(r, obs); ok {
		return a
	}
	a, recheck, ok := tendPreviews(r, obs, now)
	if ok {
		return a
	}
	var available int32
	for _, w := range obs.Workloads {
		if !r.begun(w.Ref) {
			continue
		}
		if w.Exists && w.Release == r.Digest && w.Health.Status == health.Failed {
			return failing(r, w.Ref, w.Health)
		}
		if a, ok := movePartition(r, w); ok {
			return a
		}
		paused := r.Paused && !r.recreates() // which would make its outage longer
		if !w.Exists || w.Release != r.Digest || (w.Paused != paused && w.Ref.Kind == "Deployment" && manifest.IsWorkload(w.Ref)) {
			return Action{Kind: ApplyWorkload, Ref: w.Ref, Bake: r.Bake, Paused: paused, Recreate: r.recreates(), Why: fmt.Sprintf("applying %s", w.Ref)}
		}
		if a, ok := replaceStuck(w); ok {
			return a
		}
		if w.Health.Reason != health.StatusStale {
			available += w.progress()
		}
		if w.ReadySince.IsZero() && waiting == "" {
			waiting = w.Ref.Name + ": " + w.Health.Message
		}
		recheck = sooner(recheck, w.Health.Recheck)
	}
	if available > r.Peak {
		return Action{Kind: Mark, Peak: available, Why: fmt.Sprintf("%d new pods available", available)}
	}
	if r.Paused {
		return Action{Kind: Wait, Until: recheck, Why: "paused by " + orUnknown(r.PausedBy)}
	}
	passed, until, last := judgeBatch(r, obs, now)
	if passed != nil {
		return Action{Kind: Advance, Why: fmt.Sprintf("batch %d passed", r.Step), Move: &Move{To: Rolling, Step: r.Step + 1, Proof: passed}}
	}
	if last {
		passed, until = judgeWorkloads(r, obs, now)
	}
	if passed != nil && !r.lastWave() {
		return Action{Kind: Advance, Why: fmt.Sprintf("wave %d of %d passed", r.Wave+1, len(r.Waves)), Move: &Move{To: Applying, Waves: 1, Proof: passed}}
	}
	if passed != nil {
		return Action{Kind: Advance, Why: "all pods of the new release are good", Move: &Move{To: Finishing, Proof: passed}}
	}
	deadline := latest(r.StateSince, r.LastProgress).Add(r.Deadline + r.Bake + r.hookTime(AfterHook))
	if !now.Before(deadline) {
		return late(r, now, waiting)
	}
	if !until.IsZero() {
		waiting = "healthy, baking until " + until.Format(time.TimeOnly)
	}
	return Action{Kind: Wait, Until: sooner(sooner(recheck, until), deadline), Why: waiting}
}

// recreates tells whether old pods go before new ones come.
func (r *Rollout) recreates() bool { return r.Strategy.Kind == RecreateStrategy }

// firstBatch is the step with which a rolling update begins.
func (r *Rollout) firstBatch() int {
	if len(r.Partitioned) > 0 {
		return 1
	}
	return 0
}

// progress counts the new pods that are good. What Kubernetes calls available
// is of all versions, except with Deployments.
func (w *Workload) progress() int32 {
	if w.Ref.Kind == "Deployment" {
		return w.Health.Available
	}
	return w.Health.Ready
}

func decideFinishing(r *Rollout, obs Observation, now time.Time) Action {
	if a, ok := clearRoutes(obs); ok {
		return a
	}
	if a, ok := awaitRouters(r, obs, now); ok {
		return a
	}
	if a, ok := ownSelectors(r, obs, now); ok {
		return a
	}
	if a, ok := removeCanary(obs); ok {
		return a
	}
	if a, ok := giveBack(r, obs); ok {
		return a
	}
	return Action{Kind: Prune, Why: "removing what no release in use needs", Move: &Move{To: Verified}}
}

// giveBack restores the workloads' own settings.
func giveBack(r *Rollout, obs Observation) (Action, bool) {
	for _, w := range obs.Workloads {
		if (w.Raised || w.Paused) && r.begun(w.Ref) {
			return Action{Kind: ApplyWorkload, Ref: w.Ref, Why: fmt.Sprintf("giving %s its own settings back", w.Ref)}, true
		}
	}
	return Action{}, false
}

func decideRollingBack(record *Record, r *Rollout, obs Observation, now time.Time) Action {
	if a, ok := clearRoutes(obs); ok {
		return a
	}
	touched := r.StableTouched || record.Stable != r.Base
	routing, untaken := awaitRouters(r, obs, now)
	if untaken && !touched {
		return routing
	}
	if touched && len(r.Previews) > 0 {
		if a, ok := keepServing(r, obs); ok {
			return a
		}
	} else if !untaken { // else the base comes back first
		if a, ok := returnTraffic(record, r, obs, now); ok {
			return a
		}
	}
	if r.Base == 0 {
		return Action{Kind: Advance, Why: "there is no verified revision to go back to; what was created stays for a look", Move: &Move{To: Failed}}
	}
	// A release that was superseded before this one may have begun to replace
	// the stable workload, even though this one has not.
	if !touched {
		// A release that was superseded as it went back may have left its settings.
		if a, ok := giveBack(r, obs); ok {
			return a
		}
		return Action{Kind: Prune, Why: "the stable workload was never touched", Move: &Move{To: RolledBack}}
	}
	if !r.Restored {
		a := Action{Kind: ApplyBase, Restored: true, Recreate: r.recreates(), Why: fmt.Sprintf("applying revision %d again%s", r.Base, r.waveText())}
		if obs.previewsServe() {
			a.Points = PointsPreview
		}
		return a
	}
	waiting, ready, recheck := "", true, time.Time{}
	for _, w := range obs.Workloads {
		if !r.begun(w.Ref) {
			continue
		}
		if a, ok := replaceStuck(w); ok {
			return a
		}
		if w.ReadySince.IsZero() {
			ready, waiting = false, w.Ref.Name+": "+w.Health.Message
			recheck = sooner(recheck, w.Health.Recheck)
		}
	}
	deadline := r.StateSince.Add(r.Deadline + r.hookTime(FailureHook))
	if ready || !now.Before(deadline) {
		if a, ok := giveBack(r, obs); ok {
			return a
		}
		// One that does not get well must not keep the others from it.
		if r.Wave > 0 {
			return Action{Kind: Advance, Why: fmt.Sprintf("wave %d of %d is put back", r.Wave+1, len(r.Waves)), Move: &Move{To: RollingBack, Waves: -1}}
		}
	}
	if ready && untaken {
		return routing
	}
	if ready {
		if a, ok := returnTraffic(record, r, obs, now); ok {
			return a
		}
		return Action{Kind: Prune, Why: fmt.Sprintf("revision %d serves again", r.Base), Move: &Move{To: RolledBack}}
	}
	if !now.Before(deadline) {
		for _, s := range obs.Services {
			if s.Points != PointsOwn {
				return letAllServe(r, s)
			}
		}
		f := Failure{Reason: health.DeadlineExceeded, Message: fmt.Sprintf("revision %d did not become healthy again within %s: %s", r.Base, r.Deadline, waiting)}
		if r.Failure != nil {
			f.Message += "; first failure: " + r.Failure.Message
			f.Workload, f.Container, f.Log = r.Failure.Workload, r.Failure.Container, r.Failure.Log
		}
		return Action{Kind: Advance, Why: f.Message, Move: &Move{To: Failed, Failure: &f}}
	}
	return Action{Kind: Wait, Until: sooner(sooner(recheck, routing.Until), deadline), Why: "rolling back: " + waiting}
}

func removeCanary(obs Observation) (Action, bool) {
	for _, c := range obs.Canaries {
		return Action{Kind: RemoveCanary, Ref: c.Stable, Track: c.Track, Why: fmt.Sprintf("removing the %s of %s", c.Track, c.Stable.Name)}, true
	}
	return Action{}, false
}

// failing goes back because of what v says.
func failing(r *Rollout, ref manifest.Ref, v health.Verdict) Action {
	name := ref.Name
	switch r.State {
	case Canary:
		if !r.partitioned(ref) {
			name = CanaryTrack.Name(name)
		}
	case Preview, Switched:
		name = PreviewTrack.Name(name)
	}
	f := &Failure{Reason: v.Reason, Message: name + ": " + v.Message, Workload: name, Container: v.Failing}
	return Action{Kind: Advance, Why: f.Message, Move: &Move{To: RollingBack, Ending: EndedByFailure, Failure: f}}
}

func late(r *Rollout, now time.Time, waiting string) Action {
	f := &Failure{Reason: health.DeadlineExceeded,
		Message: fmt.Sprintf("no progress for %s (deadline %s): %s", now.Sub(latest(r.StateSince, r.LastProgress)).Round(time.Second), r.Deadline, waiting)}
	return Action{Kind: Advance, Why: f.Message, Move: &Move{To: RollingBack, Ending: EndedByFailure, Failure: f}}
}

// sooner is the earlier of two times of which zero means never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
