package image

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	images "github.com/tidegate-ci/tidegate/internal/registry"
	"github.com/tidegate-ci/tidegate/stages/image/cache"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// freshMachine is a builder with an empty store.
func (b *bench) freshMachine(runc bool) {
	b.builder = b.newBuilder(b.TempDir())
	if runc {
		b.withRunc()
	}
	b.events = nil
	b.peer.forget()
}

const cachedDockerfile = `FROM busybox AS build
WORKDIR /src
COPY main.txt .
RUN cat main.txt > out; date +%N > when; head -c 200000 /dev/urandom > big
FROM scratch
COPY --from=build /src/out /src/when /app/
`

// realPeer is a registry in which repositories do not share blobs by themselves.
func realPeer(t testing.TB) *peer {
	kept, err := images.New(images.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, kept.Close()) })
	return peerOf(t, kept)
}

func specs(t testing.TB, parse func(string) (cache.Spec, error), texts ...string) []cache.Spec {
	var all []cache.Spec
	for _, text := range texts {
		spec, err := parse(text)
		require.NoError(t, err)
		all = append(all, spec)
	}
	return all
}

func (b *bench) fetchedBlobs() []string {
	return slices.DeleteFunc(b.peer.asked("GET ", "/blobs/"), func(r string) bool { return !strings.Contains(r, "sha256:") })
}

func TestAFreshMachineBuildsNothingThatTheRegistryCacheHas(t *testing.T) {
	b := newBench(t)
	b.peer = realPeer(t)
	b.builder = b.newBuilder(t.TempDir())
	b.withRunc().busybox(nil)
	request := b.request(map[string]string{"Dockerfile": cachedDockerfile, "main.txt": "content\n"})
	request.CacheTo = specs(t, cache.ParseTo, "type=registry,ref=shop/cache:main,mode=max")
	first := b.build(request)

	b.freshMachine(true)
	request.CacheTo = nil
	request.CacheFrom = specs(t, cache.ParseFrom, "type=registry,ref=shop/cache:main")
	again := b.build(request)
	require.Equal(t, first.Digest, again.Digest)
	require.Equal(t, 0, again.Stats.Made, "a step was made again")
	require.Len(t, b.fetchedBlobs(), 2, "the document and the base's configuration are all that is fetched: %v", b.fetchedBlobs())
	require.Empty(t, b.peer.asked("POST"), "nothing goes up that is there")

	// Another repository on the same registry: mounted, still not fetched.
	b.freshMachine(true)
	request.Tags = []string{"other/app:1"}
	again = b.build(request)
	require.Equal(t, first.Digest, again.Digest)
	require.Equal(t, int64(1), again.Stats.BlobsMounted)
	require.Equal(t, int64(1), again.Stats.BlobsUploaded, "the configuration")
	require.Len(t, b.fetchedBlobs(), 2)
	b.pulled(again)
}

func TestWhatChangedIsMadeAboveTheRegistryCache(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	files := map[string]string{"Dockerfile": "FROM busybox\nRUN echo one > /one\nCOPY a /a\nRUN cat /one /a > /both\n", "a": "1"}
	request := b.request(files)
	request.CacheTo = specs(t, cache.ParseTo, "type=registry,ref=shop/cache:main,mode=max")
	b.build(request)
	b.freshMachine(true)
	writeFiles(t, request.Context, map[string]string{"a": "2"})
	request.CacheFrom = specs(t, cache.ParseFrom, "shop/cache:main")
	result := b.build(request)
	require.Equal(t, 1, result.Stats.Cached)
	require.Equal(t, 2, result.Stats.Made)
	require.Contains(t, b.tree(result), "both 0644 0:0 one\n2")
}

func TestModeMinKeepsTheImagesLayersAndAllNames(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{"Dockerfile": cachedDockerfile, "main.txt": "content\n"})
	request.CacheTo = specs(t, cache.ParseTo, "type=registry,ref=shop/cache:min,mode=min")
	first := b.build(request)
	require.Len(t, b.peer.asked("PUT", "/shop/cache/manifests/min"), 1)

	b.freshMachine(true)
	request.CacheFrom, request.CacheTo = specs(t, cache.ParseFrom, "type=registry,ref=shop/cache:min"), nil
	again := b.build(request)
	require.Equal(t, first.Digest, again.Digest)
	require.Equal(t, 0, again.Stats.Made)

	// When something needs a layer that is only known by name, it is made again.
	b.freshMachine(true)
	writeFiles(t, request.Context, map[string]string{"Dockerfile": cachedDockerfile + "COPY --from=build /src/big /big\n"})
	third := b.build(request)
	require.Equal(t, 4, third.Stats.Made+third.Stats.Cached-1)
	require.Greater(t, third.Stats.Made, 1)
	b.pulled(third)
	require.True(t, slices.ContainsFunc(b.events, func(e progress.Event) bool { return e.Kind == "again" }))
}

func TestACacheWhoseLayersAreGoneIsBuiltAgain(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{"Dockerfile": cachedDockerfile, "main.txt": "content\n"})
	request.CacheTo = specs(t, cache.ParseTo, "type=registry,ref=shop/cache:main,mode=max")
	b.build(request)
	b.freshMachine(true)
	request.CacheFrom, request.CacheTo = specs(t, cache.ParseFrom, "shop/cache:main"), nil
	writeFiles(t, request.Context, map[string]string{"Dockerfile": cachedDockerfile + "COPY --from=build /src/big /big\n"})
	b.peer.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		// Small blobs are documents: the layers have been collected.
		if strings.HasPrefix(r.URL.Path, "/v2/shop/cache/blobs/") && r.Method == http.MethodGet && len(b.peer.asked("GET", "/shop/cache/blobs/")) > 1 {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	}
	result := b.build(request)
	require.Contains(t, strings.Join(b.tree(result), "\n"), "app/out 0644 0:0 content")
}

func TestACacheThatIsNotThereOrBrokenIsNoFailure(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"})
	image := b.build(request)
	b.freshMachine(false)
	b.builder.Registry = registry.New(registry.Options{Default: b.peer.host(), Retry: registry.Retry{Within: time.Second}})
	request.CacheFrom = specs(t, cache.ParseFrom, "shop/none:1", image.Pushed[0], "type=registry,ref=127.0.0.1:1/x/y")
	b.build(request)
	var warnings []string
	for _, e := range b.events {
		if e.Kind == "warning" {
			warnings = append(warnings, e.Text)
		}
	}
	require.Len(t, warnings, 2, "a cache that is not there yet needs no warning")
	require.Contains(t, strings.Join(warnings, "\n"), "there is no build cache in it")

	request.CacheTo = specs(t, cache.ParseTo, "type=registry,ref=127.0.0.1:1/x/y")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, err := b.builder.Build(ctx, request)
	require.ErrorContains(t, err, "write cache 127.0.0.1:1/x/y")
	request.CacheTo[0].IgnoreError = true
	b.build(request)
}

func TestInlineCache(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{"Dockerfile": cachedDockerfile, "main.txt": "content\n"})
	request.Tags = []string{"shop/app:1"}
	request.CacheTo = specs(t, cache.ParseTo, "type=inline")
	first := b.build(request)
	b.pulled(first)
	b.freshMachine(true)
	request.CacheFrom = specs(t, cache.ParseFrom, "shop/app:1")
	again := b.build(request)
	require.Equal(t, 0, again.Stats.Made)
	require.Equal(t, first.Digest, again.Digest)
}
