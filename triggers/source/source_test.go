package source_test

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/source"
)

func TestFetchCheckoutAndRead(t *testing.T) {
	for name, open := range map[string]func(*upstream) event.Repository{
		"file": (*upstream).byFile,
		"http": func(u *upstream) event.Repository { return u.byHTTP(nil) },
	} {
		for depthName, depth := range map[string]int{"whole history": 0, "shallow": 1} {
			t.Run(name+" "+depthName, func(t *testing.T) {
				u := newUpstream(t)
				u.write(".tidegate.yaml", "version: 1\n")
				u.write("bin/run.sh", "#!/bin/sh\n")
				require.NoError(t, os.Chmod(filepath.Join(u.dir, "bin/run.sh"), 0o755))
				require.NoError(t, os.Symlink("../.tidegate.yaml", filepath.Join(u.dir, "bin/link")))
				first := u.commit("one")
				repository := open(u)
				cache := openCache(t, func(c *source.Config) { c.Depth = depth })

				require.NoError(t, cache.Fetch(ctx, repository, "refs/heads/main", first))
				head, err := cache.Head(ctx, repository, "main")
				require.NoError(t, err)
				require.Equal(t, first, head)

				dir := filepath.Join(t.TempDir(), "work")
				done, err := cache.Checkout(ctx, repository, first, dir)
				require.NoError(t, err)
				require.Equal(t, 4, done.Files)
				data, err := os.ReadFile(filepath.Join(dir, ".tidegate.yaml"))
				require.NoError(t, err)
				require.Equal(t, "version: 1\n", string(data))
				info, err := os.Stat(filepath.Join(dir, "bin/run.sh"))
				require.NoError(t, err)
				require.NotZero(t, info.Mode()&0o100)
				target, err := os.Readlink(filepath.Join(dir, "bin/link"))
				require.NoError(t, err)
				require.Equal(t, "../.tidegate.yaml", target)

				u.write("web/page.html", "<p>")
				second := u.commit("two")
				require.NoError(t, cache.Fetch(ctx, repository, "refs/heads/main", second))
				paths, err := cache.ChangedPaths(ctx, repository, first, second)
				require.NoError(t, err)
				require.Equal(t, []string{"web/page.html"}, paths)

				files, err := cache.FS(ctx, repository, second)
				require.NoError(t, err)
				data, err = fs.ReadFile(files, "web/page.html")
				require.NoError(t, err)
				require.Equal(t, "<p>", string(data))
				_, err = fs.ReadFile(files, "bin/link")
				require.ErrorIs(t, err, source.ErrRefused)
				_, err = fs.ReadFile(files, "nowhere")
				require.ErrorIs(t, err, fs.ErrNotExist)
			})
		}
	}
}

func TestFSIsAFileSystem(t *testing.T) {
	u := newUpstream(t)
	u.write("a.txt", "a")
	u.write("d/b.txt", "b")
	commit := u.commit("one")
	files, err := openCache(t, nil).FS(ctx, u.byFile(), commit)
	require.NoError(t, err)
	require.NoError(t, fstest.TestFS(files, "a.txt", "d/b.txt"))
}

func TestCommitThatIsGone(t *testing.T) {
	u := newUpstream(t)
	u.write("a", "1")
	u.commit("one")
	cache := openCache(t, nil)
	err := cache.Fetch(ctx, u.byFile(), "refs/heads/main", "0123456789012345678901234567890123456789")
	require.ErrorIs(t, err, source.ErrNotFound)
	require.ErrorContains(t, err, "forced push")
	err = cache.Fetch(ctx, u.byFile(), "refs/heads/other", "")
	require.ErrorIs(t, err, source.ErrNotFound)
	_, err = cache.Head(ctx, u.byFile(), "other")
	require.ErrorIs(t, err, source.ErrNotFound)
	_, err = cache.Head(ctx, event.Repository{FullName: "octo/none", CloneURL: "file://" + t.TempDir()}, "main")
	require.ErrorIs(t, err, source.ErrAccess)
}

// A commit that a forced push replaced is still fetched, by its name.
func TestForcedPush(t *testing.T) {
	u := newUpstream(t)
	u.write("a", "1")
	u.commit("one")
	u.write("a", "2")
	lost := u.commit("two")
	u.git("branch", "keep")
	u.git("reset", "-q", "--hard", "HEAD~1")
	u.write("a", "3")
	u.commit("three")
	cache := openCache(t, nil)
	require.NoError(t, cache.Fetch(ctx, u.byFile(), "refs/heads/main", lost))
}

// Many who want the same commit cause one transfer.
func TestFetchesAreShared(t *testing.T) {
	u := newUpstream(t)
	u.write("a", "1")
	commit := u.commit("one")
	var packs atomic.Int32
	repository := u.byHTTP(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				packs.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	cache := openCache(t, nil)
	var wait sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wait.Go(func() {
			_, errs[i] = cache.Checkout(ctx, repository, commit, filepath.Join(t.TempDir(), "w"))
			errs[i] = errors.Join(errs[i], cache.Fetch(ctx, repository, "refs/heads/main", commit))
		})
	}
	wait.Wait()
	require.NoError(t, errors.Join(errs...))
	require.EqualValues(t, 1, packs.Load())
}
