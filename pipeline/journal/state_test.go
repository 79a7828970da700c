package journal_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/pipeline"
	. "github.com/tidegate-ci/tidegate/pipeline/journal"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testPlan() *pipeline.Plan {
	return &pipeline.Plan{Pipeline: "shop", Stages: []pipeline.PlannedStage{
		{ID: "test", Kind: pipeline.KindRun}, {ID: "ok", Kind: pipeline.KindApprove}, {ID: "ship", Kind: pipeline.KindDeploy},
	}}
}

func fold(entries ...Entry) State {
	all := append([]Entry{{RunID: "r1", Type: RunCreated, Plan: testPlan()}}, entries...)
	for i := range all {
		all[i].Seq = int64(i + 1)
		all[i].Time = epoch.Add(time.Duration(i) * time.Second)
	}
	return Fold(all)
}

func TestFold(t *testing.T) {
	started := Entry{Type: RunStarted, Actor: "w1"}
	attempt := func(stage string, n int) Entry { return Entry{Type: AttemptStarted, Stage: stage, Attempt: n} }

	t.Run("created", func(t *testing.T) {
		s := fold()
		require.Equal(t, Pending, s.Status)
		require.Equal(t, epoch, s.Created)
		require.Len(t, s.Stages, 3)
	})
	t.Run("an approval makes the run wait", func(t *testing.T) {
		s := fold(started, attempt("ok", 1))
		require.Equal(t, Waiting, s.Status)
		require.Equal(t, Waiting, s.Stage("ok").Status)
		s = fold(started, attempt("ok", 1), attempt("test", 1))
		require.Equal(t, Running, s.Status)
	})
	t.Run("decisions count before the stage begins", func(t *testing.T) {
		s := fold(started, Entry{Type: DecisionMade, Stage: "ok", Decision: &pipeline.Decision{Approved: true, By: "ann"}},
			Entry{Type: DecisionMade, Stage: "test", Decision: &pipeline.Decision{}})
		require.Len(t, s.Stage("ok").Decisions, 1)
		require.Empty(t, s.Stage("test").Decisions, "only approvals take decisions")
	})
	t.Run("a takeover loses open attempts, a continued one is found again", func(t *testing.T) {
		s := fold(started, attempt("ship", 1), attempt("test", 1), started)
		require.Equal(t, 1, s.Takeovers)
		require.True(t, s.Stage("ship").Last().Lost)
		require.True(t, s.Stage("test").Last().Lost)
		s = fold(started, attempt("ship", 1), started, attempt("ship", 1))
		require.False(t, s.Stage("ship").Last().Lost)
		require.Equal(t, 1, s.Stage("ship").Last().Continued)
		require.Len(t, s.Stage("ship").Attempts, 1)
		require.Equal(t, epoch.Add(2*time.Second), s.Stage("ship").Last().Started, "the first start counts")
		s = fold(started, attempt("ship", 1), Entry{Type: AttemptInterrupted, Stage: "ship", Attempt: 1}, started, attempt("ship", 1))
		require.Zero(t, s.Stage("ship").Last().Continued, "orderly stops are not counted")
	})
	t.Run("an attempt must end before its stage", func(t *testing.T) {
		s := fold(started, attempt("test", 1), Entry{Type: StageFinished, Stage: "test", Status: Succeeded})
		require.Equal(t, Running, s.Stage("test").Status)
	})
	t.Run("attempts count up", func(t *testing.T) {
		s := fold(started, attempt("test", 2))
		require.Empty(t, s.Stage("test").Attempts)
	})
	t.Run("only the first cancellation counts", func(t *testing.T) {
		s := fold(Entry{Type: CancelRequested, Actor: "ann", Cause: pipeline.CauseCancelled}, Entry{Type: CancelRequested, Actor: "bob"})
		require.Equal(t, "ann", s.Cancel.By)
	})
	t.Run("seen entries change nothing", func(t *testing.T) {
		s := fold(started)
		s.Apply(Entry{Seq: 2, Type: RunFinished, Status: Failed})
		require.Equal(t, Running, s.Status)
	})
	t.Run("JSON", func(t *testing.T) {
		data, err := json.Marshal(fold(started, attempt("test", 1)))
		require.NoError(t, err)
		var got map[string]any
		require.NoError(t, json.Unmarshal(data, &got))
		require.Equal(t, "running", got["status"])
		require.NotContains(t, got, "finished", "no zero times")
	})
}

func entries(t *rapid.T) []Entry {
	one := rapid.Custom(func(t *rapid.T) Entry {
		e := Entry{
			Type: rapid.SampledFrom([]Type{RunCreated, RunStarted, AttemptStarted, AttemptStarted, AttemptFinished, AttemptFinished,
				AttemptInterrupted, StageProgress, StageFinished, DecisionMade, CancelRequested, RunFinished}).Draw(t, "type"),
			Stage:   rapid.SampledFrom([]string{"test", "ok", "ship", "none", ""}).Draw(t, "stage"),
			Attempt: rapid.IntRange(0, 3).Draw(t, "attempt"),
			Status:  rapid.SampledFrom([]Status{"", Pending, Running, Succeeded, Failed, Cancelled, Skipped, Refused}).Draw(t, "status"),
			Message: rapid.SampledFrom([]string{"", "x"}).Draw(t, "message"),
		}
		if e.Type == DecisionMade && rapid.Bool().Draw(t, "decision") {
			e.Decision = &pipeline.Decision{Approved: true}
		}
		if e.Type == RunCreated && rapid.Bool().Draw(t, "plan") {
			e.Plan = testPlan()
		}
		return e
	})
	all := append([]Entry{{Type: RunCreated, RunID: "r1", Plan: testPlan()}}, rapid.SliceOfN(one, 0, 60).Draw(t, "entries")...)
	for i := range all {
		all[i].Seq, all[i].Time = int64(i+1), epoch.Add(time.Duration(i)*time.Second)
	}
	return all
}

// Whatever the entries: every prefix folds to a state that makes sense, a final
// status is never left, and folding at once or one by one is the same.
func TestFoldProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := entries(t)
		var step State
		for i := range all {
			before, stages := step, append([]StageState(nil), step.Stages...)
			step.Apply(all[i])
			if diff := cmp.Diff(Fold(all[:i+1]), step, cmpopts.IgnoreUnexported(State{})); diff != "" {
				t.Fatalf("fold and apply differ: %s", diff)
			}
			if step.Seq != int64(i+1) {
				t.Fatalf("seq %d after %d entries", step.Seq, i+1)
			}
			if before.Status.Final() && (step.Status != before.Status || step.Finished != before.Finished) {
				t.Fatalf("left final status %s for %s", before.Status, step.Status)
			}
			if step.Status.Final() == step.Finished.IsZero() {
				t.Fatalf("status %s, finished %s", step.Status, step.Finished)
			}
			for k := range step.Stages {
				checkStage(t, &step.Stages[k])
				if k < len(stages) && stages[k].Status.Final() && step.Stages[k].Status != stages[k].Status {
					t.Fatalf("stage left final status %s", stages[k].Status)
				}
			}
		}
	})
}

func checkStage(t *rapid.T, s *StageState) {
	if s.Status.Final() == s.Finished.IsZero() {
		t.Fatalf("stage %s: status %s, finished %s", s.ID, s.Status, s.Finished)
	}
	if s.Status.Final() && s.Open() {
		t.Fatalf("stage %s is final with an open attempt", s.ID)
	}
	for i, a := range s.Attempts {
		if a.Number != i+1 {
			t.Fatalf("stage %s: attempt %d at place %d", s.ID, a.Number, i)
		}
		if i < len(s.Attempts)-1 && a.Open() {
			t.Fatalf("stage %s: attempt %d is open beside a newer one", s.ID, a.Number)
		}
	}
	if len(s.Attempts) > 0 == s.Started.IsZero() {
		t.Fatalf("stage %s: %d attempts, started %s", s.ID, len(s.Attempts), s.Started)
	}
}
