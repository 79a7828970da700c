package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

func chain(n int) *pipeline.Plan {
	stages := make([]pipeline.PlannedStage, n)
	for i := range stages {
		stages[i] = stage(fmt.Sprint("s", i))
		if i > 0 {
			stages[i].Needs = []string{fmt.Sprint("s", i-1)}
		}
	}
	return planOf(stages...)
}

func fan(n int) *pipeline.Plan {
	stages := make([]pipeline.PlannedStage, n)
	for i := range stages {
		stages[i] = stage(fmt.Sprint("s", i))
	}
	return planOf(stages...)
}

// The cost of an empty stage: submit, run and record, each entry synced.
func BenchmarkChain200(b *testing.B) { benchmarkPlan(b, chain(200)) }
func BenchmarkFan200(b *testing.B)   { benchmarkPlan(b, fan(200)) }

func benchmarkPlan(b *testing.B, plan *pipeline.Plan) {
	e := newEngine(b, openJournal(b), nil, nil)
	ctx := context.Background()
	before := processorTime(b)
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprint("r", i)
		submit(b, e, id, plan)
		state, err := e.Execute(ctx, id)
		require.NoError(b, err)
		require.Equal(b, journal.Succeeded, state.Status)
	}
	stages := float64(b.N * len(plan.Stages))
	b.ReportMetric(float64(b.Elapsed().Microseconds())/stages, "µs/stage")
	b.ReportMetric(float64((processorTime(b)-before).Microseconds())/stages, "cpu-µs/stage")
}

func processorTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// What this disk asks for one durable write: the floor of the above.
func BenchmarkSync(b *testing.B) {
	for _, c := range []struct {
		name string
		grow bool
	}{{"grow", true}, {"overwrite", false}} {
		b.Run(c.name, func(b *testing.B) {
			file, err := os.Create(filepath.Join(b.TempDir(), "f"))
			require.NoError(b, err)
			defer file.Close()
			page := make([]byte, 3*4120)
			if !c.grow {
				_, err := file.Write(make([]byte, 1000*len(page)))
				require.NoError(b, err)
				require.NoError(b, file.Sync())
			}
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				start := time.Now()
				offset := int64(i) * int64(len(page))
				if !c.grow {
					offset = int64(i%1000) * int64(len(page))
				}
				_, err := file.WriteAt(page, offset)
				require.NoError(b, err)
				require.NoError(b, unix.Fdatasync(int(file.Fd())))
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
		})
	}
}
