package engine

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// maxContinued bounds how often an attempt of a continuing kind is gone on
// with after a worker died in it: an attempt that kills its workers ends.
const maxContinued = 100

// maxLost is how many attempts of a retrying kind may die with their worker
// before that is held against the stage: a server that is killed a few times in
// a row (a node that reboots, an upgrade that goes wrong) fails no run, and a
// stage that itself kills its worker ends.
const maxLost = 5

// actionKind names what decide wants done.
type actionKind int

const (
	// actLose records that an attempt died with its worker.
	actLose actionKind = iota
	// actStart begins an attempt, or goes on with a lost one.
	actStart
	// actFinish ends a stage.
	actFinish
	// actCancel cancels a running attempt.
	actCancel
	// actWait asks to decide again at a time.
	actWait
	// actEnd ends the run.
	actEnd
)

// action is one thing to do next. Which fields are set depends on kind.
type action struct {
	kind      actionKind
	stage     string
	attempt   int
	continued bool
	status    journal.Status
	cause     pipeline.Cause
	message   string
	outputs   pipeline.Outputs
	at        time.Time
}

// rules are the fixed parts of every decision.
type rules struct {
	// when decides a stage's condition once its needs ended; its errors name
	// the place. Nil knows only "true", "false" and the default.
	when func(stage pipeline.PlannedStage, plan *pipeline.Plan, states map[string]pipeline.StageResult) (bool, error)
	// takeover tells what becomes of lost attempts of a kind.
	takeover func(pipeline.KindName) pipeline.Takeover
	// backoff is how long to wait after the n-th counted failure (from 1).
	backoff func(runID, stage string, n int) time.Duration
}

// decide tells what to do next about a run. It is pure: the same state and
// time give the same actions, and once they are folded into the state it asks
// for the next ones, until only waits and attempts in flight remain.
func decide(state *journal.State, now time.Time, r rules) []action {
	if state.Plan == nil || state.Status.Final() {
		return nil
	}
	d := decision{state: state, plan: state.Plan, now: now, rules: r}
	return d.all()
}

type decision struct {
	state   *journal.State
	plan    *pipeline.Plan
	now     time.Time
	rules   rules
	results map[string]pipeline.StageResult
	actions []action
}

func (d *decision) all() []action {
	if d.plan.Problem != "" {
		return []action{{kind: actEnd, status: journal.Failed, cause: pipeline.CauseInvalid, message: d.plan.Problem}}
	}
	ordinaryDone, allDone := true, true
	for i := range d.state.Stages {
		if !d.state.Stages[i].Status.Final() {
			allDone = false
			ordinaryDone = ordinaryDone && d.plan.Stages[i].Finally
		}
	}
	if allDone {
		status, cause, message := outcome(d.state)
		return []action{{kind: actEnd, status: status, cause: cause, message: message}}
	}
	for i := range d.state.Stages {
		stage, planned := &d.state.Stages[i], &d.plan.Stages[i]
		if !stage.Status.Final() {
			d.stage(stage, planned, ordinaryDone)
		}
	}
	return d.actions
}

func (d *decision) do(a action) { d.actions = append(d.actions, a) }

func (d *decision) stage(stage *journal.StageState, planned *pipeline.PlannedStage, ordinaryDone bool) {
	cancelled := d.cancelled(planned)
	last := stage.Last()
	reused, done := d.plan.Reused[stage.ID]
	switch {
	case last == nil && done:
		d.do(action{kind: actFinish, stage: stage.ID, status: journal.Succeeded, message: "taken over from run " + reused.RunID, outputs: reused.Outputs})
	case last == nil && cancelled:
		d.do(action{kind: actFinish, stage: stage.ID, status: journal.Cancelled, cause: d.state.Cancel.Cause, message: d.state.Cancel.Message})
	case last == nil:
		d.fresh(stage, planned, ordinaryDone)
	case last.Open() && last.Lost:
		d.lost(stage, last, cancelled)
	case last.Open():
		if cancelled {
			d.do(action{kind: actCancel, stage: stage.ID, attempt: last.Number, cause: d.state.Cancel.Cause, message: d.state.Cancel.Message})
		}
	default:
		d.ended(stage, planned, last, cancelled)
	}
}

// cancelled tells whether the run's cancellation is meant for the stage.
// Finally stages clean up after what ran: they go on, unless nothing ran.
func (d *decision) cancelled(planned *pipeline.PlannedStage) bool {
	if d.state.Cancel == nil {
		return false
	}
	if !planned.Finally {
		return true
	}
	for i := range d.state.Stages {
		if len(d.state.Stages[i].Attempts) > 0 {
			return false
		}
	}
	return true
}

// fresh decides about a stage of which no attempt began.
func (d *decision) fresh(stage *journal.StageState, planned *pipeline.PlannedStage, ordinaryDone bool) {
	if planned.Finally && !ordinaryDone {
		return
	}
	for _, id := range planned.Needs {
		if need := d.state.Stage(id); need != nil && !need.Status.Final() {
			return
		}
	}
	run, reason, err := d.condition(planned)
	switch {
	case err != nil:
		d.do(action{kind: actFinish, stage: stage.ID, status: journal.Failed, cause: pipeline.CauseInvalid,
			message: err.Error()})
	case !run:
		d.do(action{kind: actFinish, stage: stage.ID, status: journal.Skipped, message: reason})
	default:
		d.do(action{kind: actStart, stage: stage.ID, attempt: 1})
	}
}

// condition decides whether a stage whose needs ended is to run. Without
// `when`, finally stages always do, others if every need succeeded.
func (d *decision) condition(planned *pipeline.PlannedStage) (run bool, reason string, err error) {
	if planned.When == "" {
		if planned.Finally {
			return true, "", nil
		}
		for _, id := range planned.Needs {
			need := d.state.Stage(id)
			if need == nil {
				return false, "", fmt.Errorf("%s: stage %q needs %q, which the plan does not hold", planned.Pos, planned.ID, id)
			}
			if need.Status != journal.Succeeded {
				return false, fmt.Sprintf("it needs %q, which is %s", id, need.Status), nil
			}
		}
		return true, "", nil
	}
	reason = "its condition is false: " + planned.When
	switch {
	case planned.When == "false":
		return false, reason, nil
	case planned.When == "true" && d.rules.when == nil:
		return true, "", nil
	case d.rules.when == nil:
		return false, "", fmt.Errorf("%s: stage %q: when: this engine evaluates no conditions such as %q", planned.Pos, planned.ID, planned.When)
	}
	run, err = d.rules.when(*planned, d.plan, d.stageResults())
	return run, reason, err
}

func (d *decision) stageResults() map[string]pipeline.StageResult {
	if d.results == nil {
		d.results = resultsOf(d.state)
	}
	return d.results
}

func resultsOf(state *journal.State) map[string]pipeline.StageResult {
	results := make(map[string]pipeline.StageResult, len(state.Stages))
	for i := range state.Stages {
		results[state.Stages[i].ID] = pipeline.StageResult{Status: string(state.Stages[i].Status), Outputs: state.Stages[i].Outputs}
	}
	return results
}

// lost decides about an attempt whose worker is gone.
func (d *decision) lost(stage *journal.StageState, last *journal.AttemptState, cancelled bool) {
	continues := d.rules.takeover(stage.Kind) == pipeline.TakeoverContinue
	switch {
	case continues && last.Continued < maxContinued:
		// Also when cancelled: only the kind knows how to leave what it began
		// in order. It starts with its context about to be cancelled.
		d.do(action{kind: actStart, stage: stage.ID, attempt: last.Number, continued: true})
	case cancelled:
		d.do(action{kind: actLose, stage: stage.ID, attempt: last.Number, cause: d.state.Cancel.Cause, message: d.state.Cancel.Message})
	case continues:
		d.do(action{kind: actLose, stage: stage.ID, attempt: last.Number, cause: pipeline.CauseInfrastructure,
			message: fmt.Sprintf("given up after the worker died %d times in this attempt", last.Continued+1)})
	case last.Interrupted:
		d.do(action{kind: actLose, stage: stage.ID, attempt: last.Number, cause: pipeline.CauseInfrastructure, message: "the worker was stopped"})
	default:
		d.do(action{kind: actLose, stage: stage.ID, attempt: last.Number, cause: pipeline.CauseInfrastructure, message: "the worker died"})
	}
}

// ended decides about a stage whose newest attempt ended: its end, or another.
func (d *decision) ended(stage *journal.StageState, planned *pipeline.PlannedStage, last *journal.AttemptState, cancelled bool) {
	finish := action{kind: actFinish, stage: stage.ID, status: statusOf(last.Cause), cause: last.Cause, message: last.Message, outputs: last.Outputs}
	if last.Cause == pipeline.CauseNone {
		d.do(finish)
		return
	}
	if cancelled {
		finish.status, finish.cause, finish.outputs = journal.Cancelled, d.state.Cancel.Cause, nil
		d.do(finish)
		return
	}
	again := action{kind: actStart, stage: stage.ID, attempt: last.Number + 1}
	counted, free := failures(stage, d.rules.takeover(stage.Kind))
	switch {
	case free:
		d.do(again)
	case !retryable(planned.Retry, last.Cause) || counted > planned.Retry.Max:
		d.do(finish)
	default:
		if at := last.Finished.Add(d.rules.backoff(d.state.RunID, stage.ID, counted)); at.After(d.now) {
			d.do(action{kind: actWait, stage: stage.ID, at: at})
		} else {
			d.do(again)
		}
	}
}

// failures counts the attempts held against the stage, and tells whether the
// newest is not: an orderly stop of the worker never is, and of a retrying
// kind the first maxLost attempts that died with their workers are not either.
func failures(stage *journal.StageState, takeover pipeline.Takeover) (counted int, free bool) {
	lost := 0
	for i := range stage.Attempts {
		a := &stage.Attempts[i]
		switch {
		case a.Open():
		case a.Interrupted:
			free = true
		case a.Lost && lost < maxLost && takeover == pipeline.TakeoverRetry:
			lost, free = lost+1, true
		default:
			counted, free = counted+1, false
		}
	}
	return counted, free
}

func retryable(retry pipeline.Retry, cause pipeline.Cause) bool {
	if len(retry.On) == 0 {
		return cause == pipeline.CauseInfrastructure
	}
	return slices.Contains(retry.On, cause)
}

// statusOf maps why an attempt ended to how its stage stands.
func statusOf(cause pipeline.Cause) journal.Status {
	switch cause {
	case pipeline.CauseNone:
		return journal.Succeeded
	case pipeline.CauseCancelled, pipeline.CauseSuperseded:
		return journal.Cancelled
	case pipeline.CauseRefused:
		return journal.Refused
	}
	return journal.Failed
}

// outcome is how a run whose stages all ended stands, and why. A request to
// cancel counts if it stopped something; then failure, refusal, and a stage
// that was superseded by itself, in this order.
func outcome(state *journal.State) (journal.Status, pipeline.Cause, string) {
	first := map[journal.Status]*journal.StageState{}
	succeeded := false
	for i := range state.Stages {
		stage := &state.Stages[i]
		succeeded = succeeded || stage.Status == journal.Succeeded
		if first[stage.Status] == nil {
			first[stage.Status] = stage
		}
	}
	if state.Cancel != nil && first[journal.Cancelled] != nil {
		return journal.Cancelled, state.Cancel.Cause, state.Cancel.Message
	}
	for _, status := range []journal.Status{journal.Failed, journal.Refused, journal.Cancelled} {
		if stage := first[status]; stage != nil {
			return status, stage.Cause, fmt.Sprintf("%s: %s", stage.ID, stage.Message)
		}
	}
	if !succeeded {
		return journal.Succeeded, pipeline.CauseNone, "nothing to do: every stage was skipped"
	}
	return journal.Succeeded, pipeline.CauseNone, ""
}
