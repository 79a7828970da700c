package engine

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testRules() rules {
	return rules{
		takeover: func(kind pipeline.KindName) pipeline.Takeover {
			if kind == pipeline.KindRun {
				return pipeline.TakeoverRetry
			}
			return pipeline.TakeoverContinue
		},
		backoff: func(_, _ string, n int) time.Duration { return time.Duration(n) * time.Second },
	}
}

// stateAfter folds entries behind the creation of the plan, one second apart.
func stateAfter(plan *pipeline.Plan, entries ...journal.Entry) *journal.State {
	state := &journal.State{}
	for i, e := range append([]journal.Entry{{Type: journal.RunCreated, RunID: "r", Plan: plan}, {Type: journal.RunStarted}}, entries...) {
		e.Time = epoch.Add(time.Duration(i) * time.Second)
		state.Apply(e)
	}
	return state
}

func began(stage string, attempt int) journal.Entry {
	return journal.Entry{Type: journal.AttemptStarted, Stage: stage, Attempt: attempt}
}

func ended(stage string, attempt int, cause pipeline.Cause) journal.Entry {
	return journal.Entry{Type: journal.AttemptFinished, Stage: stage, Attempt: attempt, Cause: cause, Message: "m"}
}

func done(stage string, status journal.Status) journal.Entry {
	return journal.Entry{Type: journal.StageFinished, Stage: stage, Status: status}
}

func TestDecide(t *testing.T) {
	retrying := stage("a")
	retrying.Retry.Max = 1
	conditional := stage("b", "a")
	conditional.When = "failure()"
	shipping := deploy("a")
	stopped := journal.Entry{Type: journal.AttemptInterrupted, Stage: "a", Attempt: 1}
	cancel := journal.Entry{Type: journal.CancelRequested, Cause: pipeline.CauseCancelled, Message: "by ann"}
	const infrastructure = pipeline.CauseInfrastructure

	for name, c := range map[string]struct {
		plan    *pipeline.Plan
		entries []journal.Entry
		now     int // seconds after the first entry
		when    func(pipeline.PlannedStage, *pipeline.Plan, map[string]pipeline.StageResult) (bool, error)
		want    []action
	}{
		"starts all that need nothing": {plan: planOf(stage("a"), stage("b"), stage("c", "a")),
			want: []action{{kind: actStart, stage: "a", attempt: 1}, {kind: actStart, stage: "b", attempt: 1}}},
		"waits for what runs": {plan: planOf(stage("a"), stage("b", "a")), entries: []journal.Entry{began("a", 1)}},
		"ends a stage whose attempt succeeded": {plan: planOf(stage("a"), stage("b", "a")), entries: []journal.Entry{began("a", 1), ended("a", 1, "")},
			want: []action{{kind: actFinish, stage: "a", status: journal.Succeeded, message: "m"}}},
		"starts what a need allowed": {plan: planOf(stage("a"), stage("b", "a")), entries: []journal.Entry{done("a", journal.Succeeded)},
			want: []action{{kind: actStart, stage: "b", attempt: 1}}},
		"skips behind what did not succeed": {plan: planOf(stage("a"), stage("b", "a")), entries: []journal.Entry{done("a", journal.Skipped)},
			want: []action{{kind: actFinish, stage: "b", status: journal.Skipped, message: `it needs "a", which is skipped`}}},
		"asks the condition": {plan: planOf(stage("a"), conditional), entries: []journal.Entry{done("a", journal.Failed)},
			when: func(_ pipeline.PlannedStage, _ *pipeline.Plan, states map[string]pipeline.StageResult) (bool, error) {
				return states["a"].Status == "failed", nil
			},
			want: []action{{kind: actStart, stage: "b", attempt: 1}}},
		"a bad condition fails the stage": {plan: planOf(stage("a"), conditional), entries: []journal.Entry{done("a", journal.Failed)},
			when: func(pipeline.PlannedStage, *pipeline.Plan, map[string]pipeline.StageResult) (bool, error) {
				return false, errors.New("no such key")
			},
			want: []action{{kind: actFinish, stage: "b", status: journal.Failed, cause: pipeline.CauseInvalid, message: "no such key"}}},
		"waits out the back-off": {plan: planOf(retrying), entries: []journal.Entry{began("a", 1), ended("a", 1, infrastructure)}, now: 3,
			want: []action{{kind: actWait, stage: "a", at: epoch.Add(4 * time.Second)}}},
		"tries again after it": {plan: planOf(retrying), entries: []journal.Entry{began("a", 1), ended("a", 1, infrastructure)}, now: 4,
			want: []action{{kind: actStart, stage: "a", attempt: 2}}},
		"gives up when tries are used": {plan: planOf(retrying), entries: []journal.Entry{began("a", 1), ended("a", 1, infrastructure), began("a", 2), ended("a", 2, infrastructure)}, now: 60,
			want: []action{{kind: actFinish, stage: "a", status: journal.Failed, cause: infrastructure, message: "m"}}},
		"a lost attempt ends": {plan: planOf(stage("a")), entries: []journal.Entry{began("a", 1), taken},
			want: []action{{kind: actLose, stage: "a", attempt: 1, cause: infrastructure, message: "the worker died"}}},
		"and is repeated at once": {plan: planOf(stage("a")), entries: []journal.Entry{began("a", 1), taken, ended("a", 1, infrastructure)},
			want: []action{{kind: actStart, stage: "a", attempt: 2}}},
		"as often as a server may be killed in a row": {plan: planOf(stage("a")), entries: dying("a", maxLost),
			want: []action{{kind: actStart, stage: "a", attempt: maxLost + 1}}},
		"not for ever": {plan: planOf(stage("a")), entries: dying("a", maxLost+1),
			want: []action{{kind: actFinish, stage: "a", status: journal.Failed, cause: infrastructure, message: "m"}}},
		"orderly stops are never held against it": {plan: planOf(stage("a")), entries: []journal.Entry{began("a", 1), taken, ended("a", 1, infrastructure), began("a", 2),
			{Type: journal.AttemptInterrupted, Stage: "a", Attempt: 2}, taken, ended("a", 2, infrastructure)},
			want: []action{{kind: actStart, stage: "a", attempt: 3}}},
		"a stopped attempt ends and says so": {plan: planOf(stage("a")), entries: []journal.Entry{began("a", 1), stopped, taken},
			want: []action{{kind: actLose, stage: "a", attempt: 1, cause: infrastructure, message: "the worker was stopped"}}},
		"a continuing kind goes on": {plan: planOf(shipping), entries: []journal.Entry{began("a", 1), taken},
			want: []action{{kind: actStart, stage: "a", attempt: 1, continued: true}}},
		"also to be cancelled": {plan: planOf(shipping), entries: []journal.Entry{began("a", 1), cancel, taken},
			want: []action{{kind: actStart, stage: "a", attempt: 1, continued: true}}},
		"cancels what runs, ends what did not begin": {plan: planOf(stage("a"), stage("b", "a"), finally(stage("f"))), entries: []journal.Entry{began("a", 1), cancel},
			want: []action{{kind: actCancel, stage: "a", attempt: 1, cause: pipeline.CauseCancelled, message: "by ann"},
				{kind: actFinish, stage: "b", status: journal.Cancelled, cause: pipeline.CauseCancelled, message: "by ann"}}},
		"cleans up after cancellation": {plan: planOf(stage("a"), finally(stage("f"))), entries: []journal.Entry{began("a", 1), cancel, ended("a", 1, pipeline.CauseCancelled), done("a", journal.Cancelled)},
			want: []action{{kind: actStart, stage: "f", attempt: 1}}},
		"nothing ran, nothing to clean up": {plan: planOf(stage("a"), finally(stage("f"))), entries: []journal.Entry{cancel},
			want: []action{{kind: actFinish, stage: "a", status: journal.Cancelled, cause: pipeline.CauseCancelled, message: "by ann"},
				{kind: actFinish, stage: "f", status: journal.Cancelled, cause: pipeline.CauseCancelled, message: "by ann"}}},
		"what succeeded before the cancellation stays so": {plan: planOf(stage("a")), entries: []journal.Entry{began("a", 1), cancel, ended("a", 1, "")},
			want: []action{{kind: actFinish, stage: "a", status: journal.Succeeded, message: "m"}}},
		"and so does the run": {plan: planOf(stage("a")), entries: []journal.Entry{cancel, done("a", journal.Succeeded)},
			want: []action{{kind: actEnd, status: journal.Succeeded}}},
		"ends when all ended": {plan: planOf(stage("a"), stage("b")), entries: []journal.Entry{done("a", journal.Succeeded), done("b", journal.Skipped)},
			want: []action{{kind: actEnd, status: journal.Succeeded}}},
		"an empty plan ends":    {plan: planOf(), want: []action{{kind: actEnd, status: journal.Succeeded, message: "nothing to do: every stage was skipped"}}},
		"nothing after the end": {plan: planOf(stage("a")), entries: []journal.Entry{done("a", journal.Failed), {Type: journal.RunFinished, Status: journal.Failed}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := testRules()
			r.when = c.when
			got := decide(stateAfter(c.plan, c.entries...), epoch.Add(time.Duration(c.now)*time.Second), r)
			require.Equal(t, c.want, got)
		})
	}
}

// taken is another worker taking the run over.
var taken = journal.Entry{Type: journal.RunStarted, Actor: "w2"}

// dying is a stage whose first attempts died with their workers.
func dying(stage string, attempts int) (entries []journal.Entry) {
	for number := range attempts {
		entries = append(entries, began(stage, number+1), taken, ended(stage, number+1, pipeline.CauseInfrastructure))
	}
	return entries
}

// world plays a run against decide: attempts end as they like, workers die,
// people cancel. It checks what must hold whatever happens.
type world struct {
	t     *rapid.T
	state *journal.State
	now   time.Time
	live  map[string]int // attempt by stage, of the present worker
}

func (w *world) apply(e journal.Entry) {
	e.Time = w.now
	w.state.Apply(e)
}

func (w *world) do(a action) (recorded bool) {
	planned := w.state.Planned(a.stage)
	switch a.kind {
	case actStart:
		w.checkStart(a, planned)
		w.apply(began(a.stage, a.attempt))
		w.live[a.stage] = a.attempt
	case actLose:
		w.apply(ended(a.stage, a.attempt, a.cause))
	case actFinish:
		if _, running := w.live[a.stage]; running {
			w.t.Fatalf("%s is ended while an attempt runs", a.stage)
		}
		w.apply(journal.Entry{Type: journal.StageFinished, Stage: a.stage, Status: a.status, Cause: a.cause})
		if !w.state.Stage(a.stage).Status.Final() {
			w.t.Fatalf("the journal does not take the end of %s", a.stage)
		}
	case actEnd:
		if len(w.live) > 0 {
			w.t.Fatalf("the run ends with attempts in flight: %v", w.live)
		}
		w.apply(journal.Entry{Type: journal.RunFinished, Status: a.status, Cause: a.cause})
	default:
		return false
	}
	return true
}

func (w *world) checkStart(a action, planned *pipeline.PlannedStage) {
	if _, running := w.live[a.stage]; running {
		w.t.Fatalf("%s starts twice", a.stage)
	}
	stage := w.state.Stage(a.stage)
	if stage.Status.Final() {
		w.t.Fatalf("%s starts after its end", a.stage)
	}
	for _, id := range planned.Needs {
		if need := w.state.Stage(id); need.Status != journal.Succeeded && !planned.Finally {
			w.t.Fatalf("%s starts while %s, which it needs, is %s", a.stage, id, need.Status)
		}
	}
	for i := range w.state.Stages {
		if planned.Finally && !w.state.Plan.Stages[i].Finally && !w.state.Stages[i].Status.Final() {
			w.t.Fatalf("finally stage %s starts before %s ended", a.stage, w.state.Stages[i].ID)
		}
	}
	if w.state.Cancel != nil && !planned.Finally && !a.continued {
		w.t.Fatalf("%s starts after the cancellation", a.stage)
	}
	if counted, _ := failures(stage, testRules().takeover(stage.Kind)); counted > planned.Retry.Max {
		w.t.Fatalf("%s starts after %d counted failures of %d allowed", a.stage, counted, planned.Retry.Max)
	}
}

func TestDecideWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, state: &journal.State{}, now: epoch, live: map[string]int{}}
		w.apply(journal.Entry{Type: journal.RunCreated, RunID: "r", Plan: drawPlan(t)})
		w.apply(journal.Entry{Type: journal.RunStarted})
		disturbances := rapid.IntRange(0, 10).Draw(t, "disturbances")
		for range 1000 {
			wait := w.settle()
			if w.state.Status.Final() {
				checkEnd(t, w.state)
				return
			}
			if len(w.live) == 0 && wait.IsZero() {
				t.Fatalf("stuck: nothing runs, nothing is waited for: %+v", w.state.Stages)
			}
			w.disturb(&disturbances, wait)
		}
		t.Fatal("the run does not end")
	})
}

// settle carries out what decide asks for until nothing new comes.
func (w *world) settle() (wait time.Time) {
	for range 200 {
		recorded := false
		wait = time.Time{}
		for _, a := range decide(w.state, w.now, testRules()) {
			recorded = w.do(a) || recorded
			if a.kind == actWait && (wait.IsZero() || a.at.Before(wait)) {
				wait = a.at
			}
		}
		if !recorded {
			return wait
		}
	}
	w.t.Fatal("decide asks for ever")
	return wait
}

func (w *world) disturb(disturbances *int, wait time.Time) {
	if *disturbances > 0 && rapid.Bool().Draw(w.t, "disturb") {
		*disturbances--
		switch rapid.SampledFrom([]string{"kill", "stop", "cancel"}).Draw(w.t, "how") {
		case "stop":
			for stage, attempt := range w.live {
				w.apply(journal.Entry{Type: journal.AttemptInterrupted, Stage: stage, Attempt: attempt})
			}
			fallthrough
		case "kill":
			clear(w.live)
			w.apply(journal.Entry{Type: journal.RunStarted, Actor: "next"})
		case "cancel":
			w.apply(journal.Entry{Type: journal.CancelRequested, Cause: pipeline.CauseCancelled})
		}
		return
	}
	if len(w.live) == 0 {
		w.now = wait
		return
	}
	var running []string
	for stage := range w.live {
		running = append(running, stage)
	}
	slices.Sort(running)
	stage := rapid.SampledFrom(running).Draw(w.t, "ends")
	cause := rapid.SampledFrom([]pipeline.Cause{"", "", "", pipeline.CauseFailed, pipeline.CauseInfrastructure, pipeline.CauseTimeout, pipeline.CauseRefused, pipeline.CauseSuperseded}).Draw(w.t, "cause")
	w.apply(ended(stage, w.live[stage], cause))
	delete(w.live, stage)
	w.now = w.now.Add(100 * time.Millisecond)
}

func checkEnd(t *rapid.T, state *journal.State) {
	all := true
	for i := range state.Stages {
		if !state.Stages[i].Status.Final() {
			t.Fatalf("the run ended before %s", state.Stages[i].ID)
		}
		all = all && (state.Stages[i].Status == journal.Succeeded || state.Stages[i].Status == journal.Skipped)
	}
	if all != (state.Status == journal.Succeeded) {
		t.Fatalf("the run is %s, its stages %+v", state.Status, state.Stages)
	}
}

func drawPlan(t *rapid.T) *pipeline.Plan {
	n := rapid.IntRange(0, 7).Draw(t, "stages")
	var stages []pipeline.PlannedStage
	for i := range n {
		s := stage(fmt.Sprint("s", i))
		s.Kind = rapid.SampledFrom([]pipeline.KindName{pipeline.KindRun, pipeline.KindDeploy, pipeline.KindApprove}).Draw(t, "kind")
		s.Finally = i > 0 && rapid.IntRange(0, 5).Draw(t, "finally") == 0
		s.Retry.Max = rapid.IntRange(0, 2).Draw(t, "max")
		for k := range i {
			if stages[k].Finally == s.Finally && rapid.IntRange(0, 2).Draw(t, "needs") == 0 {
				s.Needs = append(s.Needs, stages[k].ID)
			}
		}
		stages = append(stages, s)
	}
	return planOf(stages...)
}
