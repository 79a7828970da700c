package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// TestMain lets the test binary be the build that gets killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TIDEGATE_TEST_BUILD"); dir != "" {
		os.Exit(buildUntilKilled(dir))
	}
	if dir := os.Getenv("TIDEGATE_TEST_ELSEWHERE"); dir != "" {
		os.Exit(buildElsewhere(dir))
	}
	os.Exit(m.Run())
}

// buildUntilKilled builds the context in dir and says on standard output when
// the step that never ends has begun.
func buildUntilKilled(dir string) int {
	client := registry.New(registry.Options{Mirrors: map[string][]string{"docker.io": {os.Getenv("TIDEGATE_TEST_REGISTRY")}}})
	builder, err := NewLocal(filepath.Join(dir, "cache"), client, store.Options{})
	if err == nil {
		_, err = builder.Build(context.Background(), Request{Context: filepath.Join(dir, "context"), Secrets: map[string][]byte{"s": []byte(os.Getenv("TIDEGATE_TEST_SECRET"))}, Progress: func(e progress.Event) {
			if e.Kind == progress.Log {
				fmt.Println(e.Text)
			}
		}})
	}
	fmt.Println(err)
	return 1
}

func TestAKilledBuildHarmsNoLaterOne(t *testing.T) {
	b := newBench(t)
	b.busybox(nil)
	dir, err := os.MkdirTemp("", "tidegate-killed-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	writeFiles(t, filepath.Join(dir, "context"), map[string]string{
		"Dockerfile": "FROM busybox\nCOPY a /a\nRUN echo made > /made\nRUN --mount=type=cache,target=/c,sharing=locked [ -f /c/second ] || { touch /c/second; echo running; sleep 600; }\n", "a": "1",
	})
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "TIDEGATE_TEST_BUILD="+dir, "TIDEGATE_TEST_REGISTRY="+b.peer.host())
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	buffer := make([]byte, 100)
	n, err := out.Read(buffer)
	require.NoError(t, err)
	require.Equal(t, "running\n", string(buffer[:n]))
	require.NoError(t, child.Process.Kill())
	_ = child.Wait() // killed

	builder, err := NewLocal(filepath.Join(dir, "cache"), b.builder.Registry, store.Options{})
	require.NoError(t, err)
	b.builder = builder
	result := b.build(Request{Context: filepath.Join(dir, "context"), Push: true, Tags: []string{"test/killed"}})
	require.Equal(t, 2, result.Stats.Cached, "finished steps are not repeated")
	require.Equal(t, 1, result.Stats.Made)
	b.pulled(result)
	require.NoError(t, builder.Store.Evict(context.Background()))
	sessions, err := os.ReadDir(filepath.Join(dir, "cache", "build", "sessions"))
	require.NoError(t, err)
	require.Empty(t, sessions, "nothing is left of the killed build")
}

func TestBuildsAtTheSameTimeShareACache(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{"Dockerfile": "FROM scratch AS a\nCOPY x /\nFROM scratch AS b\nCOPY y /\nFROM scratch\nCOPY x y /z/\n", "x": "1", "y": "2"})
	var group sync.WaitGroup
	digests := make([]string, 8)
	for i := range digests {
		group.Go(func() {
			if result, err := b.builder.Build(context.Background(), request); err == nil {
				digests[i] = result.Digest.String()
			} else {
				digests[i] = err.Error()
			}
		})
	}
	group.Wait()
	for _, digest := range digests {
		require.Equal(t, digests[0], digest)
		require.True(t, strings.HasPrefix(digest, "sha256:"), digest)
	}
}

func TestCancellationEndsACommandAndTheBuild(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{"Dockerfile": "FROM busybox\nRUN echo begun; sleep 600 && echo ended\n"})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var ended atomic.Bool
	request.Progress = func(e progress.Event) {
		if e.Kind == progress.Log {
			if strings.Contains(e.Text, "ended") {
				ended.Store(true)
			}
			cancel()
		}
	}
	_, err := b.builder.Build(ctx, request)
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, ended.Load(), "the command ran to its end")
}

func TestStagesRunSideBySide(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	// Each of the two stages ends only when it has seen the other run.
	meet := func(me, other string) string {
		return "RUN --mount=type=cache,id=meet,target=/meet touch /meet/" + me + "; until [ -e /meet/" + other + " ]; do sleep 0.05; done; echo " + me + " > /" + me + "\n"
	}
	request := b.request(map[string]string{
		"Dockerfile": "FROM busybox AS a\n" + meet("a", "b") + "FROM busybox AS b\n" + meet("b", "a") + "FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
	})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	result, err := b.builder.Build(ctx, request)
	require.NoError(t, err)
	require.Equal(t, []string{"a 0644 0:0 a\n", "b 0644 0:0 b\n"}, b.tree(result))
}

func TestMountsOfARun(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{
		"Dockerfile": `FROM busybox AS tool
RUN mkdir /share && echo tool > /share/t
FROM busybox
RUN --mount=target=/ctx --mount=from=tool,source=/share,target=/share --mount=type=tmpfs,target=/scratch \
    cat /ctx/a /share/t > /scratch/x && cp /scratch/x /out && [ ! -e /ctx/hidden ] && ! touch /ctx/new
RUN --mount=source=a,target=/one cat /one >> /out
RUN <<END
#!/bin/busybox sh
echo script >> /out
END
USER app
RUN id -u; id -g
`, "a": "A\n", "hidden": "x", ".dockerignore": "hidden",
	})
	result := b.build(request)
	require.Equal(t, "123\n456", strings.TrimSpace(strings.ReplaceAll(b.logs(), "touch: /ctx/new: Read-only file system\n", "")))
	files := b.ownLayers(result, 1)
	require.Equal(t, []string{"out 0644 0:0 A\ntool\nA\nscript\n"}, files)
	b.events = nil
	again := b.build(request)
	require.Equal(t, 0, again.Stats.Made, "a step that changed nothing is cached too")
	require.Empty(t, b.logs())
	writeFiles(t, request.Context, map[string]string{"a": "changed\n"})
	require.Positive(t, b.build(request).Stats.Made, "a bind mount's files are in the key")
}
