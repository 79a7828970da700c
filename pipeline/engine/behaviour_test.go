package engine

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

type runFunc = func(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error)

func approval(id string, timeout time.Duration, needs ...string) pipeline.PlannedStage {
	return pipeline.PlannedStage{ID: id, Kind: pipeline.KindApprove, Needs: needs, Approve: &pipeline.ApproveSpec{Timeout: timeout}}
}

func deploy(id string, needs ...string) pipeline.PlannedStage {
	return pipeline.PlannedStage{ID: id, Kind: pipeline.KindDeploy, Needs: needs, Deploy: &pipeline.DeploySpec{Environment: "production"}}
}

func finally(s pipeline.PlannedStage) pipeline.PlannedStage { s.Finally = true; return s }

// waitForPerson is the essence of an approval; the real one is in stages.
func waitForPerson(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
	select {
	case d := <-a.Decisions:
		if !d.Approved {
			return nil, pipeline.Fail(pipeline.CauseRefused, "rejected by %s: %s", d.By, d.Comment)
		}
		return pipeline.Outputs{"by": d.By}, nil
	case <-ctx.Done():
		return nil, pipeline.Fail(pipeline.CauseOf(context.Cause(ctx)), "nobody approved in time: %w", context.Cause(ctx))
	}
}

// allKinds gives every kind the same function, and approvals one that waits.
func allKinds(run runFunc) func(*Options) {
	return func(o *Options) {
		o.Kinds = map[pipeline.KindName]pipeline.Kind{
			pipeline.KindRun: kind{run: run}, pipeline.KindApprove: kind{run: waitForPerson, takeover: pipeline.TakeoverContinue},
			pipeline.KindDeploy: kind{run: run, takeover: pipeline.TakeoverContinue},
		}
	}
}

func untilCancelled(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func executed(t *testing.T, run runFunc, plan *pipeline.Plan, change func(*Options)) (journal.State, *Engine) {
	t.Helper()
	e := newEngine(t, openJournal(t), run, func(o *Options) {
		allKinds(run)(o)
		if change != nil {
			change(o)
		}
	})
	submit(t, e, "r1", plan)
	state, err := e.Execute(context.Background(), "r1")
	require.NoError(t, err)
	require.True(t, state.Status.Final())
	return state, e
}

func statuses(state journal.State) map[string]journal.Status {
	out := map[string]journal.Status{}
	for _, s := range state.Stages {
		out[s.ID] = s.Status
	}
	return out
}

func logText(t *testing.T, e *Engine, stage string) string {
	t.Helper()
	lines, err := e.o.Journal.Log(context.Background(), "r1", stage, 0, 0)
	require.NoError(t, err)
	var out strings.Builder
	for _, line := range lines {
		out.WriteString(line.Stream + ": " + line.Text + "\n")
	}
	return out.String()
}

func TestFailureSkipsWhatNeedsIt(t *testing.T) {
	run := func(_ context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
		if a.Stage.ID == "bad" {
			return nil, pipeline.Fail(pipeline.CauseFailed, "exit status 3")
		}
		return nil, nil
	}
	never := stage("never")
	never.When = "false"
	state, _ := executed(t, run, planOf(stage("bad"), stage("good"), stage("after", "bad"), stage("later", "after"), never, finally(stage("clean"))), nil)
	require.Equal(t, map[string]journal.Status{
		"bad": journal.Failed, "good": journal.Succeeded, "after": journal.Skipped, "later": journal.Skipped, "never": journal.Skipped, "clean": journal.Succeeded,
	}, statuses(state))
	require.Equal(t, journal.Failed, state.Status)
	require.Equal(t, pipeline.CauseFailed, state.Cause)
	require.Equal(t, "bad: exit status 3", state.Message)
}

func TestRetryByCause(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		retry    pipeline.Retry
		attempts int
		cause    pipeline.Cause
	}{
		"infrastructure by default":   {errors.New("no route"), pipeline.Retry{Max: 2}, 3, pipeline.CauseInfrastructure},
		"not what failed by itself":   {pipeline.Fail(pipeline.CauseFailed, "red"), pipeline.Retry{Max: 2}, 1, pipeline.CauseFailed},
		"what the file asks for":      {pipeline.Fail(pipeline.CauseFailed, "red"), pipeline.Retry{Max: 1, On: []pipeline.Cause{pipeline.CauseFailed}}, 2, pipeline.CauseFailed},
		"only what the file asks for": {errors.New("no route"), pipeline.Retry{Max: 1, On: []pipeline.Cause{pipeline.CauseTimeout}}, 1, pipeline.CauseInfrastructure},
	} {
		t.Run(name, func(t *testing.T) {
			s := stage("a")
			s.Retry = c.retry
			state, _ := executed(t, func(context.Context, pipeline.Attempt) (pipeline.Outputs, error) { return nil, c.err }, planOf(s), nil)
			require.Len(t, state.Stages[0].Attempts, c.attempts)
			require.Equal(t, c.cause, state.Cause)
			require.Equal(t, journal.Failed, state.Status)
		})
	}
	t.Run("until it succeeds", func(t *testing.T) {
		s := stage("a")
		s.Retry = pipeline.Retry{Max: 5}
		state, _ := executed(t, func(_ context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
			if a.Number < 3 {
				return nil, errors.New("no route")
			}
			return nil, nil
		}, planOf(s), nil)
		require.Equal(t, journal.Succeeded, state.Status)
		require.Len(t, state.Stages[0].Attempts, 3)
	})
}

func TestTimeout(t *testing.T) {
	s := stage("a")
	s.Timeout = 5 * time.Millisecond
	state, _ := executed(t, func(ctx context.Context, _ pipeline.Attempt) (pipeline.Outputs, error) {
		<-ctx.Done()
		return nil, pipeline.Fail(pipeline.CauseFailed, "killed by signal: killed")
	}, planOf(s), nil)
	require.Equal(t, pipeline.CauseTimeout, state.Cause)
	require.Equal(t, "timed out after 5ms: killed by signal: killed", state.Stages[0].Message)
}

func TestPanicIsAFailedAttempt(t *testing.T) {
	state, e := executed(t, func(context.Context, pipeline.Attempt) (pipeline.Outputs, error) { panic("lost my head") }, planOf(stage("a")), nil)
	require.Equal(t, pipeline.CauseInfrastructure, state.Cause)
	require.Contains(t, state.Message, "lost my head")
	require.Contains(t, logText(t, e, "a"), "behaviour_test.go", "the stack is in the log")
}

func TestCancelRunsFinally(t *testing.T) {
	started := make(chan struct{})
	run := func(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
		if a.Stage.ID == "long" {
			close(started)
			return nil, untilCancelled(ctx)
		}
		return nil, ctx.Err()
	}
	j := openJournal(t)
	e := newEngine(t, j, run, allKinds(run))
	serve(t, e)
	submit(t, e, "r1", planOf(stage("long"), stage("after", "long"), finally(stage("clean"))))
	<-started
	require.NoError(t, e.Cancel(context.Background(), "r1", "ann", ""))
	state := await(t, j, "r1", final)
	require.Equal(t, map[string]journal.Status{"long": journal.Cancelled, "after": journal.Cancelled, "clean": journal.Succeeded}, statuses(state))
	require.Equal(t, journal.Cancelled, state.Status)
	require.Equal(t, pipeline.CauseCancelled, state.Cause)
	require.Equal(t, "cancelled by ann", state.Message)
	require.ErrorIs(t, e.Cancel(context.Background(), "r1", "ann", ""), journal.ErrFinished)
	require.ErrorIs(t, e.Cancel(context.Background(), "nope", "ann", ""), journal.ErrNotFound)
}

func TestExecuteIsCancelledWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	run := func(attempt context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
		if a.Stage.ID == "clean" {
			return nil, attempt.Err()
		}
		cancel(errors.New("interrupt"))
		return nil, untilCancelled(attempt)
	}
	e := newEngine(t, openJournal(t), run, nil)
	submit(t, e, "r1", planOf(stage("long"), finally(stage("clean"))))
	state, err := e.Execute(ctx, "r1")
	require.NoError(t, err)
	require.Equal(t, journal.Cancelled, state.Status)
	require.Equal(t, journal.Succeeded, state.Stage("clean").Status)
}

func TestApproval(t *testing.T) {
	ctx := context.Background()
	j := openJournal(t)
	e := newEngine(t, j, nil, func(o *Options) { allKinds(nil)(o); o.Limits = Limits{Stages: 1, Runs: 1} })
	serve(t, e)
	plan := planOf(stage("a"), approval("ok", time.Hour, "a"), stage("b", "ok"))
	for _, id := range []string{"yes", "no"} {
		submit(t, e, id, plan)
	}
	// Both wait: an approval takes no place of the one stage or the one run.
	for _, id := range []string{"yes", "no"} {
		await(t, j, id, func(s *journal.State) bool { return s.Status == journal.Waiting })
	}
	require.ErrorContains(t, e.Decide(ctx, "yes", "nope", pipeline.Decision{}), `no stage "nope"`)
	require.ErrorContains(t, e.Decide(ctx, "yes", "b", pipeline.Decision{}), "waits for nobody")
	require.NoError(t, e.Decide(ctx, "yes", "ok", pipeline.Decision{Approved: true, By: "ann"}))
	require.NoError(t, e.Decide(ctx, "no", "ok", pipeline.Decision{By: "bob", Comment: "not today"}))
	yes := await(t, j, "yes", final)
	require.Equal(t, journal.Succeeded, yes.Status)
	require.Equal(t, "ann", yes.Stage("ok").Outputs["by"])
	no := await(t, j, "no", final)
	require.Equal(t, journal.Refused, no.Status)
	require.Equal(t, pipeline.CauseRefused, no.Cause)
	require.Equal(t, "ok: rejected by bob: not today", no.Message)
	require.Equal(t, journal.Skipped, no.Stage("b").Status)
	require.ErrorIs(t, e.Decide(ctx, "no", "ok", pipeline.Decision{Approved: true}), journal.ErrFinished)
}

func TestApprovalBeforeItIsAskedFor(t *testing.T) {
	j := openJournal(t)
	e := newEngine(t, j, nil, allKinds(nil))
	submit(t, e, "r1", planOf(stage("a"), approval("ok", time.Hour, "a")))
	require.NoError(t, e.Decide(context.Background(), "r1", "ok", pipeline.Decision{Approved: true, By: "ann"}))
	state, err := e.Execute(context.Background(), "r1")
	require.NoError(t, err)
	require.Equal(t, journal.Succeeded, state.Status)
}

// A restart gives people no more time than they had.
func TestApprovalKeepsItsDeadline(t *testing.T) {
	j := openJournal(t)
	var offset atomic.Int64
	options := func(o *Options) {
		allKinds(nil)(o)
		o.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	}
	e := newEngine(t, j, nil, options)
	stop := serve(t, e)
	submit(t, e, "r1", planOf(approval("ok", time.Hour)))
	await(t, j, "r1", func(s *journal.State) bool { return s.Status == journal.Waiting })
	stop()
	offset.Store(int64(time.Hour + time.Second))
	serve(t, newEngine(t, j, nil, options))
	state := await(t, j, "r1", final)
	require.Equal(t, journal.Failed, state.Status)
	require.Equal(t, pipeline.CauseTimeout, state.Cause)
	require.Equal(t, "nobody approved in time: timed out after 1h0m0s", state.Stage("ok").Message)
	require.Len(t, state.Stage("ok").Attempts, 1)
}

func TestSecretsAreMaskedEverywhere(t *testing.T) {
	const secret = "hunter2-hunter2"
	run := func(_ context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
		token := a.Env["TOKEN"]
		fmt.Fprintf(a.Stdout, "token %s", token[:5])
		fmt.Fprintf(a.Stdout, "%s\n", token[5:])
		fmt.Fprintf(a.Stderr, "%s", base64.StdEncoding.EncodeToString([]byte("me:"+token)))
		a.Progress("using " + token)
		if a.Stage.ID == "bad" {
			return nil, pipeline.Fail(pipeline.CauseFailed, "bad token %q", token)
		}
		return pipeline.Outputs{"token": token}, nil
	}
	var asked atomic.Int32
	secrets := func(o *Options) {
		o.Secrets = func(context.Context, string, *pipeline.Plan, pipeline.PlannedStage) (map[string]string, error) {
			asked.Add(1)
			return map[string]string{"TOKEN": secret}, nil
		}
	}
	state, e := executed(t, run, planOf(stage("good"), stage("bad")), secrets)
	require.Equal(t, "***", state.Stage("good").Outputs["token"])
	require.Equal(t, `bad token "***"`, state.Stage("bad").Message)
	text := logText(t, e, "")
	require.Contains(t, text, "stdout: token ***\n")
	require.Contains(t, text, "tidegate: using ***\n")
	entries, err := e.o.Journal.Entries(context.Background(), "r1", 0)
	require.NoError(t, err)
	for _, leak := range []string{secret, "hunter2", base64.StdEncoding.EncodeToString([]byte("me:" + secret))} {
		require.NotContains(t, text, leak)
		require.NotContains(t, fmt.Sprintf("%+v", entries), leak)
	}

	t.Run("forks see none", func(t *testing.T) {
		asked.Store(0)
		plan := planOf(stage("a"))
		plan.Event.Trust = event.Fork
		state, _ := executed(t, func(_ context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
			if _, ok := a.Env["TOKEN"]; ok {
				return nil, pipeline.Fail(pipeline.CauseFailed, "a fork saw the secret")
			}
			return nil, nil
		}, plan, secrets)
		require.Equal(t, journal.Succeeded, state.Status)
		require.Zero(t, asked.Load())
	})
	t.Run("what cannot be masked is refused", func(t *testing.T) {
		state, _ := executed(t, run, planOf(stage("a")), func(o *Options) {
			o.Secrets = func(context.Context, string, *pipeline.Plan, pipeline.PlannedStage) (map[string]string, error) {
				return map[string]string{"PIN": "123"}, nil
			}
		})
		require.Equal(t, pipeline.CauseInvalid, state.Cause)
		require.Contains(t, state.Message, `secret "PIN"`)
	})
}

func TestLongLinesAreSplit(t *testing.T) {
	_, e := executed(t, func(_ context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
		fmt.Fprintf(a.Stdout, "%s\nnext\r\n", strings.Repeat("x", 2*maxLine+10))
		fmt.Fprintf(a.Stdout, "%s\n", strings.Repeat("y", maxLine))
		return nil, nil
	}, planOf(stage("a")), nil)
	lines, err := e.o.Journal.Log(context.Background(), "r1", "a", 0, 0)
	require.NoError(t, err)
	var sizes []int
	for _, line := range lines {
		sizes = append(sizes, len(line.Text))
	}
	require.Equal(t, []int{maxLine, maxLine, 10, 4, maxLine}, sizes)
}

// Deploys to one environment never overlap, in whatever runs they are.
func TestDeploysToOneEnvironmentAreSerial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		run := func(_ context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
			if a.Stage.Kind == pipeline.KindDeploy {
				most.Store(max(most.Load(), now.Add(1)))
				defer now.Add(-1)
				time.Sleep(time.Millisecond) //nolint:forbidigo // the bubble's clock: until every other goroutine has got as far as it can
			}
			return nil, nil
		}
		j := openJournal(t)
		e := newEngine(t, j, run, func(o *Options) { allKinds(run)(o); o.Limits.Stages = 8 })
		serve(t, e)
		for i := range 6 {
			submit(t, e, fmt.Sprint("r", i), planOf(deploy("d1"), deploy("d2")))
		}
		for i := range 6 {
			require.Equal(t, journal.Succeeded, await(t, j, fmt.Sprint("r", i), final).Status)
		}
		require.Equal(t, int32(1), most.Load())
	})
}

func TestConcurrencyGroups(t *testing.T) {
	grouped := func(cancel bool) *pipeline.Plan {
		p := planOf(stage("a"))
		p.ConcurrencyGroup, p.CancelInProgress = "main", cancel
		return p
	}
	t.Run("runs queue in order", func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		gate := make(chan struct{})
		run := func(_ context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
			<-gate
			mu.Lock()
			defer mu.Unlock()
			order = append(order, a.RunID)
			return nil, nil
		}
		j := openJournal(t)
		e := newEngine(t, j, run, nil)
		serve(t, e)
		for _, id := range []string{"r1", "r2", "r3"} {
			submit(t, e, id, grouped(false))
		}
		await(t, j, "r1", func(s *journal.State) bool { return s.Stages[0].Open() })
		close(gate)
		for _, id := range []string{"r1", "r2", "r3"} {
			require.Equal(t, journal.Succeeded, await(t, j, id, final).Status)
		}
		require.Equal(t, []string{"r1", "r2", "r3"}, order)
	})
	t.Run("cancel in progress", func(t *testing.T) {
		var seen sync.Map
		run := func(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
			if a.RunID == "r3" {
				return nil, nil
			}
			err := untilCancelled(ctx)
			seen.Store(a.RunID, pipeline.CauseOf(context.Cause(ctx)))
			return nil, err
		}
		j := openJournal(t)
		e := newEngine(t, j, run, nil)
		serve(t, e)
		submit(t, e, "r1", grouped(true))
		await(t, j, "r1", func(s *journal.State) bool { return s.Stages[0].Open() })
		submit(t, e, "r2", grouped(false))
		submit(t, e, "r3", grouped(true))
		require.Equal(t, journal.Succeeded, await(t, j, "r3", final).Status)
		for _, id := range []string{"r1", "r2"} {
			state := await(t, j, id, final)
			require.Equal(t, journal.Cancelled, state.Status)
			require.Equal(t, pipeline.CauseSuperseded, state.Cause)
			require.Equal(t, "superseded by the newer run r3", state.Message)
		}
		cause, _ := seen.Load("r1")
		require.Equal(t, pipeline.CauseSuperseded, cause, "the attempt is told why")
	})
}

// A second worker takes the run over once the first's lease expired; the first
// finds out, stops acting, and records nothing.
func TestFencedWorkerStops(t *testing.T) {
	j := openJournal(t)
	var handedOver atomic.Bool
	started := make(chan struct{})
	first := newEngine(t, j, func(ctx context.Context, _ pipeline.Attempt) (pipeline.Outputs, error) {
		close(started)
		<-ctx.Done()
		handedOver.Store(errors.Is(context.Cause(ctx), pipeline.ErrHandover))
		return nil, ctx.Err()
	}, func(o *Options) { o.LeaseTTL = 300 * time.Millisecond })
	submit(t, first, "r1", planOf(stage("a")))
	done := make(chan error, 1)
	go func() {
		_, err := first.Execute(context.Background(), "r1")
		done <- err
	}()
	<-started
	// The second worker's clock is an hour ahead: the lease looks expired to it.
	second := newEngine(t, j, nil, func(o *Options) {
		o.Worker = "w2"
		o.Now = func() time.Time { return time.Now().Add(time.Hour) }
	})
	state, err := second.Execute(context.Background(), "r1")
	require.NoError(t, err)
	require.Equal(t, journal.Succeeded, state.Status)
	require.Equal(t, 1, state.Takeovers)
	require.Len(t, state.Stages[0].Attempts, 2)
	require.ErrorIs(t, <-done, journal.ErrFenced)
	require.True(t, handedOver.Load())
	stored, err := second.State(context.Background(), "r1")
	require.NoError(t, err)
	require.Equal(t, state.Seq, stored.Seq, "the fenced worker recorded nothing")
}

func TestRunHeldElsewhereIsRefused(t *testing.T) {
	j := openJournal(t)
	e := newEngine(t, j, nil, nil)
	submit(t, e, "r1", planOf(stage("a")))
	_, ok, err := j.Acquire(context.Background(), "r1", "other", time.Now(), time.Hour)
	require.NoError(t, err)
	require.True(t, ok)
	_, err = e.Execute(context.Background(), "r1")
	require.ErrorIs(t, err, errHeldElsewhere)
}

func TestSubmitRefusesPlansThatCannotEnd(t *testing.T) {
	e := newEngine(t, openJournal(t), nil, nil)
	for name, plan := range map[string]*pipeline.Plan{
		"no plan":       nil,
		"unknown need":  planOf(stage("a", "z")),
		"wrong order":   planOf(stage("a", "b"), stage("b")),
		"same id twice": planOf(stage("a"), stage("a")),
		"unknown kind":  planOf(pipeline.PlannedStage{ID: "a", Kind: "magic"}),
	} {
		_, err := e.Submit(context.Background(), "r1", plan)
		require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err), name)
	}
}

// fullJournal refuses as many appends as it is told to.
type fullJournal struct {
	journal.Journal
	refuse atomic.Int32
}

func (j *fullJournal) Append(ctx context.Context, id string, lease *journal.Lease, entries ...journal.Entry) error {
	if j.refuse.Load() > 0 {
		j.refuse.Add(-1)
		return journal.ErrFull
	}
	return j.Journal.Append(ctx, id, lease, entries...)
}

func TestFullJournal(t *testing.T) {
	t.Run("that gets room again loses nothing", func(t *testing.T) {
		j := &fullJournal{Journal: openJournal(t)}
		var ran atomic.Int32
		e := newEngine(t, j, func(context.Context, pipeline.Attempt) (pipeline.Outputs, error) {
			ran.Add(1)
			j.refuse.Store(2)
			return nil, nil
		}, nil)
		submit(t, e, "r1", planOf(stage("a")))
		state, err := e.Execute(context.Background(), "r1")
		require.NoError(t, err)
		require.Equal(t, journal.Succeeded, state.Status)
		require.Equal(t, int32(1), ran.Load())
	})
	t.Run("that does not ends the work with the lease", func(t *testing.T) {
		j := &fullJournal{Journal: openJournal(t)}
		var handedOver atomic.Bool
		e := newEngine(t, j, func(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
			if a.Stage.ID == "a" {
				j.refuse.Store(1 << 30)
				return nil, nil
			}
			<-ctx.Done()
			handedOver.Store(errors.Is(context.Cause(ctx), pipeline.ErrHandover))
			return nil, ctx.Err()
		}, func(o *Options) {
			// Every look at the clock is a second later: the lease runs out.
			var tick atomic.Int64
			o.Now = func() time.Time { return time.Now().Add(time.Duration(tick.Add(1)) * time.Second) }
		})
		submit(t, e, "r1", planOf(stage("a"), stage("b"), stage("c", "a")))
		e.o.Journal = noRenewal{j}
		_, err := e.Execute(context.Background(), "r1")
		require.ErrorIs(t, err, journal.ErrFull)
		require.True(t, handedOver.Load())
	})
}

// noRenewal cannot extend leases either.
type noRenewal struct{ *fullJournal }

func (j noRenewal) Renew(_ context.Context, lease journal.Lease, _ time.Time, _ time.Duration) (journal.Lease, error) {
	return lease, journal.ErrFull
}

// A run that a worker left in the middle of a deploy goes on before any other
// run, older ones included, may deploy to the same environment.
func TestBegunDeployKeepsItsEnvironmentOverARestart(t *testing.T) {
	j := openJournal(t)
	var mu sync.Mutex
	var order []string
	gate := make(chan struct{})
	run := func(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
		switch {
		case a.Stage.ID == "gate":
			<-gate
		case a.Stage.Kind == pipeline.KindDeploy && a.RunID == "young" && !a.Continued:
			return nil, untilCancelled(ctx)
		case a.Stage.Kind == pipeline.KindDeploy:
			mu.Lock()
			defer mu.Unlock()
			order = append(order, a.RunID)
		}
		return nil, nil
	}
	options := func(o *Options) { allKinds(run)(o); o.Limits.Stages = 4 }
	e := newEngine(t, j, run, options)
	stop := serve(t, e)
	submit(t, e, "old", planOf(stage("gate"), deploy("ship", "gate")))
	submit(t, e, "young", planOf(deploy("ship")))
	await(t, j, "young", func(s *journal.State) bool { return s.Stage("ship").Open() })
	close(gate)
	old := await(t, j, "old", func(s *journal.State) bool { return s.Stage("ship").Status == journal.Waiting })
	require.Equal(t, "waits for run young, which deploys to the same environment", old.Stage("ship").Message)
	stop()
	serve(t, newEngine(t, j, run, options))
	for _, id := range []string{"old", "young"} {
		require.Equal(t, journal.Succeeded, await(t, j, id, final).Status)
	}
	require.Equal(t, []string{"young", "old"}, order)
}

func TestOutputShowsWhileTheStageRuns(t *testing.T) {
	j := openJournal(t)
	seen := make(chan struct{})
	e := newEngine(t, j, func(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
		fmt.Fprintln(a.Stdout, "still here")
		a.Progress("half way")
		select {
		case <-seen:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, nil)
	serve(t, e)
	submit(t, e, "r1", planOf(stage("a")))
	await(t, j, "r1", func(s *journal.State) bool {
		lines, err := j.Log(context.Background(), "r1", "a", 0, 0)
		require.NoError(t, err)
		return len(lines) == 2 && lines[0].Text == "still here" && s.Stage("a").Message == "half way"
	})
	close(seen)
	require.Equal(t, journal.Succeeded, await(t, j, "r1", final).Status)
}
