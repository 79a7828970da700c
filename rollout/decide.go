package rollout

import (
	"cmp"
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
