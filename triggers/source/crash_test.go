package source_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/source"
)

const crashEnv = "TIDEGATE_TEST_SOURCE"

// TestMain becomes the process that fetches and is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashEnv); dir != "" {
		cache, err := source.Open(source.Config{Dir: dir, Protocols: []string{source.HTTP}})
		if err == nil {
			err = cache.Fetch(ctx, event.Repository{FullName: "octo/shop", CloneURL: os.Getenv("TIDEGATE_TEST_URL")},
				"refs/heads/main", os.Getenv("TIDEGATE_TEST_COMMIT"))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A fetch is killed when its pack is partly there; the next one is whole.
func TestKilledInTheMiddleOfAFetch(t *testing.T) {
	u := newUpstream(t)
	data := make([]byte, 8<<20)
	_, err := rand.Read(data)
	require.NoError(t, err)
	u.write("big", string(data))
	commit := u.commit("one")
	const sent = 4 << 20
	var whole atomic.Bool
	repository := u.byHTTP(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && !whole.Load() {
				w = &stalling{ResponseWriter: w, left: sent, gone: r.Context().Done()}
			}
			next.ServeHTTP(w, r)
		})
	})
	dir := t.TempDir()
	partial := func() (packs []string) {
		found, err := filepath.Glob(filepath.Join(dir, "*.git", "objects", "pack", "tmp_pack_*"))
		require.NoError(t, err)
		for _, name := range found {
			if info, err := os.Stat(name); err == nil && info.Size() > sent/2 {
				packs = append(packs, name)
			}
		}
		return packs
	}
	for range 3 {
		before := partial()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+dir, "TIDEGATE_TEST_URL="+repository.CloneURL, "TIDEGATE_TEST_COMMIT="+commit)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, cmd.Start())
		begun := func() bool {
			return slices.ContainsFunc(partial(), func(name string) bool { return !slices.Contains(before, name) })
		}
		assert.Eventually(t, begun, time.Minute, 5*time.Millisecond, "the fetch wrote no part of its pack")
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
	}
	whole.Store(true)
	checkWhole(t, u, repository, dir, commit)
}

// stalling sends the first bytes of a response and then nothing until its
// reader is gone.
type stalling struct {
	http.ResponseWriter
	left int
	gone <-chan struct{}
}

func (s *stalling) Write(p []byte) (int, error) {
	if len(p) <= s.left {
		s.left -= len(p)
		return s.ResponseWriter.Write(p)
	}
	if err := http.NewResponseController(s.ResponseWriter).Flush(); err != nil {
		return 0, err
	}
	<-s.gone
	return 0, errors.New("the reader is gone")
}

// What go-git may leave behind between its writes: an index cut short and
// without its pack, a ref without its object, a pack that was torn.
func TestDamagedMirrors(t *testing.T) {
	mirror := func(t *testing.T, dir, pattern string) string {
		found, err := filepath.Glob(filepath.Join(dir, "*.git", pattern))
		require.NoError(t, err)
		require.NotEmpty(t, found)
		return found[0]
	}
	for name, damage := range map[string]func(t *testing.T, dir string){
		"index without pack, cut short": func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(mirror(t, dir, "objects/pack/*.pack")))
			require.NoError(t, os.Chmod(mirror(t, dir, "objects/pack/*.idx"), 0o600))
			require.NoError(t, os.Truncate(mirror(t, dir, "objects/pack/*.idx"), 100))
		},
		"pack torn": func(t *testing.T, dir string) {
			pack := mirror(t, dir, "objects/pack/*.pack")
			require.NoError(t, os.Chmod(pack, 0o600))
			info, err := os.Stat(pack)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(pack, info.Size()/2))
		},
		"empty ref": func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(mirror(t, dir, "refs/tidegate/*"), 0))
		},
		"no HEAD": func(t *testing.T, dir string) { require.NoError(t, os.Remove(mirror(t, dir, "HEAD"))) },
		"gone":    func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(mirror(t, dir, ""))) },
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			for i := range 20 {
				u.write(fmt.Sprintf("f%d", i), fmt.Sprintf("content of file %d", i))
			}
			commit := u.commit("one")
			dir := t.TempDir()
			cache := openCache(t, func(c *source.Config) { c.Dir = dir })
			require.NoError(t, cache.Fetch(ctx, u.byFile(), "refs/heads/main", commit))
			damage(t, dir)
			checkWhole(t, u, u.byFile(), dir, commit)
			u.write("more", "x")
			checkWhole(t, u, u.byFile(), dir, u.commit("two"))
		})
	}
}

func checkWhole(t *testing.T, u *upstream, repository event.Repository, dir, commit string) {
	t.Helper()
	cache := openCache(t, func(c *source.Config) { c.Dir = dir })
	require.NoError(t, cache.Fetch(ctx, repository, "refs/heads/main", commit))
	work := filepath.Join(t.TempDir(), "work")
	_, err := cache.Checkout(ctx, repository, commit, work)
	require.NoError(t, err)
	out, err := exec.Command("diff", "-r", "--exclude=.git", u.dir, work).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// Old packs pile up until the mirror is made anew.
func TestPacksAreBounded(t *testing.T) {
	u := newUpstream(t)
	dir := t.TempDir()
	cache := openCache(t, func(c *source.Config) { c.Dir, c.MaxPacks = dir, 3 })
	for i := range 9 {
		u.write("a", fmt.Sprint(i))
		require.NoError(t, cache.Fetch(ctx, u.byFile(), "refs/heads/main", u.commit("x")))
		packs, err := filepath.Glob(filepath.Join(dir, "*.git", "objects", "pack", "*.pack"))
		require.NoError(t, err)
		require.LessOrEqual(t, len(packs), 4)
	}
}

// strict makes the upstream give no commit by its name, as plain git does.
func strict(u *upstream) *upstream {
	u.git("config", "--unset", "uploadpack.allowReachableSHA1InWant")
	return u
}

// A run checks its commit out long after it was fetched: by then the mirror may
// have been made anew for another branch.
func TestCheckoutAfterTheMirrorWasMadeAnew(t *testing.T) {
	u := strict(newUpstream(t))
	u.write("a", "first")
	u.git("checkout", "-q", "-b", "side")
	side := u.commit("side")
	u.git("tag", "v1")
	cache := openCache(t, func(c *source.Config) { c.MaxPacks = 1 })
	require.NoError(t, cache.Fetch(ctx, u.byFile(), "refs/heads/side", side))
	again := func() {
		for i := range 3 {
			u.write("a", fmt.Sprint(i))
			require.NoError(t, cache.Fetch(ctx, u.byFile(), "refs/heads/other", u.commit("x")))
		}
		_, err := cache.Checkout(ctx, u.byFile(), side, filepath.Join(t.TempDir(), "work"))
		require.NoError(t, err)
	}
	u.git("checkout", "-q", "--orphan", "other")
	again()
	u.git("branch", "-q", "-D", "side")
	again()
}

// A kill while a ref is written costs nothing of what was fetched before, not
// even what a forced push has replaced since.
func TestAnEmptyRefCostsNothing(t *testing.T) {
	u := strict(newUpstream(t))
	u.write("a", "1")
	u.commit("one")
	u.write("a", "2")
	lost := u.commit("two")
	dir := t.TempDir()
	cache := openCache(t, func(c *source.Config) { c.Dir = dir })
	require.NoError(t, cache.Fetch(ctx, u.byFile(), "refs/heads/main", lost))
	refs, err := filepath.Glob(filepath.Join(dir, "*.git", "refs/tidegate/*"))
	require.NoError(t, err)
	require.Len(t, refs, 1)
	require.NoError(t, os.Truncate(refs[0], 0))
	u.git("reset", "-q", "--hard", "HEAD~1")
	u.write("a", "3")
	now := u.commit("three")
	require.NoError(t, cache.Fetch(ctx, u.byFile(), "refs/heads/main", now))
	for _, commit := range []string{lost, now} {
		_, err = cache.Checkout(ctx, u.byFile(), commit, filepath.Join(t.TempDir(), "work"))
		require.NoError(t, err)
	}
}

// Readers meet a mirror that is being made anew: they wait for it, and none
// takes what is missing in that moment for a damage.
func TestReadersWhileTheMirrorIsMadeAnew(t *testing.T) {
	u := strict(newUpstream(t))
	u.write("a", "side")
	side := u.commit("side")
	u.git("branch", "side")
	u.git("checkout", "-q", "--orphan", "other")
	logs, seen := observer.New(zap.WarnLevel)
	cache := openCache(t, func(c *source.Config) { c.MaxPacks, c.Log = 1, zap.New(logs) })
	var done atomic.Bool
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for !done.Load() {
				if _, err := cache.ReadFile(ctx, u.byFile(), side, "a"); !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	for i := range 20 {
		u.write("a", fmt.Sprint(i))
		assert.NoError(t, cache.Fetch(ctx, u.byFile(), "refs/heads/other", u.commit("x")))
	}
	done.Store(true)
	readers.Wait()
	require.Empty(t, seen.All())
}
