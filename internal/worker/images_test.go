package worker

import (
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// What the server's settings say of images reaches the builds of its pipelines.
func TestBuildSettings(t *testing.T) {
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(images.Close)
	host := strings.TrimPrefix(images.URL, "http://")

	build := func(t *testing.T, s settings.Build, dockerfile string, spec pipeline.BuildSpec) (pipeline.Outputs, error) {
		t.Helper()
		workspace := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(workspace, "Dockerfile"), []byte(dockerfile), 0o600))
		worker, err := New(t.Context(), Options{Log: zap.NewNop(), Settings: settings.Settings{
			Data: t.TempDir(), Registry: settings.Registry{Push: host}, Build: s, Limits: settings.Limits{CacheBytes: 1 << 30}}})
		require.NoError(t, err)
		spec.Push = "shop"
		return worker.Kinds[pipeline.KindBuild].Run(t.Context(), pipeline.Attempt{
			RunID: "r", Number: 1, Workspace: workspace, Stdout: io.Discard, Stderr: io.Discard, Progress: func(string) {},
			Event: event.Event{Commit: strings.Repeat("a", 40), Trust: event.Own, Repository: event.Repository{FullName: "octo/shop"}},
			Stage: pipeline.PlannedStage{ID: "image", Build: &spec},
		})
	}
	file := filepath.Join(t.TempDir(), "policy.yaml")
	require.NoError(t, os.WriteFile(file, []byte("version: 1\ndefault: deny\n"), 0o600))
	const onBase = "FROM base\nLABEL a=b\n"

	_, err := build(t, settings.Build{Policy: file}, onBase, pipeline.BuildSpec{})
	require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err), "%v", err)
	require.ErrorContains(t, err, "policy")
	_, err = build(t, settings.Build{Policy: file}, "FROM scratch\nLABEL a=b\n", pipeline.BuildSpec{})
	require.NoError(t, err, "scratch is no image")
	_, err = build(t, settings.Build{Policy: file}, onBase, pipeline.BuildSpec{With: &pipeline.WithSpec{Command: "true"}})
	require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err), "a policy cannot be held by another builder: %v", err)
	_, err = New(t.Context(), Options{Log: zap.NewNop(), Settings: settings.Settings{Data: t.TempDir(), Build: settings.Build{Policy: file + "x"}}})
	require.ErrorContains(t, err, file+"x", "a server whose policy cannot be read does not start")

	const id = "https://ci.example.com/tidegate"
	outputs, err := build(t, settings.Build{BuilderID: id}, "FROM scratch\nLABEL a=b\n", pipeline.BuildSpec{Provenance: "min"})
	require.NoError(t, err)
	require.Contains(t, provenanceOf(t, host+"/shop@"+outputs[pipeline.OutputDigest]), `"`+id+`"`)
}

// provenanceOf is the text of all attestations of an image's index.
func provenanceOf(t *testing.T, reference string) string {
	t.Helper()
	ref, err := name.ParseReference(reference)
	require.NoError(t, err)
	index, err := remote.Index(ref)
	require.NoError(t, err)
	list, err := index.IndexManifest()
	require.NoError(t, err)
	var text strings.Builder
	for _, entry := range list.Manifests {
		if entry.Annotations["vnd.docker.reference.type"] == "" {
			continue
		}
		image, err := index.Image(entry.Digest)
		require.NoError(t, err)
		layers, err := image.Layers()
		require.NoError(t, err)
		for _, layer := range layers {
			text.WriteString(content(t, layer))
		}
	}
	return text.String()
}

func content(t *testing.T, layer v1.Layer) string {
	t.Helper()
	stream, err := layer.Compressed()
	require.NoError(t, err)
	defer stream.Close()
	raw, err := io.ReadAll(stream)
	require.NoError(t, err)
	return string(raw)
}
