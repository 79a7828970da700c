//go:build e2e

package differential

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/buildkit"
)

// handed is a build stage that is handed to the daemon.
func (p *pair) handed(t *testing.T, dockerfile string, change func(*pipeline.BuildSpec)) (*image.Kind, pipeline.Attempt, *bytes.Buffer) {
	t.Helper()
	workspace := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(workspace, "Dockerfile"), []byte(dockerfile), 0o600))
	spec := &pipeline.BuildSpec{
		Push: "handed", With: &pipeline.WithSpec{Builder: "buildkit"}, BuildKit: &pipeline.BuildKitSpec{Address: p.daemon.Address()},
	}
	if change != nil {
		change(spec)
	}
	output := &bytes.Buffer{}
	return &image.Kind{Builder: p.builder, BuildKit: buildkit.Client{Program: filepath.Join(p.binaries, "buildctl")}}, pipeline.Attempt{
		RunID: "run", Number: 1, Workspace: workspace, Stdout: output, Stderr: output, Progress: func(string) {},
		Event: event.Event{Commit: strings.Repeat("c", 40), Trust: event.Own, Forge: "github", Repository: event.Repository{FullName: "octo/shop"}},
		Stage: pipeline.PlannedStage{ID: "image", Build: spec, Pos: pipeline.Position{File: ".tidegate.yaml", Line: 3, Column: 5}},
	}, output
}

// TestAStageIsBuiltByBuildKit hands builds to a real daemon and looks at what
// the registry has afterwards.
func TestAStageIsBuiltByBuildKit(t *testing.T) {
	p := newPair(t)
	const canary = "canary-of-a-secret-77ab"
	kind, attempt, output := p.handed(t, `FROM busybox AS base
ARG COLOUR=none
RUN --mount=type=secret,id=TOKEN test "$(tail -c 4 /run/secrets/TOKEN)" = `+canary[len(canary)-4:]+` && echo $COLOUR > /colour
FROM base AS last
ENV STAGE=last
FROM base
ENV STAGE=none
`, func(spec *pipeline.BuildSpec) {
		spec.Target, spec.Args, spec.Labels, spec.Provenance = "last", map[string]string{"COLOUR": "blue"}, map[string]string{"team": "shop"}, "max"
		spec.Tags = []string{"v1"}
	})
	attempt.Env = map[string]string{"TOKEN": canary}
	outputs, err := kind.Run(t.Context(), attempt)
	require.NoError(t, err, output.String())
	require.Equal(t, p.host+"/handed@"+outputs[pipeline.OutputDigest], outputs[pipeline.OutputImage])
	require.NotContains(t, output.String(), canary)

	built := p.image(t, outputs[pipeline.OutputImage])
	config, err := built.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, "shop", config.Config.Labels["team"])
	require.Contains(t, config.Config.Env, "STAGE=last")
	description, err := Describe(built)
	require.NoError(t, err)
	require.Contains(t, description, "/colour content")
	for fact, value := range description {
		require.NotContains(t, value, canary, fact)
	}
	ref, err := name.ParseReference(p.host + "/handed:v1")
	require.NoError(t, err)
	found, err := remote.Head(ref, remote.WithContext(t.Context()))
	require.NoError(t, err)
	require.Equal(t, outputs[pipeline.OutputDigest], found.Digest.String())
}

// image is the only image for this machine behind a name, in an index or not.
func (p *pair) image(t *testing.T, text string) v1.Image {
	t.Helper()
	ref, err := name.ParseReference(text)
	require.NoError(t, err)
	built, err := remote.Image(ref, remote.WithContext(t.Context()), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
	require.NoError(t, err)
	return built
}

func TestAFailureOfBuildKitIsTheStages(t *testing.T) {
	p := newPair(t)
	kind, attempt, output := p.handed(t, "FROM busybox\nRUN echo what went wrong && exit 3\n", nil)
	_, err := kind.Run(t.Context(), attempt)
	require.Equal(t, pipeline.CauseFailed, pipeline.CauseOf(err))
	require.ErrorContains(t, err, ".tidegate.yaml:3:5: stage image")
	require.Contains(t, output.String(), "what went wrong")

	kind, attempt, _ = p.handed(t, "FROM busybox\n", func(spec *pipeline.BuildSpec) { spec.BuildKit.Address = "tcp://127.0.0.1:1" })
	_, err = kind.Run(t.Context(), attempt)
	require.ErrorContains(t, err, "buildctl at tcp://127.0.0.1:1")

	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	kind, attempt, _ = p.handed(t, "FROM busybox\nRUN echo running && sleep 600\n", nil)
	attempt.Stdout = cancelOn{"running", func() { cancel(errors.New("enough")) }}
	attempt.Stderr = attempt.Stdout
	_, err = kind.Run(ctx, attempt)
	require.ErrorIs(t, err, context.Canceled)
}

// cancelOn calls do when text goes by that no echo of the Dockerfile has.
type cancelOn struct {
	text string
	do   func()
}

func (c cancelOn) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[2] == c.text {
			c.do()
		}
	}
	return len(p), nil
}
