package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
	"github.com/tidegate-ci/tidegate/pipeline/journal/sqlite"
)

// kind is a stage kind made of functions, and the real thing to the engine.
type kind struct {
	run      func(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error)
	takeover pipeline.Takeover
}

func (k kind) Run(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
	if k.run == nil {
		return nil, nil
	}
	return k.run(ctx, a)
}
func (k kind) Takeover() pipeline.Takeover { return k.takeover }

func stage(id string, needs ...string) pipeline.PlannedStage {
	return pipeline.PlannedStage{ID: id, Kind: pipeline.KindRun, Needs: needs}
}

func planOf(stages ...pipeline.PlannedStage) *pipeline.Plan {
	return &pipeline.Plan{Pipeline: "shop", Stages: stages, Event: event.Event{
		Kind: event.Push, Repository: event.Repository{FullName: "octo/shop"}, Commit: "c0ffee", Trust: event.Own,
	}}
}

func openJournal(t testing.TB) *sqlite.Journal {
	t.Helper()
	j, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "journal.db"), sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close()) })
	return j
}

func newEngine(t testing.TB, j journal.Journal, run func(ctx context.Context, a pipeline.Attempt) (pipeline.Outputs, error), change func(*Options)) *Engine {
	t.Helper()
	o := Options{
		Journal: j, Worker: "w1",
		Kinds:   map[pipeline.KindName]pipeline.Kind{pipeline.KindRun: kind{run: run}},
		Backoff: Backoff{Base: time.Millisecond, Max: 2 * time.Millisecond},
	}
	if _, bench := t.(*testing.B); !bench {
		o.Log = zaptest.NewLogger(t)
	}
	if change != nil {
		change(&o)
	}
	e, err := New(o)
	require.NoError(t, err)
	return e
}

// serve runs Serve until the test ends or stop is called, which waits for it.
func serve(t testing.TB, e *Engine) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := e.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); group.Wait() })
	t.Cleanup(stop)
	return stop
}

func submit(t testing.TB, e *Engine, id string, plan *pipeline.Plan) {
	t.Helper()
	created, err := e.Submit(context.Background(), id, plan)
	require.NoError(t, err)
	require.True(t, created)
}

// await returns the run's state once it satisfies ok.
func await(t testing.TB, j journal.Journal, id string, ok func(*journal.State) bool) journal.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	changed := j.Watch(ctx, id)
	for {
		entries, err := j.Entries(ctx, id, 0)
		require.NoError(t, err, "waiting for run %s", id)
		state := journal.Fold(entries)
		if ok(&state) {
			return state
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("run %s did not get there: %+v", id, state)
		}
	}
}

func final(s *journal.State) bool { return s.Status.Final() }

func TestLinearPlan(t *testing.T) {
	j := openJournal(t)
	var mu sync.Mutex
	var order []string
	e := newEngine(t, j, func(_ context.Context, a pipeline.Attempt) (pipeline.Outputs, error) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, a.Stage.ID)
		if a.Stage.ID == "c" && (a.Needs["a"]["from"] != "a" || a.Needs["b"]["from"] != "b") {
			return nil, fmt.Errorf("needs: %v", a.Needs)
		}
		fmt.Fprintf(a.Stdout, "hello from %s\n\nlast", a.Stage.ID)
		return pipeline.Outputs{"from": a.Stage.ID}, nil
	}, nil)
	submit(t, e, "r1", planOf(stage("a"), stage("b", "a"), stage("c", "b")))
	state, err := e.Execute(context.Background(), "r1")
	require.NoError(t, err)
	require.Equal(t, journal.Succeeded, state.Status, state.Message)
	require.Equal(t, []string{"a", "b", "c"}, order)
	require.Equal(t, "c", state.Stage("c").Outputs["from"])

	stored, err := e.State(context.Background(), "r1")
	require.NoError(t, err)
	require.Equal(t, state.Stages, stored.Stages, "what Execute returns is what the journal holds")
	require.Equal(t, state.Finished, stored.Finished)

	lines, err := j.Log(context.Background(), "r1", "b", 0, 0)
	require.NoError(t, err)
	require.Len(t, lines, 3)
	require.Equal(t, "hello from b", lines[0].Text)
	require.Equal(t, "", lines[1].Text)
	require.Equal(t, "last", lines[2].Text)

	again, err := e.Execute(context.Background(), "r1")
	require.NoError(t, err)
	require.Equal(t, journal.Succeeded, again.Status)
	require.Len(t, order, 3, "a finished run does nothing")
}

func TestServeRunsWhatIsSubmitted(t *testing.T) {
	j := openJournal(t)
	e := newEngine(t, j, nil, nil)
	serve(t, e)
	for i := range 5 {
		submit(t, e, fmt.Sprint("r", i), planOf(stage("a"), stage("b", "a"), stage("c", "a"), stage("d", "b", "c")))
	}
	for i := range 5 {
		require.Equal(t, journal.Succeeded, await(t, j, fmt.Sprint("r", i), final).Status)
	}
	created, err := e.Submit(context.Background(), "r1", planOf(stage("other")))
	require.NoError(t, err)
	require.False(t, created)
}
