package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// capped is a builder whose caches all lie under one cap.
func (b *bench) capped(maxBytes int64) {
	dir, err := os.MkdirTemp("", "tidegate-cap-")
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, os.RemoveAll(dir)) })
	b.builder, err = NewLocal(filepath.Join(dir, "cache"), b.builder.Registry, store.Options{MaxBytes: maxBytes})
	require.NoError(b, err)
}

func (b *bench) kept() (total int64, kinds map[store.EntryKind]int) {
	all, err := b.builder.Store.List(context.Background())
	require.NoError(b, err)
	kinds = map[store.EntryKind]int{}
	for _, e := range all {
		total += e.Bytes
		kinds[e.Kind]++
	}
	return total, kinds
}

func TestBuildsStayUnderTheCap(t *testing.T) {
	b := newBench(t)
	b.busybox(nil)
	const limit = 16 << 20
	b.capped(limit)
	for i := range 6 {
		b.build(b.request(map[string]string{
			"Dockerfile": fmt.Sprintf("FROM busybox\nCOPY a /a\nRUN --mount=type=cache,id=%d,target=/c head -c 1000000 /dev/urandom | tee /c/f > /f\n", i), "a": fmt.Sprint(i),
		}))
		total, kinds := b.kept()
		require.LessOrEqual(t, total, int64(limit))
		require.NotZero(t, kinds[store.KindUnpacked])
		require.NotZero(t, kinds[store.KindMount])
	}
	_, kinds := b.kept()
	require.Less(t, kinds[store.KindMount], 6, "nothing was ever evicted: the test shows nothing")
}

func TestAStepThatWritesMoreThanTheCapIsStopped(t *testing.T) {
	b := newBench(t)
	b.busybox(nil)
	const limit = 12 << 20
	for name, run := range map[string]string{
		"root":        "RUN head -c 20000000 /dev/zero > /big",
		"cache mount": "RUN --mount=type=cache,target=/c head -c 20000000 /dev/urandom > /c/big",
		"without end": "RUN while true; do head -c 1000000 /dev/zero >> /big; sleep 0.05; done",
	} {
		t.Run(name, func(t *testing.T) {
			b.TB = t
			b.capped(limit)
			_, err := b.builder.Build(context.Background(), b.request(map[string]string{"Dockerfile": "FROM busybox\n" + run + "\n"}))
			require.ErrorContains(t, err, "Dockerfile:2:1")
			require.ErrorContains(t, err, "this build needs more than the build cache may hold: its cap is 12.6 MB")
			require.Equal(t, pipeline.CauseFailed, pipeline.CauseOf(err))
			require.NoError(t, b.builder.Store.Evict(context.Background()))
			total, _ := b.kept()
			require.LessOrEqual(t, total, int64(limit))
		})
	}
}

func TestALayerThatDoesNotFitIsNotUnpacked(t *testing.T) {
	b := newBench(t)
	b.busybox(nil)
	b.capped(2 << 20)
	_, err := b.builder.Build(context.Background(), b.request(map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"}))
	var full *store.FullError
	require.ErrorAs(t, err, &full)
}
