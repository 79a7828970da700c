package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// fill appends pairs of entries until the storage is full, and returns how
// many pairs were stored.
func fill(t *testing.T, j *Journal, lease journal.Lease) int {
	t.Helper()
	for i := range 1_000_000 {
		pair := []journal.Entry{
			{Type: journal.RunStarted, Time: start, Actor: fmt.Sprint(i)},
			{Type: journal.StageProgress, Time: start, Stage: "a", Message: strings.Repeat("x", 8000)},
		}
		if err := j.Append(context.Background(), lease.RunID, &lease, pair...); err != nil {
			require.ErrorIs(t, err, journal.ErrFull)
			return i
		}
	}
	t.Fatal("never full")
	return 0
}

func requirePairs(t *testing.T, j *Journal, run string, pairs int) {
	t.Helper()
	entries, err := j.Entries(context.Background(), run, 1)
	require.NoError(t, err)
	require.Len(t, entries, 2*pairs, "what was refused left nothing behind")
	for i, e := range entries {
		require.Equal(t, int64(i+2), e.Seq)
		if i%2 == 0 {
			require.Equal(t, fmt.Sprint(i/2), e.Actor)
		}
	}
}

func TestSizeLimit(t *testing.T) {
	ctx := context.Background()
	directory := t.TempDir()
	j := openIn(t, directory, Options{MaxBytes: 1 << 20})
	lease := create(t, j, "r1", plan("a"))
	pairs := fill(t, j, lease)
	require.Positive(t, pairs)
	requirePairs(t, j, "r1", pairs)
	_, err := j.Create(ctx, "r2", plan(strings.Repeat("s", 9000)), start)
	require.ErrorIs(t, err, journal.ErrFull)
	_, err = j.Entries(ctx, "r2", 0)
	require.ErrorIs(t, err, journal.ErrNotFound, "a run that was refused does not exist")
}

// A disk that is full refuses, keeps what it has, and takes more when there is room.
func TestFullDisk(t *testing.T) {
	directory := t.TempDir()
	require.NoError(t, unix.Mount("tidegate-test", directory, "tmpfs", 0, "size=12m,mode=0700"), "the test mounts a small disk and must run as root")
	t.Cleanup(func() { require.NoError(t, unix.Unmount(directory, unix.MNT_DETACH)) })
	path := filepath.Join(directory, "journal.db")
	j, err := Open(context.Background(), path, Options{})
	require.NoError(t, err)
	lease := create(t, j, "r1", plan("a"))
	ballast := filepath.Join(directory, "ballast")
	require.ErrorIs(t, os.WriteFile(ballast, make([]byte, 12<<20), 0o600), unix.ENOSPC)

	pairs := fill(t, j, lease)
	requirePairs(t, j, "r1", pairs)
	require.ErrorIs(t, j.AppendLog(context.Background(), "r1", journal.Line{Text: incompressible(200_000)}), journal.ErrFull)
	_, err = j.Create(context.Background(), "r2", plan(incompressible(50_000)), start)
	require.ErrorIs(t, err, journal.ErrFull)

	require.NoError(t, os.Remove(ballast))
	require.NoError(t, j.Append(context.Background(), "r1", &lease,
		journal.Entry{Type: journal.RunStarted, Time: start, Actor: fmt.Sprint(pairs)}, journal.Entry{Type: journal.StageProgress, Time: start, Stage: "a"}))
	require.NoError(t, j.Close())
	j, err = Open(context.Background(), path, Options{})
	require.NoError(t, err)
	requirePairs(t, j, "r1", pairs+1)
	require.NoError(t, j.Close())
}

func TestNoRoomToOpen(t *testing.T) {
	directory := t.TempDir()
	require.NoError(t, unix.Mount("tidegate-test", directory, "tmpfs", 0, "size=1m,mode=0700"), "the test mounts a small disk and must run as root")
	t.Cleanup(func() { require.NoError(t, unix.Unmount(directory, unix.MNT_DETACH)) })
	_, err := Open(context.Background(), filepath.Join(directory, "journal.db"), Options{})
	require.ErrorIs(t, err, journal.ErrFull)
}

func incompressible(n int) string {
	var out strings.Builder
	for i := 0; out.Len() < n; i++ {
		fmt.Fprintf(&out, "%x", uint64(i+1)*0x9e3779b97f4a7c15)
	}
	return out.String()
}

func TestLog(t *testing.T) {
	ctx := context.Background()
	j := openIn(t, t.TempDir(), Options{})
	create(t, j, "r1", plan("a", "b"))
	var lines []journal.Line
	for i := range 100 {
		lines = append(lines, journal.Line{Time: start, Stage: []string{"a", "b"}[i/10%2], Attempt: 1, Stream: "stdout", Text: fmt.Sprintf("line %d <&> \u2028 \x00", i)})
	}
	require.NoError(t, j.AppendLog(ctx, "r1", lines[:50]...))
	require.NoError(t, j.AppendLog(ctx, "r1", lines[50:]...))
	require.Equal(t, int64(100), lines[99].Seq)

	all, err := j.Log(ctx, "r1", "", 0, 0)
	require.NoError(t, err)
	require.Equal(t, lines, all)
	some, err := j.Log(ctx, "r1", "", 37, 20)
	require.NoError(t, err)
	require.Equal(t, lines[37:57], some, "from and to the middle of chunks")
	b, err := j.Log(ctx, "r1", "b", 0, 0)
	require.NoError(t, err)
	require.Len(t, b, 50)
	_, err = j.Log(ctx, "nope", "", 0, 0)
	require.ErrorIs(t, err, journal.ErrNotFound)
	require.ErrorIs(t, j.AppendLog(ctx, "nope", journal.Line{}), journal.ErrNotFound)
}

func TestLogLimit(t *testing.T) {
	ctx := context.Background()
	j := openIn(t, t.TempDir(), Options{LogLimit: 100})
	create(t, j, "r1", plan("a"))
	for range 3 {
		require.NoError(t, j.AppendLog(ctx, "r1",
			journal.Line{Stage: "a", Stream: "stdout", Text: strings.Repeat("x", 39)}, journal.Line{Stage: "a", Stream: "stdout", Text: strings.Repeat("y", 39)}))
	}
	lines, err := j.Log(ctx, "r1", "a", 0, 0)
	require.NoError(t, err)
	require.Len(t, lines, 3, "two lines fit, then the marker, once")
	require.Equal(t, "tidegate", lines[2].Stream)
	require.Contains(t, lines[2].Text, "limit of 100 bytes")
}

func TestPrune(t *testing.T) {
	ctx := context.Background()
	finish := func(j *Journal, id string, at time.Time) {
		lease := create(t, j, id, plan("a"))
		require.NoError(t, j.AppendLog(ctx, id, journal.Line{Text: "x"}))
		require.NoError(t, j.Append(ctx, id, &lease, journal.Entry{Type: journal.RunFinished, Time: at, Status: journal.Succeeded}))
	}
	ids := func(j *Journal) (out []string) {
		list, err := j.List(ctx, journal.Filter{Limit: 1000})
		require.NoError(t, err)
		for _, s := range list {
			out = append(out, s.ID)
		}
		return out
	}
	rows := func(j *Journal, table string) (n int) {
		require.NoError(t, j.read.QueryRow("SELECT count(DISTINCT run) FROM "+table).Scan(&n))
		return n
	}
	t.Run("by age", func(t *testing.T) {
		j := openIn(t, t.TempDir(), Options{KeepFor: time.Hour})
		create(t, j, "running", plan("a"))
		finish(j, "old", start)
		finish(j, "young", start.Add(time.Hour))
		n, err := j.Prune(ctx, start.Add(time.Hour+time.Second))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, []string{"young", "running"}, ids(j))
		require.Equal(t, 2, rows(j, "entries"))
		require.Equal(t, 1, rows(j, "log_chunks"))
	})
	t.Run("by number", func(t *testing.T) {
		j := openIn(t, t.TempDir(), Options{KeepRuns: 3})
		create(t, j, "running", plan("a"))
		for i := range 50 {
			finish(j, fmt.Sprint("r", i), time.Now())
		}
		n, err := j.Prune(ctx, start)
		require.NoError(t, err)
		require.Equal(t, 47, n)
		require.Equal(t, []string{"r49", "r48", "r47", "running"}, ids(j))
	})
}

func TestNewerSchemaIsRefused(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "journal.db")
	j, err := Open(ctx, path, Options{})
	require.NoError(t, err)
	_, err = j.conn.ExecContext(ctx, "PRAGMA user_version = 99")
	require.NoError(t, err)
	require.NoError(t, j.Close())
	_, err = Open(ctx, path, Options{})
	require.ErrorContains(t, err, "schema version 99")
}

func TestNotADatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("this is no database ", 500)), 0o600))
	_, err := Open(context.Background(), path, Options{})
	require.ErrorContains(t, err, path)
	require.False(t, errors.Is(err, journal.ErrFull))
}

func TestFilesAreThePrivateOnesOfTheirOwner(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "state")
	openIn(t, directory, Options{})
	files, err := os.ReadDir(directory)
	require.NoError(t, err)
	require.Len(t, files, 3, "database, write-ahead log and its index; no temporary file is left")
	for _, file := range files {
		info, err := file.Info()
		require.NoError(t, err)
		require.Zero(t, info.Mode().Perm()&0o077, "%s is %s", file.Name(), info.Mode())
	}
}

func TestListFilters(t *testing.T) {
	ctx := context.Background()
	j := openIn(t, t.TempDir(), Options{})
	for i := range 5 {
		p := plan("a")
		if i%2 == 1 {
			p.Event.Repository.FullName, p.Pipeline = "octo/other", "docs"
		}
		create(t, j, fmt.Sprint("r", i), p)
	}
	for name, c := range map[string]struct {
		filter journal.Filter
		want   int
	}{
		"all": {journal.Filter{}, 5}, "repository": {journal.Filter{Repository: "octo/shop"}, 3}, "pipeline": {journal.Filter{Pipeline: "docs"}, 2},
		"status": {journal.Filter{Status: []journal.Status{journal.Pending, journal.Failed}}, 5}, "none": {journal.Filter{Status: []journal.Status{journal.Failed}}, 0},
		"limit": {journal.Filter{Limit: 2}, 2}, "both": {journal.Filter{Repository: "octo/shop", Pipeline: "docs"}, 0},
	} {
		list, err := j.List(ctx, c.filter)
		require.NoError(t, err)
		require.Len(t, list, c.want, name)
	}
	unfinished, err := j.Unfinished(ctx)
	require.NoError(t, err)
	require.Equal(t, "r0", unfinished[0].ID, "oldest first")
}
