package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/internal/baseimage"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/stages/sandbox/oci"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

// remoteImages pulls from a registry, as the product does.
type remoteImages struct{}

func (remoteImages) Image(ctx context.Context, reference string) (v1.Image, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, err
	}
	return remote.Image(ref, remote.WithContext(ctx))
}

// newKind returns a Kind with a real runtime, and an image on a real registry.
func newKind(t *testing.T, limits oci.Limits) (*Kind, string) {
	t.Helper()
	ctx := context.Background()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	image, err := baseimage.Busybox(ctx, t.TempDir())
	require.NoError(t, err)
	reference := strings.TrimPrefix(server.URL, "http://") + "/busybox:latest"
	tag, err := name.ParseReference(reference)
	require.NoError(t, err)
	require.NoError(t, remote.Write(tag, image))

	r, err := oci.Find(ctx, oci.Options{Dir: t.TempDir(), Grace: 200 * time.Millisecond})
	require.NoError(t, err)
	store, err := rootfs.Open(t.TempDir())
	require.NoError(t, err)
	return New(Options{
		CacheDir: t.TempDir(), HostCaches: true, Runtime: r, Store: store, Images: remoteImages{}, Limits: limits,
		HostEnv: map[string]string{"PATH": os.Getenv("PATH")},
	}), reference
}

func attempt(t *testing.T, spec pipeline.RunSpec, out *bytes.Buffer) pipeline.Attempt {
	t.Helper()
	return pipeline.Attempt{
		RunID: "r1", Number: 1,
		Event:     event.Event{Forge: "test", Trust: event.Own, Repository: event.Repository{FullName: "octo/shop"}},
		Stage:     pipeline.PlannedStage{ID: "unit", Kind: pipeline.KindRun, Run: &spec, Env: map[string]string{"FROM_STAGE": "$(touch /tmp/no); `no`"}},
		Workspace: t.TempDir(), Env: map[string]string{"TIDEGATE_BRANCH": "main; rm -rf /"},
		Stdout: out, Stderr: out, Progress: func(string) {},
	}
}

// both runs a test on the host and over an image.
func both(t *testing.T, test func(t *testing.T, k *Kind, image string)) {
	k, image := newKind(t, oci.Limits{})
	t.Run("host", func(t *testing.T) { test(t, k, "") })
	t.Run("image", func(t *testing.T) { test(t, k, image) })
}

func TestScriptSeesWorkspaceEnvironmentAndHandsOnOutputs(t *testing.T) {
	both(t, func(t *testing.T, k *Kind, image string) {
		var out bytes.Buffer
		a := attempt(t, pipeline.RunSpec{Image: image, WorkingDirectory: "sub", Command: `
echo "$FROM_STAGE|$TIDEGATE_BRANCH"
test -d "$HOME"
echo made > made.txt
echo "version=1.2" >> $TIDEGATE_OUTPUT
`}, &out)
		require.NoError(t, os.Mkdir(filepath.Join(a.Workspace, "sub"), 0o755))
		outputs, err := k.Run(context.Background(), a)
		require.NoError(t, err, out.String())
		require.Equal(t, "$(touch /tmp/no); `no`|main; rm -rf /\n", out.String())
		require.Equal(t, pipeline.Outputs{"version": "1.2"}, outputs)
		require.FileExists(t, filepath.Join(a.Workspace, "sub/made.txt"))
	})
}

func TestFailuresHaveTheirCause(t *testing.T) {
	k, image := newKind(t, oci.Limits{})
	unreachable := httptest.NewServer(http.NotFoundHandler())
	unreachable.Close()
	for _, test := range []struct {
		name    string
		spec    pipeline.RunSpec
		trust   event.Trust
		cause   pipeline.Cause
		message string
	}{
		{"status", pipeline.RunSpec{Command: "exit 3"}, event.Own, pipeline.CauseFailed, "exit status 3"},
		{"status in a container", pipeline.RunSpec{Image: image, Command: "exit 3"}, event.Own, pipeline.CauseFailed, "exit status 3"},
		{"stops at the first failure", pipeline.RunSpec{Image: image, Command: "false\ntrue"}, event.Own, pipeline.CauseFailed, "exit status 1"},
		{"command not found", pipeline.RunSpec{Image: image, Command: "no-such"}, event.Own, pipeline.CauseFailed, "not found"},
		{"shell not found", pipeline.RunSpec{Image: image, Shell: []string{"bash", "-c"}, Command: "true"}, event.Own, pipeline.CauseFailed, "has no bash"},
		{"image not found", pipeline.RunSpec{Image: strings.Replace(image, "busybox", "missing", 1), Command: "true"}, event.Own, pipeline.CauseInvalid, "does not exist"},
		{"bad image name", pipeline.RunSpec{Image: "UPPER CASE", Command: "true"}, event.Own, pipeline.CauseInvalid, "UPPER CASE"},
		{"registry down", pipeline.RunSpec{Image: strings.TrimPrefix(unreachable.URL, "http://") + "/x", Command: "true"}, event.Own, pipeline.CauseInfrastructure, "registry can be reached"},
		{"fork on the host", pipeline.RunSpec{Command: "true"}, event.Fork, pipeline.CauseRefused, "give the stage an image"},
		{"fork in a container", pipeline.RunSpec{Image: image, Command: "exit 4"}, event.Fork, pipeline.CauseFailed, "exit status 4"},
		{"fork on the host's network", pipeline.RunSpec{Image: image, Network: "host", Command: "true"}, event.Fork, pipeline.CauseRefused, "network"},
		{"directory outside", pipeline.RunSpec{Command: "true", WorkingDirectory: "../x"}, event.Own, pipeline.CauseInvalid, "inside the checkout"},
		{"directory missing", pipeline.RunSpec{Command: "true", WorkingDirectory: "x"}, event.Own, pipeline.CauseFailed, "no such directory"},
		{"bad output", pipeline.RunSpec{Image: image, Command: "echo nonsense > $TIDEGATE_OUTPUT"}, event.Own, pipeline.CauseFailed, "line 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			a := attempt(t, test.spec, &out)
			a.Event.Trust = test.trust
			_, err := k.Run(context.Background(), a)
			require.Equal(t, test.cause, pipeline.CauseOf(err), "%v", err)
			require.ErrorContains(t, err, test.message)
		})
	}
	t.Run("no runtime", func(t *testing.T) {
		_, err := New(Options{NoContainers: errors.New("install runc")}).Run(context.Background(), attempt(t, pipeline.RunSpec{Image: image, Command: "true"}, &bytes.Buffer{}))
		require.Equal(t, pipeline.CauseInfrastructure, pipeline.CauseOf(err))
		require.ErrorContains(t, err, "install runc")
	})
}

func TestCancellationAndDeadlineAreTold(t *testing.T) {
	both(t, func(t *testing.T, k *Kind, image string) {
		ctx, cancel := context.WithCancelCause(context.Background())
		a := attempt(t, pipeline.RunSpec{Image: image, Command: "echo started; sleep 1000"}, &bytes.Buffer{})
		a.Stdout = writerFunc(func([]byte) { cancel(errors.New("superseded by a newer commit")) })
		_, err := k.Run(ctx, a)
		require.Equal(t, pipeline.CauseCancelled, pipeline.CauseOf(err))
		require.ErrorContains(t, err, "newer commit")

		ctx, stop := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer stop()
		_, err = k.Run(ctx, attempt(t, pipeline.RunSpec{Image: image, Command: "sleep 1000"}, &bytes.Buffer{}))
		require.Equal(t, pipeline.CauseTimeout, pipeline.CauseOf(err))
	})
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func TestCacheIsKeptForTheSameTrustOnly(t *testing.T) {
	both(t, func(t *testing.T, k *Kind, image string) {
		read := func(e event.Event, write string) string {
			var out bytes.Buffer
			a := attempt(t, pipeline.RunSpec{Image: image, Cache: []string{"~/.cache/tool"}, Command: fmt.Sprintf(
				`cat ~/.cache/tool/file 2>/dev/null || echo empty; echo %s > ~/.cache/tool/file`, write)}, &out)
			a.Event = e
			_, err := k.Run(context.Background(), a)
			require.NoError(t, err, out.String())
			return strings.TrimSpace(out.String())
		}
		own := attempt(t, pipeline.RunSpec{}, nil).Event
		require.Equal(t, "empty", read(own, "first"))
		require.Equal(t, "first", read(own, "second"))
		if image == "" {
			return // a fork does not get here
		}
		fork := own
		fork.Trust, fork.PullRequest = event.Fork, &event.PullRequestInfo{Number: 7}
		require.Equal(t, "empty", read(fork, "poison"))
		other := fork
		other.PullRequest = &event.PullRequestInfo{Number: 8}
		require.Equal(t, "empty", read(other, "other"))
		require.Equal(t, "poison", read(fork, "again"))
		require.Equal(t, "second", read(own, "third"))
	})
}

func TestCacheSlotsAreExclusive(t *testing.T) {
	c := &caches{dir: t.TempDir()}
	seen := map[string]bool{}
	var all []*heldCache
	for range maxSlots + 2 {
		held, err := c.take("key")
		require.NoError(t, err)
		require.False(t, seen[held.dir])
		seen[held.dir] = true
		all = append(all, held)
	}
	for _, held := range all {
		held.release()
	}
	again, err := c.take("key")
	require.NoError(t, err)
	require.Equal(t, all[0].dir, again.dir)
	again.release()
	require.NoDirExists(t, all[maxSlots].dir)
}

func TestPruneCachesKeepsTheBound(t *testing.T) {
	k := New(Options{CacheDir: t.TempDir()})
	old, err := k.caches.take("old")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(old.dir, "f"), make([]byte, 1000), 0o600))
	old.release()
	past := time.Now().Add(-time.Hour)
	require.NoError(t, os.Chtimes(old.dir+".lock", past, past))
	busy, err := k.caches.take("busy")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(busy.dir, "f"), make([]byte, 1000), 0o600))
	left, err := k.PruneCaches(context.Background(), 10)
	require.NoError(t, err)
	require.Equal(t, int64(1000), left)
	require.NoDirExists(t, old.dir)
	require.DirExists(t, busy.dir)
	busy.release()
}

func TestOutOfMemoryIsTold(t *testing.T) {
	k, image := newKind(t, oci.Limits{MemoryBytes: 32 << 20})
	var out bytes.Buffer
	_, err := k.Run(context.Background(), attempt(t, pipeline.RunSpec{Image: image, Command: "head -c 200000000 /dev/zero | tail -n 1 >/dev/null"}, &out))
	require.Equal(t, pipeline.CauseFailed, pipeline.CauseOf(err))
	require.ErrorContains(t, err, "out of memory")
	require.ErrorContains(t, err, "32 MiB")
}
