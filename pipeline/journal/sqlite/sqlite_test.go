package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func plan(stages ...string) *pipeline.Plan {
	p := &pipeline.Plan{Pipeline: "shop", Event: event.Event{Kind: event.Push, Repository: event.Repository{FullName: "octo/shop"}, Ref: "refs/heads/main", Commit: "c0ffee"}}
	for _, id := range stages {
		p.Stages = append(p.Stages, pipeline.PlannedStage{ID: id, Kind: pipeline.KindRun})
	}
	return p
}

func openIn(t testing.TB, directory string, options Options) *Journal {
	t.Helper()
	j, err := Open(context.Background(), filepath.Join(directory, "journal.db"), options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, j.Close()) })
	return j
}

func create(t testing.TB, j *Journal, id string, p *pipeline.Plan) journal.Lease {
	t.Helper()
	created, err := j.Create(context.Background(), id, p, start)
	require.NoError(t, err)
	require.True(t, created)
	lease, ok, err := j.Acquire(context.Background(), id, "w1", start, time.Minute)
	require.NoError(t, err)
	require.True(t, ok)
	return lease
}

func TestEntriesSurviveReopen(t *testing.T) {
	ctx := context.Background()
	directory := t.TempDir()
	j, err := Open(ctx, filepath.Join(directory, "sub", "journal.db"), Options{})
	require.NoError(t, err)
	lease := create(t, j, "r1", plan("a"))
	again, err := j.Create(ctx, "r1", plan("other"), start)
	require.NoError(t, err)
	require.False(t, again)

	entries := []journal.Entry{
		{Type: journal.RunStarted, Time: start, Actor: "w1"},
		{Type: journal.AttemptStarted, Time: start, Stage: "a", Attempt: 1},
	}
	require.NoError(t, j.Append(ctx, "r1", &lease, entries...))
	require.Equal(t, int64(2), entries[0].Seq)
	require.Equal(t, int64(3), entries[1].Seq)
	require.NoError(t, j.Close())
	require.NoError(t, j.Close(), "closing twice is harmless")
	require.ErrorIs(t, j.Append(ctx, "r1", &lease, entries...), errClosed)

	wal, err := os.Stat(filepath.Join(directory, "sub", "journal.db-wal"))
	require.NoError(t, err)
	require.Equal(t, int64(logAhead), wal.Size(), "the log stays laid out for the next to open the journal")

	j = openIn(t, filepath.Join(directory, "sub"), Options{})
	got, err := j.Entries(ctx, "r1", 0)
	require.NoError(t, err)
	require.Len(t, got, 3)
	state := journal.Fold(got)
	require.Equal(t, journal.Running, state.Status)
	require.Equal(t, "a", state.Plan.Stages[0].ID)
	list, err := j.List(ctx, journal.Filter{})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, journal.Running, list[0].Status)
	require.Equal(t, "octo/shop", list[0].Repository)
	require.Equal(t, start, list[0].Created)

	require.NoError(t, j.Append(ctx, "r1", &lease,
		journal.Entry{Type: journal.AttemptFinished, Time: start, Stage: "a", Attempt: 1},
		journal.Entry{Type: journal.StageFinished, Time: start, Stage: "a", Status: journal.Succeeded},
		journal.Entry{Type: journal.RunFinished, Time: start.Add(time.Second), Status: journal.Succeeded}))
	unfinished, err := j.Unfinished(ctx)
	require.NoError(t, err)
	require.Empty(t, unfinished)
	require.ErrorIs(t, j.Append(ctx, "r1", nil, journal.Entry{Type: journal.CancelRequested, Time: start}), journal.ErrFinished)
}

func TestFencing(t *testing.T) {
	ctx := context.Background()
	j := openIn(t, t.TempDir(), Options{})
	old := create(t, j, "r1", plan("a"))
	_, ok, err := j.Acquire(ctx, "r1", "w2", start.Add(time.Second), time.Minute)
	require.NoError(t, err)
	require.False(t, ok, "a live lease of another worker holds")
	young, ok, err := j.Acquire(ctx, "r1", "w2", start.Add(time.Minute+time.Nanosecond), time.Minute)
	require.NoError(t, err)
	require.True(t, ok, "an expired lease is taken over")
	require.Greater(t, young.Token, old.Token)

	started := journal.Entry{Type: journal.RunStarted, Time: start, Actor: "w"}
	require.ErrorIs(t, j.Append(ctx, "r1", &old, started), journal.ErrFenced)
	_, err = j.Renew(ctx, old, start, time.Hour)
	require.ErrorIs(t, err, journal.ErrFenced)
	require.ErrorIs(t, j.Release(ctx, old), journal.ErrFenced)
	require.NoError(t, j.Append(ctx, "r1", &young, started))
	require.Error(t, j.Append(ctx, "r1", nil, started), "only people append without a lease")
	require.NoError(t, j.Append(ctx, "r1", nil, journal.Entry{Type: journal.CancelRequested, Time: start, Actor: "ann"}))

	require.NoError(t, j.Release(ctx, young))
	third, ok, err := j.Acquire(ctx, "r1", "w3", start, time.Minute)
	require.NoError(t, err)
	require.True(t, ok, "a released lease is free at once")
	require.Greater(t, third.Token, young.Token, "tokens only grow")
	_, _, err = j.Acquire(ctx, "nope", "w3", start, time.Minute)
	require.ErrorIs(t, err, journal.ErrNotFound)
}

func TestConcurrentAppendsKeepOrderAndGaplessSeqs(t *testing.T) {
	ctx := context.Background()
	j := openIn(t, t.TempDir(), Options{})
	const runs, each = 8, 50
	var group sync.WaitGroup
	for r := range runs {
		id := fmt.Sprintf("r%d", r)
		lease := create(t, j, id, plan("a"))
		group.Go(func() {
			for i := range each {
				e := journal.Entry{Type: journal.StageProgress, Time: start, Stage: "a", Message: fmt.Sprint(i)}
				if i%5 == 0 {
					e = journal.Entry{Type: journal.RunStarted, Time: start, Actor: fmt.Sprint(i)}
				}
				if err := j.Append(ctx, id, &lease, e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for r := range runs {
		entries, err := j.Entries(ctx, fmt.Sprintf("r%d", r), 0)
		require.NoError(t, err)
		require.Len(t, entries, each+1)
		for i, e := range entries {
			require.Equal(t, int64(i+1), e.Seq)
		}
	}
}

func TestWatchCoalesces(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	j := openIn(t, t.TempDir(), Options{})
	lease := create(t, j, "r1", plan("a"))
	create(t, j, "r2", plan("a"))
	one, every := j.Watch(ctx, "r1"), j.Watch(ctx, "")
	for range 3 {
		require.NoError(t, j.Append(ctx, "r1", &lease, journal.Entry{Type: journal.StageProgress, Time: start, Stage: "a"}))
	}
	require.Len(t, one, 1)
	require.Len(t, every, 1)
	<-one
	<-every
	require.NoError(t, j.AppendLog(ctx, "r2", journal.Line{Text: "x"}))
	require.Empty(t, one)
	require.Len(t, every, 1)
}
