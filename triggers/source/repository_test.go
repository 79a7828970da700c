package source_test

import (
	"context"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/source"
)

// upstream is a real repository, made and changed by the real git.
type upstream struct {
	t   testing.TB
	dir string
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{t: t, dir: t.TempDir()}
	u.git("init", "-q", "-b", "main")
	u.git("config", "uploadpack.allowReachableSHA1InWant", "true")
	return u
}

func (u *upstream) git(args ...string) string {
	u.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = u.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	require.NoError(u.t, err, "git %v: %s", args, out)
	return strings.TrimSpace(string(out))
}

func (u *upstream) write(name, content string) {
	u.t.Helper()
	path := filepath.Join(u.dir, name)
	require.NoError(u.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(u.t, os.WriteFile(path, []byte(content), 0o644))
}

func (u *upstream) commit(message string) string {
	u.t.Helper()
	u.git("add", "-A")
	u.git("commit", "-q", "--allow-empty", "-m", message)
	return u.git("rev-parse", "HEAD")
}

func (u *upstream) byFile() event.Repository {
	return event.Repository{FullName: "octo/shop", CloneURL: "file://" + u.dir}
}

// byHTTP serves the repository by git's own smart HTTP server.
func (u *upstream) byHTTP(wrap func(http.Handler) http.Handler) event.Repository {
	u.t.Helper()
	exe, err := exec.LookPath("git")
	require.NoError(u.t, err)
	var handler http.Handler = &cgi.Handler{Path: exe, Args: []string{"http-backend"}, Env: []string{
		"GIT_PROJECT_ROOT=" + filepath.Dir(u.dir), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
	}}
	if wrap != nil {
		handler = wrap(handler)
	}
	server := httptest.NewServer(handler)
	u.t.Cleanup(server.Close)
	return event.Repository{FullName: "octo/shop", CloneURL: server.URL + "/" + filepath.Base(u.dir) + "/.git"}
}

func openCache(t testing.TB, change func(*source.Config)) *source.Cache {
	t.Helper()
	config := source.Config{Dir: t.TempDir(), Protocols: []string{source.File, source.HTTP}}
	if change != nil {
		change(&config)
	}
	cache, err := source.Open(config)
	require.NoError(t, err)
	return cache
}

var ctx = context.Background()
