package source_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/triggers/source"
)

// small is a repository like examples/shop: 40 files in 8 directories.
func small(b *testing.B) *upstream {
	u := newUpstream(b)
	for i := range 40 {
		u.write(fmt.Sprintf("d%d/f%d.go", i%8, i), strings.Repeat(fmt.Sprintf("line of file %d\n", i), 60))
	}
	u.commit("one")
	return u
}

func BenchmarkCheckout(b *testing.B) {
	u := small(b)
	commit := u.git("rev-parse", "HEAD")
	cache := openCache(b, nil)
	require.NoError(b, cache.Fetch(ctx, u.byFile(), "refs/heads/main", commit))
	dir := b.TempDir()
	for i := 0; b.Loop(); i++ {
		_, err := cache.Checkout(ctx, u.byFile(), commit, filepath.Join(dir, fmt.Sprint(i)))
		require.NoError(b, err)
	}
}

func BenchmarkReadFile(b *testing.B) {
	u := small(b)
	commit := u.git("rev-parse", "HEAD")
	cache := openCache(b, nil)
	require.NoError(b, cache.Fetch(ctx, u.byFile(), "refs/heads/main", commit))
	for b.Loop() {
		_, err := cache.ReadFile(ctx, u.byFile(), commit, "d1/f1.go")
		require.NoError(b, err)
	}
}

// BenchmarkFetchAndCheckout is a one-line change, fetched and checked out.
func BenchmarkFetchAndCheckout(b *testing.B) {
	u := small(b)
	first := u.git("rev-parse", "HEAD")
	cache := openCache(b, func(c *source.Config) { c.MaxPacks = source.DefaultMaxPacks })
	require.NoError(b, cache.Fetch(ctx, u.byFile(), "refs/heads/main", first))
	dir := b.TempDir()
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		u.write("d1/f1.go", fmt.Sprint(i))
		commit := u.commit("next")
		b.StartTimer()
		require.NoError(b, cache.Fetch(ctx, u.byFile(), "refs/heads/main", commit))
		_, err := cache.Checkout(ctx, u.byFile(), commit, filepath.Join(dir, fmt.Sprint(i)))
		require.NoError(b, err)
	}
}
