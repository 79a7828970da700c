package image

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/image/emulation"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
)

func platformsOf(t testing.TB, texts ...string) []ocispec.Platform {
	all, err := plan.ParsePlatforms(texts)
	require.NoError(t, err)
	return all
}

// pulledIndex is the index as the registry has it, validated with all its images.
func (b *bench) pulledIndex(result *Result) v1.ImageIndex {
	b.Helper()
	require.NotEmpty(b, result.Pushed)
	ref, err := name.ParseReference(result.Pushed[0])
	require.NoError(b, err)
	index, err := remote.Index(ref)
	require.NoError(b, err)
	b.indexConforms(index)
	return index
}

// steps are the ids of the events of a kind.
func (b *bench) steps(kind progress.Kind) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, e := range b.events {
		if e.Kind == kind && e.Step != "" {
			all = append(all, e.Step)
		}
	}
	slices.Sort(all)
	return all
}

func TestSeveralPlatformsMakeAnIndex(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{
		"Dockerfile": `FROM --platform=$BUILDPLATFORM scratch AS tools
COPY tool /
FROM --platform=$BUILDPLATFORM scratch AS build
ARG TARGETARCH
ARG TARGETVARIANT
COPY --from=tools /tool /tool
COPY tool /$TARGETARCH$TARGETVARIANT
FROM scratch
ARG TARGETPLATFORM
COPY app /
LABEL for=$TARGETPLATFORM
`, "tool": "t", "app": "a",
	})
	request.Platforms = platformsOf(t, "linux/amd64,linux/arm64", "linux/arm/v7")
	result := b.build(request)
	require.NotNil(t, result.Index)
	require.Len(t, result.Images, 3)
	manifest, err := b.pulledIndex(result).IndexManifest()
	require.NoError(t, err)
	require.Equal(t, types.OCIImageIndex, manifest.MediaType)
	var got []string
	for i, d := range manifest.Manifests {
		got = append(got, d.Platform.String())
		require.Equal(t, result.Images[i].Digest, d.Digest)
		var config ocispec.Image
		require.NoError(t, json.Unmarshal(result.Images[i].Config, &config))
		require.Equal(t, plan.FormatPlatform(result.Images[i].Platform), plan.FormatPlatform(config.Platform))
		require.Equal(t, plan.FormatPlatform(config.Platform), config.Config.Labels["for"])
	}
	require.Equal(t, []string{"linux/amd64", "linux/arm64", "linux/arm/v7"}, got)
	require.Equal(t, "sha256:"+result.Digest.Hex, result.Descriptor.Digest.String())

	b.peer.forget()
	again := b.build(request)
	require.Equal(t, result.Digest, again.Digest)
	require.Empty(t, b.peer.asked("PUT"), "nothing changed: nothing goes up")
	require.Empty(t, b.peer.asked("HEAD", "/blobs/"), "nothing changed: nothing is asked about")
}

func TestPlatformsShareWhatIsTheSame(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{
		"Dockerfile": `FROM --platform=$BUILDPLATFORM busybox AS tools
RUN echo tools-ran > /tools && echo tools-ran
FROM --platform=$BUILDPLATFORM busybox AS build
RUN echo common-ran > /common && echo common-ran
ARG TARGETARCH
COPY --from=tools /tools /tools
RUN echo for-$TARGETARCH > /out && echo for-$TARGETARCH
FROM scratch
COPY --from=build /out /out
`,
	})
	host := HostPlatform()
	request.Platforms = platformsOf(t, "linux/amd64", "linux/arm64", "linux/s390x")
	request.NoCache = true
	result := b.build(request)
	lines := strings.Split(b.logs(), "\n")
	slices.Sort(lines)
	require.Equal(t, []string{"common-ran", "for-amd64", "for-arm64", "for-s390x", "tools-ran"}, lines,
		"a stage that is the same for all, and steps before the first difference, run once, also without cache")
	own := plan.FormatPlatform(host)
	started := b.steps(progress.Start)
	require.Contains(t, started, own+" tools 1/1")
	require.Contains(t, started, own+"->linux/s390x build 4/4")
	require.Contains(t, started, "linux/arm64 stage-2 1/1")
	layers, err := b.pulledIndex(result).Image(result.Images[2].Digest)
	require.NoError(t, err)
	all, err := layers.Layers()
	require.NoError(t, err)
	require.Equal(t, []string{"out 0644 0:0 for-s390x\n"}, b.files(all))
}

func TestForeignCommandsAreRefusedBeforeAnythingIsMade(t *testing.T) {
	b := newBench(t)
	b.builder.Machine = func() (emulation.Machine, error) {
		return emulation.Machine{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}, nil
	}
	request := b.request(map[string]string{
		"Dockerfile": "FROM scratch\nCOPY a /\nRUN [\"/a\"]\n", "a": "1",
	})
	request.Platforms = platformsOf(t, "linux/amd64", "linux/arm64", "linux/arm/v7")
	_, err := b.builder.Build(context.Background(), request)
	require.Error(t, err)
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
	for _, want := range []string{"Dockerfile:3:1", "linux/arm/v7", "qemu-user-static", "--platform=$BUILDPLATFORM", ">    3 | RUN"} {
		require.ErrorContains(t, err, want)
	}
	require.Empty(t, b.steps(progress.Done), "nothing is made first")
}

func TestAFailureNamesThePlatform(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{
		"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /\n", "amd64": "1",
	})
	request.Platforms = platformsOf(t, "linux/amd64", "linux/arm64")
	_, err := b.builder.Build(context.Background(), request)
	require.ErrorContains(t, err, "linux/arm64 stage-0: ")
	require.ErrorContains(t, err, "Dockerfile:3:1")
}

func TestTheBaseOfThePlatformIsTaken(t *testing.T) {
	b := newBench(t)
	var adds []mutate.IndexAddendum
	for _, platform := range []v1.Platform{
		{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm", Variant: "v6"}, {OS: "linux", Architecture: "arm", Variant: "v7"},
		{OS: "unknown", Architecture: "unknown"},
	} {
		image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
			OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant, RootFS: v1.RootFS{Type: "layers"},
			Config: v1.Config{Labels: map[string]string{"base": platform.String()}},
		})
		require.NoError(t, err)
		adds = append(adds, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	ref, err := name.ParseReference(b.peer.host() + "/library/base:latest")
	require.NoError(t, err)
	require.NoError(t, remote.WriteIndex(ref, mutate.AppendManifests(empty.Index, adds...)))
	for _, c := range []struct{ platform, base, failure string }{
		{"linux/amd64", "linux/amd64", ""},
		{"linux/amd64/v3", "linux/amd64", ""},
		{"linux/arm/v6", "linux/arm/v6", ""},
		{"linux/arm", "linux/arm/v7", ""},
		{"linux/arm/v8", "linux/arm/v7", ""},
		{"linux/s390x", "", "has no linux/s390x: it has linux/amd64, linux/arm/v6, linux/arm/v7"},
	} {
		request := b.request(map[string]string{"Dockerfile": "FROM base\nCOPY a /\n", "a": "1"})
		request.Platforms = platformsOf(t, c.platform)
		result, err := b.builder.Build(context.Background(), request)
		if c.failure != "" {
			require.ErrorContains(t, err, c.failure)
			continue
		}
		require.NoError(t, err)
		config, err := b.pulled(result).ConfigFile()
		require.NoError(t, err)
		require.Equal(t, c.base, config.Config.Labels["base"])
	}
}

func TestAnIndexInALayout(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"})
	request.Push, request.Platforms = false, platformsOf(t, "linux/amd64", "linux/arm64")
	result := b.build(request)
	dir := filepath.Join(t.TempDir(), "layout")
	ref, err := name.ParseReference("test/app:v1")
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, result.WriteLayout(context.Background(), dir, []name.Reference{ref}))
	}
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	require.NoError(t, err)
	var index v1.IndexManifest
	require.NoError(t, json.Unmarshal(data, &index))
	require.Len(t, index.Manifests, 1, "the same name is replaced")
	require.Equal(t, result.Digest, index.Manifests[0].Digest)
	require.Equal(t, "docker.io/test/app:v1", index.Manifests[0].Annotations[annotationContainerdName])
}
