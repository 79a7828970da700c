package plan

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The file of each rule holds what breaks it and what does not, and the golden
// file beside it what is found.
func TestChecksFindWhatTheyAreFor(t *testing.T) {
	files, err := filepath.Glob("testdata/checks/*.Dockerfile")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".Dockerfile"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			document, err := Parse("Dockerfile", data)
			require.NoError(t, err)
			image := Image{Config: emptyConfig(amd64)}
			found, err := document.Check(context.Background(), Options{
				Platform: amd64, BuildPlatform: amd64, Images: baseImages{image},
				Ignored: func(source string) bool { return source == "left-out" },
			})
			require.NoError(t, err)
			var got strings.Builder
			for _, w := range found {
				fmt.Fprintf(&got, "%s-%d %s: %s\n", w.Pos, w.Pos.EndLine, w.Rule, w.Message)
				require.NotEmpty(t, w.Description)
			}
			golden := strings.TrimSuffix(file, "Dockerfile") + "golden"
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(got.String()), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), got.String())
		})
	}
}

func TestABaseOfAnotherPlatformIsFound(t *testing.T) {
	image := Image{Config: emptyConfig(ocispec.Platform{OS: "linux", Architecture: "arm64"})}
	p := mustPlan(t, "FROM base", func(o *Options) { o.Images = baseImages{image} })
	require.Len(t, p.Warnings, 1)
	require.Equal(t, "InvalidBaseImagePlatform", p.Warnings[0].Rule)
}

func TestFindingsAreErrorsWhenTheFileSaysSo(t *testing.T) {
	text := "FROM scratch\nCMD x\n"
	require.Len(t, mustPlan(t, text, nil).Warnings, 1)
	_, err := planned(t, "# check=error=true\n"+text, nil)
	var findings *FindingsError
	require.ErrorAs(t, err, &findings)
	require.ErrorContains(t, err, "Dockerfile:3:1: JSONArgsRecommended")
	require.Empty(t, mustPlan(t, "# check=skip=JSONArgsRecommended;error=true\n"+text, nil).Warnings)
	require.Empty(t, mustPlan(t, "# check=skip=all;error=true\n"+text, nil).Warnings)
	// The argument replaces the directive.
	require.Len(t, mustPlan(t, "# check=error=true\n"+text, args(CheckArgument, "error=false")).Warnings, 1)
	_, err = planned(t, "# check=nonsense\n"+text, nil)
	require.ErrorContains(t, err, "Dockerfile:1")
}

func history(p *Plan) []string {
	var lines []string
	for _, h := range p.Target.Config.History {
		lines = append(lines, h.CreatedBy)
	}
	return lines
}

func TestHistoryHasArgumentsButNotWhatTheCommandLineGave(t *testing.T) {
	const canary = "canary-4711"
	p := mustPlan(t, strings.Join([]string{
		"ARG G=" + "global", "ARG MIX=x-$SECRETISH", "FROM scratch AS base", "ARG A=1 B", "FROM base", "ARG SECRETISH", "ARG G", "ARG D=d-$SECRETISH",
		"ARG E=e-$D", "ENV A=2", "RUN x", "ARG TARGETARCH", "RUN [\"y\"]",
	}, "\n"), args("SECRETISH", canary, "UNUSED", canary))
	require.Equal(t, []string{
		"ARG A=1 B", "ARG SECRETISH", "ARG G=global", "ARG D=d-$SECRETISH", "ARG E=e-$D", "ENV A=2",
		"RUN |6 A=2 B= SECRETISH G=global D E /bin/sh -c x", "ARG TARGETARCH=amd64", "RUN |7 A=2 B= SECRETISH G=global D E TARGETARCH=amd64 y",
	}, history(p))
	require.NotContains(t, fmt.Sprint(p.Target.Config), canary)
}

func TestOnbuildTriggersRunInTheNextStage(t *testing.T) {
	image := Image{Config: emptyConfig(amd64)}
	image.Config.Config.OnBuild = []string{"ARG V=1", "COPY --from=tools /bin/x /x", "RUN x $V"}
	p := mustPlan(t, "FROM scratch AS tools\nCOPY y /bin/x\nFROM base\nLABEL l=1", func(o *Options) { o.Images = baseImages{image} })
	require.Len(t, p.Stages, 2)
	require.Empty(t, p.Target.Config.Config.OnBuild)
	require.Equal(t, FromStage, p.Target.Steps[0].Copy.From.Kind)
	require.Equal(t, "tools", p.Target.Steps[0].Copy.From.Stage.Name)
	require.Equal(t, 3, p.Target.Steps[0].Pos.Line, "a trigger stands where its FROM does")
	require.Equal(t, "1", p.Target.Config.Config.Labels["l"])
	// From a stage of the same file, and not further than one stage.
	p = mustPlan(t, "FROM scratch AS a\nONBUILD RUN x\nFROM a AS b\nFROM b", nil)
	require.Empty(t, p.Target.Steps)
	require.Len(t, p.Stages[1].Steps, 1)
}

func TestHostileBaseConfigurationsAreRefused(t *testing.T) {
	for name, change := range map[string]func(*dockerspec.DockerOCIImage){
		"null in env": func(c *dockerspec.DockerOCIImage) { c.Config.Env = []string{"A=x\x00y"} },
		"null in entrypoint": func(c *dockerspec.DockerOCIImage) {
			c.Config.Entrypoint = []string{"/x\x00"}
		},
		"huge environment": func(c *dockerspec.DockerOCIImage) { c.Config.Env = make([]string, 1_000_000) },
		"huge value":       func(c *dockerspec.DockerOCIImage) { c.Config.Env = []string{"A=" + strings.Repeat("x", 1<<20)} },
		"many triggers": func(c *dockerspec.DockerOCIImage) {
			c.Config.OnBuild = strings.Split(strings.Repeat("ENV A=$A$A\n", 1000), "\n")
		},
		"endless history": func(c *dockerspec.DockerOCIImage) { c.History = make([]ocispec.History, 100_000) },
		"a trigger that is a FROM": func(c *dockerspec.DockerOCIImage) {
			c.Config.OnBuild = []string{"FROM evil"}
		},
		"a trigger of two lines": func(c *dockerspec.DockerOCIImage) { c.Config.OnBuild = []string{"RUN a\nRUN b"} },
	} {
		image := Image{Config: emptyConfig(amd64)}
		change(&image.Config)
		_, err := planned(t, "FROM base\nRUN x", func(o *Options) { o.Images = baseImages{image} })
		require.Error(t, err, name)
		require.ErrorContains(t, err, "Dockerfile:1", name)
	}
	image := Image{Config: emptyConfig(amd64)}
	image.Config.Config.WorkingDir = "../../../x/../y"
	p := mustPlan(t, "FROM base\nRUN x\nWORKDIR ..\nWORKDIR ../../z", func(o *Options) { o.Images = baseImages{image} })
	require.Equal(t, "/y", p.Target.Steps[0].Run.Dir)
	require.Equal(t, "/z", p.Target.Config.Config.WorkingDir)
}

func TestExponentialExpansionIsBounded(t *testing.T) {
	text := "FROM scratch\nENV A=0123456789\n" + strings.Repeat("ENV A=$A$A$A$A$A$A$A$A$A$A\n", 12)
	_, err := planned(t, text, nil)
	require.ErrorContains(t, err, "too long")
}

func TestNamedContextsStandForStagesAndImages(t *testing.T) {
	contexts := func(o *Options) {
		o.Contexts = map[string]NamedContext{
			"tree": {}, "golang": {Image: "mirror.example.com/go:1"}, "replaced": {Image: "other"}, "kept": {Layout: true}, "empty": {Image: Scratch},
		}
	}
	p := mustPlan(t, strings.Join([]string{
		"FROM alpine AS replaced", "RUN never", "FROM docker.io/library/golang:latest AS go", "FROM tree", "COPY --from=replaced a /a", "COPY --from=tree b /b",
		"RUN --mount=from=kept,target=/k --mount=from=go,target=/g x", "COPY --from=empty c /c",
	}, "\n"), contexts)
	steps := p.Target.Steps
	require.Equal(t, FromNothing, p.Target.Base.Kind)
	require.Equal(t, Source{Kind: FromContext, Context: "tree"}, steps[0].Copy.From)
	require.Equal(t, "/", steps[0].Copy.Dest)
	replaced := steps[1].Copy.From.Stage
	require.Equal(t, "other", replaced.Base.Reference)
	require.Empty(t, replaced.Steps)
	require.Equal(t, "tree", steps[2].Copy.From.Context)
	require.Equal(t, "kept", steps[3].Run.Mounts[0].From.Context)
	require.Equal(t, FromImage, steps[3].Run.Mounts[0].From.Kind)
	require.Equal(t, "mirror.example.com/go:1", steps[3].Run.Mounts[1].From.Stage.Base.Reference)
	require.Equal(t, FromNothing, steps[4].Copy.From.Kind)
	require.Equal(t, []string{"FROM tree", "COPY a /a"}, history(p)[:2])
	// An image whose name reads like a layout's path is an image all the same.
	_, err := planned(t, "FROM oci-layout:///etc", nil)
	require.NoError(t, err, "only a named context leads to a layout")
	document, err := Parse("Dockerfile", []byte("FROM oci-layout:///etc"))
	require.NoError(t, err)
	references, err := document.References(Options{Platform: amd64})
	require.NoError(t, err)
	require.Empty(t, references[0].Context)
}
