package image

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/stages/image/cache"
)

// runStage builds a stage as a trusted run or a fork's and gives its output.
func (b *bench) runStage(trust event.Trust, files map[string]string, spec pipeline.BuildSpec) string {
	b.Helper()
	attempt, out := b.attempt(files, spec)
	attempt.Event.Trust = trust
	if trust == event.Fork {
		attempt.Event.PullRequest = &event.PullRequestInfo{Number: 7}
	}
	_, err := (&Kind{Builder: b.builder}).Run(context.Background(), attempt)
	require.NoError(b, err)
	return out.String()
}

func TestAForkReadsItsRepositorysCacheAndWritesNone(t *testing.T) {
	b := newBench(t)
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"}
	spec := pipeline.BuildSpec{Push: "shop", Cache: &pipeline.BuildCacheSpec{From: []string{"shop-cache"}, To: []string{"shop-cache"}}}
	b.runStage(event.Own, files, spec)
	require.NotEmpty(t, b.peer.asked("PUT", "/v2/shop-cache/manifests/cache-"))

	b.freshMachine(false)
	require.Contains(t, b.runStage(event.Fork, files, spec), "CACHED", "a fork may use what its repository built")
	require.Empty(t, b.peer.asked("PUT"), "a fork wrote")
	require.Empty(t, b.peer.asked("POST"), "a fork wrote")
	require.Empty(t, b.peer.asked("PATCH"), "a fork wrote")

	// Also from the store of the machine itself.
	b.freshMachine(false)
	b.runStage(event.Own, files, pipeline.BuildSpec{Push: "shop"})
	require.Contains(t, b.runStage(event.Fork, files, pipeline.BuildSpec{Push: "shop"}), "CACHED")
}

func TestATrustedBuildNeverReadsAForksCache(t *testing.T) {
	b := newBench(t)
	attempt, _ := b.attempt(map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"}, pipeline.BuildSpec{Push: "shop"})
	// A cache of a fork has got under the very name that is read.
	dir := t.TempDir()
	_, err := b.builder.Build(context.Background(), Request{
		Context: attempt.Workspace, Scope: forkScope + "github octo/shop 7", CacheTo: specs(t, cache.ParseTo, "type=local,mode=max,dest="+dir),
	})
	require.NoError(t, err)
	for _, reader := range []string{"own github octo/shop", forkScope + "github octo/shop 8"} {
		request := requestFor(t, attempt)
		request.Scope, request.Push = reader, false
		request.CacheFrom = specs(t, cache.ParseFrom, "type=local,src="+dir)
		result, err := b.newBuilder(t.TempDir()).Build(context.Background(), request)
		require.NoError(t, err)
		require.Equal(t, 1, result.Stats.Made, "a fork's cache fed %s", reader)
	}
}

func requestFor(t testing.TB, attempt pipeline.Attempt) Request {
	r, err := requestOf(attempt)
	require.NoError(t, err)
	return r
}

func TestAForksBuildWritesNoRegistryCacheHoweverItIsAsked(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"})
	request.Scope, request.Isolated, request.Push = forkScope+"github octo/shop 7", true, false
	request.CacheTo = specs(t, cache.ParseTo, "shop-cache")
	_, err := b.builder.Build(context.Background(), request)
	require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err))
	require.Empty(t, b.peer.asked("PUT"))
}

func TestStepsThatSawSecretsAreNotForForks(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	files := map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=TOKEN,env=TOKEN,required=false echo \"$TOKEN\" > /made\nRUN cut -c1-9 /made\n"}
	spec := pipeline.BuildSpec{Push: "shop", Cache: &pipeline.BuildCacheSpec{From: []string{"shop-cache"}, To: []string{"shop-cache"}}}
	attempt, out := b.attempt(files, spec)
	attempt.Env = map[string]string{"TOKEN": "canary-0815"}
	kind := &Kind{Builder: b.builder}
	_, err := kind.Run(context.Background(), attempt)
	require.NoError(t, err)
	require.Contains(t, out.String(), "canary-08", "the trusted build made it")

	check := func() {
		attempt, _ := b.attempt(files, spec)
		attempt.Event.Trust = event.Fork
		var seen bytes.Buffer
		attempt.Stdout = &seen
		_, err = (&Kind{Builder: b.builder}).Run(context.Background(), attempt)
		require.NoError(t, err)
		require.NotContains(t, seen.String(), "canary-08", "a fork was given what a secret made")
		require.NotContains(t, seen.String(), "CACHED")
	}
	check() // from this machine's store
	b.freshMachine(true)
	check() // from the registry's cache
}

func TestCachesOfRepositoriesAreApartByName(t *testing.T) {
	e := event.Event{Trust: event.Own, Forge: "github", Repository: event.Repository{FullName: "octo/shop"}}
	other := e
	other.Repository.FullName = "octo/other"
	fork := e
	fork.Trust = event.Fork
	require.NotEqual(t, cacheName("c", e), cacheName("c", other))
	require.Equal(t, cacheName("c", e), cacheName("c", fork))
	require.True(t, strings.HasPrefix(cacheName("c", e), "c:cache-"))
	require.Equal(t, "c:main", cacheName("c:main", e))
}
