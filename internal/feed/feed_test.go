package feed

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
	"github.com/tidegate-ci/tidegate/pipeline/journal/sqlite"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func TestReader(t *testing.T) {
	ctx := t.Context()
	records, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "journal.db"), sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, records.Close()) })
	plan := &pipeline.Plan{Pipeline: "p", Stages: []pipeline.PlannedStage{{ID: "a"}, {ID: "b"}, {ID: "c"}}}
	_, err = records.Create(ctx, "run", plan, start)
	require.NoError(t, err)
	log := func(stage string, from, n int) {
		for i := range n {
			require.NoError(t, records.AppendLog(ctx, "run", journal.Line{Time: start.Add(time.Second), Stage: stage, Text: fmt.Sprint(from + i)}))
		}
	}
	read := func(r *Reader) (texts []string) {
		require.NoError(t, r.Next(ctx,
			func(e journal.Entry) error { texts = append(texts, string(e.Type)); return nil },
			func(l journal.Line) error { texts = append(texts, l.Text); return nil }))
		return texts
	}
	log("a", 0, 2)
	all, two, one := &Reader{Journal: records, RunID: "run"}, &Reader{Journal: records, RunID: "run", Stages: []string{"a", "b"}}, &Reader{Journal: records, RunID: "run", Stages: []string{"b"}}
	require.Equal(t, []string{"run_created", "0", "1"}, read(all))
	require.Empty(t, read(all))
	log("c", 10, 2*page) // more than a page of lines that nobody asked for
	log("b", 2, 1)
	require.Equal(t, []string{"run_created", "0", "1", "2"}, read(two))
	require.Equal(t, []string{"run_created", "2"}, read(one))
	require.Len(t, read(all), 2*page+1)

	stop := errors.New("enough")
	require.ErrorIs(t, (&Reader{Journal: records, RunID: "run"}).Next(ctx, func(journal.Entry) error { return stop }, nil), stop)
	require.ErrorIs(t, (&Reader{Journal: records, RunID: "other"}).Next(ctx, nil, nil), journal.ErrNotFound)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, (&Reader{Journal: records, RunID: "run"}).Next(cancelled, nil, nil), context.Canceled)
}

func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		times := rapid.SliceOfN(rapid.IntRange(0, 20), 0, 20)
		var entries []journal.Entry
		for i, at := range slices.Sorted(slices.Values(times.Draw(t, "entries"))) {
			entries = append(entries, journal.Entry{Seq: int64(i + 1), Time: start.Add(time.Duration(at))})
		}
		var lines []journal.Line
		for i, at := range slices.Sorted(slices.Values(times.Draw(t, "lines"))) {
			lines = append(lines, journal.Line{Seq: int64(i + 1), Time: start.Add(time.Duration(at))})
		}
		size, rest := rapid.IntRange(1, 5).Draw(t, "page"), lines
		var last time.Time
		var gotEntries, gotLines int64
		seen := func(got *int64, seq int64, at time.Time) error {
			*got++
			require.Equal(t, *got, seq)
			require.False(t, at.Before(last))
			last = at
			return nil
		}
		err := merge(entries, func() ([]journal.Line, error) {
			n := min(size, len(rest))
			out := rest[:n]
			rest = rest[n:]
			return out, nil
		}, func(e journal.Entry) error { return seen(&gotEntries, e.Seq, e.Time) }, func(l journal.Line) error { return seen(&gotLines, l.Seq, l.Time) })
		require.NoError(t, err)
		require.Equal(t, int64(len(entries)), gotEntries)
		require.Equal(t, int64(len(lines)), gotLines)
	})
}
