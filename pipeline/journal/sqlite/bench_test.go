package sqlite

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// One writer: each append waits for its own sync.
func BenchmarkAppend(b *testing.B) {
	j := openIn(b, b.TempDir(), Options{})
	lease := create(b, j, "r1", plan("a"))
	for b.Loop() {
		require.NoError(b, j.Append(context.Background(), "r1", &lease,
			journal.Entry{Type: journal.AttemptFinished, Time: start, Stage: "a", Attempt: 1},
			journal.Entry{Type: journal.RunStarted, Time: start, Actor: "w1"}))
	}
}

// Many writers: appends that meet share a sync.
func BenchmarkAppendParallel(b *testing.B) {
	j := openIn(b, b.TempDir(), Options{})
	var n atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		id := fmt.Sprint("r", n.Add(1))
		if _, err := j.Create(context.Background(), id, plan("a"), start); err != nil {
			b.Error(err)
		}
		lease, _, err := j.Acquire(context.Background(), id, "w1", start, 1)
		if err != nil {
			b.Error(err)
		}
		for pb.Next() {
			if err := j.Append(context.Background(), id, &lease, journal.Entry{Type: journal.RunStarted, Time: start, Actor: "w1"}); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkCreate(b *testing.B) {
	j := openIn(b, b.TempDir(), Options{})
	p := plan("test", "image", "staging", "production")
	for i := 0; b.Loop(); i++ {
		_, err := j.Create(context.Background(), fmt.Sprint("r", i), p, start)
		require.NoError(b, err)
	}
}

func BenchmarkLog(b *testing.B) {
	j := openIn(b, b.TempDir(), Options{LogLimit: 1 << 50})
	create(b, j, "r1", plan("a"))
	lines := make([]journal.Line, 1000)
	for i := range lines {
		lines[i] = journal.Line{Time: start, Stage: "a", Attempt: 1, Stream: "stdout", Text: strings.Repeat(fmt.Sprint("ok pkg", i*7919, " "), 8)}
		b.SetBytes(int64(len(lines[i].Text)) * int64(len(lines)))
	}
	for b.Loop() {
		require.NoError(b, j.AppendLog(context.Background(), "r1", lines...))
	}
	b.ReportMetric(float64(len(lines)*b.N)/b.Elapsed().Seconds(), "lines/s")
}

func BenchmarkOpen(b *testing.B) {
	open := func(b *testing.B, path string, options Options) {
		j, err := Open(context.Background(), path, options)
		require.NoError(b, err)
		require.NoError(b, j.Close())
	}
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			open(b, b.TempDir()+"/journal.db", Options{})
		}
	})
	b.Run("new without log ahead", func(b *testing.B) {
		for b.Loop() {
			open(b, b.TempDir()+"/journal.db", Options{LogAhead: -1})
		}
	})
	b.Run("again", func(b *testing.B) {
		path := b.TempDir() + "/journal.db"
		for b.Loop() {
			open(b, path, Options{})
		}
	})
}
