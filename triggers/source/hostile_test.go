package source_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/source"
)

// rawTree writes a tree object with names that git itself would not.
func (u *upstream) rawTree(entries ...string) string {
	u.t.Helper()
	var tree bytes.Buffer
	for _, entry := range entries {
		mode, rest, _ := strings.Cut(entry, " ")
		hash, name, _ := strings.Cut(rest, " ")
		fmt.Fprintf(&tree, "%s %s\x00", mode, name)
		for i := 0; i < len(hash); i += 2 {
			var b byte
			_, err := fmt.Sscanf(hash[i:i+2], "%02x", &b)
			require.NoError(u.t, err)
			tree.WriteByte(b)
		}
	}
	return u.object("tree", tree.Bytes())
}

func (u *upstream) object(kind string, data []byte) string {
	u.t.Helper()
	cmd := exec.Command("git", "hash-object", "-w", "--literally", "-t", kind, "--stdin")
	cmd.Dir, cmd.Stdin = u.dir, bytes.NewReader(data)
	out, err := cmd.Output()
	require.NoError(u.t, err)
	return strings.TrimSpace(string(out))
}

func (u *upstream) commitTree(tree string) string {
	u.t.Helper()
	commit := u.git("commit-tree", "-m", "hostile", tree)
	u.git("update-ref", "refs/heads/main", commit)
	return commit
}

// Whatever a tree says, nothing is written outside the directory, and nothing
// of a refused checkout stays.
func TestHostileTrees(t *testing.T) {
	for name, c := range map[string]struct {
		build func(u *upstream, blob string) string
		want  error
	}{
		"parent":   {func(u *upstream, b string) string { return u.rawTree("100644 " + b + " ..") }, source.ErrRefused},
		"slash":    {func(u *upstream, b string) string { return u.rawTree("100644 " + b + " ../../escaped") }, source.ErrRefused},
		"absolute": {func(u *upstream, b string) string { return u.rawTree("100644 " + b + " /tmp/escaped") }, source.ErrRefused},
		".git": {func(u *upstream, b string) string {
			return u.rawTree("40000 " + u.rawTree("100755 "+b+" hook") + " .git")
		}, source.ErrRefused},
		".GiT":          {func(u *upstream, b string) string { return u.rawTree("100644 " + b + " .GiT") }, source.ErrRefused},
		"git~1":         {func(u *upstream, b string) string { return u.rawTree("100644 " + b + " GIT~1") }, source.ErrRefused},
		".git for HFS+": {func(u *upstream, b string) string { return u.rawTree("100644 " + b + " .g\u200cit") }, source.ErrRefused},
		".git for NTFS": {func(u *upstream, b string) string { return u.rawTree("100644 " + b + " .git . .") }, source.ErrRefused},
		"link then through": {func(u *upstream, b string) string {
			link := u.object("blob", []byte("/tmp"))
			return u.rawTree("120000 "+link+" a", "40000 "+u.rawTree("100644 "+b+" escaped")+" a")
		}, os.ErrExist},
		"link then over": {func(u *upstream, b string) string {
			return u.rawTree("120000 "+u.object("blob", []byte("../outside"))+" a", "100644 "+b+" a")
		}, os.ErrExist},
		"link to nothing": {func(u *upstream, _ string) string { return u.rawTree("120000 " + u.object("blob", nil) + " a") }, source.ErrRefused},
		"tree bomb": {func(u *upstream, b string) string {
			tree := u.rawTree("100644 " + b + " f")
			for range 10 {
				var entries []string
				for i := range 10 {
					entries = append(entries, fmt.Sprintf("40000 %s d%d", tree, i))
				}
				tree = u.rawTree(entries...)
			}
			return tree
		}, source.ErrTooLarge},
		"big file": {func(u *upstream, _ string) string {
			return u.rawTree("100644 " + u.object("blob", make([]byte, 2<<20)) + " f")
		}, source.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			commit := u.commitTree(c.build(u, u.object("blob", []byte("evil"))))
			cache := openCache(t, func(c *source.Config) { c.MaxFileBytes, c.MaxFiles = 1<<20, 1000 })
			parent := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(parent, "outside"), []byte("safe"), 0o600))
			_, err := cache.Checkout(ctx, u.byFile(), commit, filepath.Join(parent, "work"))
			require.ErrorIs(t, err, c.want)
			entries, err := os.ReadDir(parent)
			require.NoError(t, err)
			require.Len(t, entries, 1)
			data, err := os.ReadFile(filepath.Join(parent, "outside"))
			require.NoError(t, err)
			require.Equal(t, "safe", string(data))
		})
	}
}

func TestSubmodulesAreLeftOut(t *testing.T) {
	u := newUpstream(t)
	blob := u.object("blob", []byte("x"))
	commit := u.commitTree(u.rawTree("100644 "+blob+" a", "160000 1111111111111111111111111111111111111111 lib"))
	dir := filepath.Join(t.TempDir(), "work")
	done, err := openCache(t, nil).Checkout(ctx, u.byFile(), commit, dir)
	require.NoError(t, err)
	require.Equal(t, []string{"lib"}, done.Submodules)
	require.DirExists(t, filepath.Join(dir, "lib"))
}

func TestCheckoutWantsAnEmptyDirectory(t *testing.T) {
	u := newUpstream(t)
	u.write("a", "1")
	commit := u.commit("one")
	dir := t.TempDir()
	cache := openCache(t, nil)
	_, err := cache.Checkout(ctx, u.byFile(), commit, dir)
	require.NoError(t, err)
	_, err = cache.Checkout(ctx, u.byFile(), commit, dir)
	require.ErrorContains(t, err, "not empty")
	require.FileExists(t, filepath.Join(dir, "a"))
}

func TestURLs(t *testing.T) {
	for _, c := range []struct{ url, wrong string }{
		{"", "no clone URL"},
		{"ext::sh -c touch% /tmp/x", "spaces"},
		{"ext::sh", "transport::address"},
		{"-oProxyCommand=x", "dash"},
		{"https://token@github.com/octo/shop", "credentials"},
		{"https://user:token@github.com/octo/shop", "credentials"},
		{"ssh://git:pw@github.com/octo/shop", "credentials"},
		{"ssh://-oProxyCommand=x/octo", "host"},
		{"ssh://git@github.com/'$(x)'", "quotes"},
		{"git://github.com/octo/shop", `"git" are not allowed`},
		{"http://github.com/octo/shop", `"http" are not allowed`},
		{"file:///etc", `"file" are not allowed`},
		{"/etc", "no scheme"},
		{"https:///octo", "host"},
		{"https://github.com", "path"},
		{"https://github.com/a/../b", "goes up"},
		{"https://github.com/a?b", "query"},
		{"https://github.com/" + strings.Repeat("a", 3000), "longer"},
	} {
		cache := openCache(t, func(c *source.Config) { c.Protocols = nil })
		err := cache.Fetch(ctx, event.Repository{FullName: "octo/shop", CloneURL: c.url}, "refs/heads/main", "")
		require.ErrorIs(t, err, source.ErrRefused, c.url)
		require.ErrorContains(t, err, c.wrong, c.url)
		require.NotContains(t, err.Error(), "token")
	}
	_, err := source.Open(source.Config{Dir: t.TempDir(), Protocols: []string{"ext"}})
	require.ErrorContains(t, err, "not supported")
}

func TestRefsThatAreNone(t *testing.T) {
	u := newUpstream(t)
	u.write("a", "1")
	u.commit("one")
	cache := openCache(t, nil)
	for _, ref := range []string{"main", "refs/heads/../../x", "--upload-pack=x", "refs/heads/a b", "refs/heads/*"} {
		require.Error(t, cache.Fetch(ctx, u.byFile(), ref, ""), ref)
	}
	require.ErrorIs(t, cache.Fetch(ctx, u.byFile(), "", "main"), source.ErrRefused)
	require.Error(t, cache.Fetch(ctx, u.byFile(), "", ""))
}

func TestCredentials(t *testing.T) {
	const token = "ghp_veryverysecret"
	u := newUpstream(t)
	u.write("a", "1")
	commit := u.commit("one")
	given := token
	repository := u.byHTTP(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, password, _ := r.BasicAuth(); password != token {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	dir := t.TempDir()
	cache := openCache(t, func(c *source.Config) {
		c.Dir = dir
		c.Credentials = func(context.Context, event.Repository) (source.Credentials, error) {
			return source.Credentials{Password: given}, nil
		}
	})
	require.NoError(t, cache.Fetch(ctx, repository, "refs/heads/main", commit))
	given = "wrong " + token
	err := cache.Fetch(ctx, repository, "refs/heads/main", "")
	require.ErrorIs(t, err, source.ErrAccess)
	require.NotContains(t, err.Error(), token)
	// Nothing of it is kept on disk.
	out, err := exec.Command("grep", "-r", token, dir).CombinedOutput()
	require.Error(t, err, "%s", out)
}

func TestLimitOfAFetch(t *testing.T) {
	u := newUpstream(t)
	random := make([]byte, 1<<20)
	z, err := os.Open("/dev/urandom")
	require.NoError(t, err)
	_, err = z.Read(random)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	u.write("big", string(random))
	commit := u.commit("one")
	dir := t.TempDir()
	cache := openCache(t, func(c *source.Config) { c.Dir, c.MaxPackBytes = dir, 100_000 })
	require.ErrorIs(t, cache.Fetch(ctx, u.byFile(), "refs/heads/main", commit), source.ErrTooLarge)
	cache = openCache(t, func(c *source.Config) { c.Dir = dir })
	require.NoError(t, cache.Fetch(ctx, u.byFile(), "refs/heads/main", commit), "what the failed fetch left does no harm")
}

// A server that hangs, or answers nonsense, ends in an error in time.
func TestServersThatMisbehave(t *testing.T) {
	u := newUpstream(t)
	u.write("a", "1")
	commit := u.commit("one")
	hung := make(chan struct{})
	t.Cleanup(func() { close(hung) })
	for name, handler := range map[string]http.HandlerFunc{
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hung:
			case <-r.Context().Done():
			}
		},
		"nonsense": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			_, _ = w.Write([]byte("001e# service=git-upload-pack\n0000zzzz"))
		},
		"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(make([]byte, 10<<20))
			_ = z.Close()
		},
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	} {
		t.Run(name, func(t *testing.T) {
			repository := u.byHTTP(func(http.Handler) http.Handler { return handler })
			cache := openCache(t, func(c *source.Config) { c.FetchTimeout = 300 * time.Millisecond })
			require.Error(t, cache.Fetch(ctx, repository, "refs/heads/main", commit))
		})
	}
}
