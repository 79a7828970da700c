package image

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

func (b *bench) attempt(files map[string]string, spec pipeline.BuildSpec) (pipeline.Attempt, *bytes.Buffer) {
	var out bytes.Buffer
	return pipeline.Attempt{
		RunID: "r", Number: 1, Workspace: b.context(files), Stdout: &out, Stderr: &out, Progress: func(string) {},
		Event: event.Event{Commit: commit, Trust: event.Own, Forge: "github", Repository: event.Repository{FullName: "octo/shop"}},
		Stage: pipeline.PlannedStage{ID: "image", Build: &spec, Pos: pipeline.Position{File: ".tidegate.yaml", Line: 3, Column: 5}},
	}, &out
}

func TestTheBuildStageGivesNameImageAndDigest(t *testing.T) {
	b := newBench(t)
	kind := &Kind{Builder: b.builder}
	require.Equal(t, pipeline.TakeoverContinue, kind.Takeover())
	for push, want := range map[string][2]string{
		"shop":                     {"shop", b.peer.host() + "/shop"},
		"shop:v1":                  {"shop", b.peer.host() + "/shop"},
		b.peer.host() + "/a/b":     {b.peer.host() + "/a/b", b.peer.host() + "/a/b"},
		b.peer.host() + "/a/b:tag": {b.peer.host() + "/a/b", b.peer.host() + "/a/b"},
	} {
		attempt, out := b.attempt(map[string]string{"src/Dockerfile": "FROM scratch\nCOPY a /\n", "src/a": "1"}, pipeline.BuildSpec{Context: "src", Push: push})
		outputs, err := kind.Run(context.Background(), attempt)
		require.NoError(t, err)
		require.Equal(t, want[0], outputs[pipeline.OutputName])
		require.Equal(t, want[1]+"@"+outputs[pipeline.OutputDigest], outputs[pipeline.OutputImage])
		require.Contains(t, out.String(), "COPY a /")
		if !registry.HasTag(push) {
			require.NotEmpty(t, b.peer.asked("PUT", "/manifests/"+commit[:12]), "without a tag the commit is one")
		}
	}
}

func TestForksPushNothingAndReachNothing(t *testing.T) {
	b := newBench(t)
	kind := &Kind{Builder: b.builder}
	attempt, _ := b.attempt(map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"}, pipeline.BuildSpec{Push: "library/golang:1.26"})
	attempt.Event.Trust = event.Fork
	outputs, err := kind.Run(context.Background(), attempt)
	require.NoError(t, err)
	require.NotEmpty(t, outputs[pipeline.OutputDigest])
	require.Empty(t, outputs[pipeline.OutputImage])
	require.Empty(t, b.peer.asked("PUT", ""), "a fork's image reached the registry")
	require.Empty(t, b.peer.asked("POST", ""), "a fork's image reached the registry")

	attempt, _ = b.attempt(map[string]string{"Dockerfile": "FROM scratch\nRUN --network=host [\"/x\"]\n"}, pipeline.BuildSpec{Push: "x"})
	attempt.Event.Trust = event.Fork
	_, err = kind.Run(context.Background(), attempt)
	require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err))
	require.ErrorContains(t, err, "Dockerfile:2")
}

func TestBadSpecsAreInvalid(t *testing.T) {
	b := newBench(t)
	outside := t.TempDir()
	writeFiles(t, outside, map[string]string{"Dockerfile": "FROM scratch\n"})
	files := map[string]string{"Dockerfile": "FROM scratch\nBOGUS\n", "a": "1", "out": "-> " + outside}
	for name, c := range map[string]struct {
		spec pipeline.BuildSpec
		want string
	}{
		"no name":           {pipeline.BuildSpec{}, "build.push is empty"},
		"bad name":          {pipeline.BuildSpec{Push: "UPPER CASE"}, "image name"},
		"absolute context":  {pipeline.BuildSpec{Push: "x", Context: "/etc"}, "is absolute"},
		"context climbs":    {pipeline.BuildSpec{Push: "x", Context: "../.."}, "leads out of the checkout"},
		"dockerfile climbs": {pipeline.BuildSpec{Push: "x", Dockerfile: "../../Dockerfile"}, "leads out of the checkout"},
		"context by a link": {pipeline.BuildSpec{Push: "x", Context: "out"}, "build context"},
		"does not parse":    {pipeline.BuildSpec{Push: "x"}, "Dockerfile:2:1"},
		"no Dockerfile":     {pipeline.BuildSpec{Push: "x", Dockerfile: "none"}, "there is no Dockerfile at"},
		"bad platform":      {pipeline.BuildSpec{Push: "x", Platforms: []string{"linux/amd64", "amd64/"}}, "build.platforms"},
	} {
		t.Run(name, func(t *testing.T) {
			attempt, _ := b.attempt(files, c.spec)
			_, err := (&Kind{Builder: b.builder}).Run(context.Background(), attempt)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
		})
	}
}

func TestARegistryThatStaysDownIsInfrastructure(t *testing.T) {
	b := newBench(t)
	now := time.Unix(0, 0)
	b.builder.Registry = registry.New(registry.Options{Default: b.peer.host(), Retry: registry.Retry{
		Now:   func() time.Time { return now },
		Sleep: func(ctx context.Context, d time.Duration) error { now = now.Add(d); return ctx.Err() },
	}})
	attempt, _ := b.attempt(map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"}, pipeline.BuildSpec{Push: "shop"})
	b.peer.meddle = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	_, err := (&Kind{Builder: b.builder}).Run(context.Background(), attempt)
	require.Equal(t, pipeline.CauseInfrastructure, pipeline.CauseOf(err))
	attempt, _ = b.attempt(map[string]string{"Dockerfile": "FROM " + b.peer.host() + "/base\nCOPY a /\n", "a": "1"}, pipeline.BuildSpec{Push: "shop"})
	_, err = (&Kind{Builder: b.builder}).Run(context.Background(), attempt)
	require.Equal(t, pipeline.CauseInfrastructure, pipeline.CauseOf(err))
}

func TestForksNeverFeedTrustedCaches(t *testing.T) {
	own := event.Event{Trust: event.Own, Forge: "github", Repository: event.Repository{FullName: "octo/shop"}}
	fork := own
	fork.Trust = event.Fork
	fork.PullRequest = &event.PullRequestInfo{Number: 7}
	otherFork := fork
	otherFork.PullRequest = &event.PullRequestInfo{Number: 8}
	other := own
	other.Repository.FullName = "octo/other"
	scopes := map[string]bool{}
	for _, e := range []event.Event{own, fork, otherFork, other} {
		scopes[scopeOf(e)] = true
	}
	require.Len(t, scopes, 4)

	b := newBench(t)
	kind := &Kind{Builder: b.builder}
	attempt, _ := b.attempt(map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"}, pipeline.BuildSpec{Push: "shop"})
	attempt.Event.Trust = event.Fork
	_, err := kind.Run(context.Background(), attempt)
	require.NoError(t, err)
	attempt.Event.Trust = event.Own
	var out bytes.Buffer
	attempt.Stdout = &out
	_, err = kind.Run(context.Background(), attempt)
	require.NoError(t, err)
	require.NotContains(t, out.String(), "CACHED")
}

func TestSecretsReachACommandAndNothingElse(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	const canary = "canary-4711"
	attempt, out := b.attempt(map[string]string{
		"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=TOKEN,env=T --mount=type=secret,id=TOKEN [ \"$T\" = " + strings.Replace(canary, "-", "-\"\"", 1) +
			" ] && [ -s /run/secrets/TOKEN ] && ls /run/secrets && touch /done\n",
	}, pipeline.BuildSpec{Push: "shop"})
	attempt.Env = map[string]string{"TOKEN": canary}
	_, err := (&Kind{Builder: b.builder}).Run(context.Background(), attempt)
	require.NoError(t, err)
	require.NotContains(t, out.String(), canary)
	require.NoError(t, filepath.Walk(b.builder.Store.Dir(), func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		require.NotContains(t, string(data), canary, path)
		return err
	}))
}

func TestTheBuildStagePushesEveryTagPlatformLabelAndAnnotation(t *testing.T) {
	b := newBench(t)
	attempt, _ := b.attempt(map[string]string{"Dockerfile": "FROM scratch\nCOPY a /\n", "a": "1"}, pipeline.BuildSpec{
		Push: "shop:v1", Tags: []string{"latest", "v1", "v1.2"}, Platforms: []string{"linux/amd64", "linux/arm64"},
		Labels: map[string]string{"team": "tide"}, Annotations: map[string]string{"manifest[linux/arm64]:a": "arm", "index:i": "1"},
	})
	outputs, err := (&Kind{Builder: b.builder}).Run(context.Background(), attempt)
	require.NoError(t, err)
	for _, tag := range []string{"v1", "latest", "v1.2"} {
		require.Contains(t, b.peer.asked("PUT"), "PUT /v2/shop/manifests/"+tag)
	}
	require.Empty(t, b.peer.asked("PUT", "/v2/shop/manifests/"+commit[:12]), "who names tags gets those alone")
	index := b.pulledIndex(&Result{Pushed: []string{outputs[pipeline.OutputImage]}})
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"i": "1"}, manifest.Annotations)
	image, err := index.Image(manifest.Manifests[1].Digest)
	require.NoError(t, err)
	config, err := image.ConfigFile()
	require.NoError(t, err)
	require.Equal(t, "tide", config.Config.Labels["team"])
	arm, err := image.Manifest()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "arm"}, arm.Annotations)

	attempt.Stage.Build.Annotations = map[string]string{"layer:a": "x"}
	_, err = (&Kind{Builder: b.builder}).Run(context.Background(), attempt)
	require.ErrorContains(t, err, "build.annotations")
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
}

// A fork says where its base images come from, and would have this machine knock
// at what only it can reach.
func TestForksReachNoPrivateRegistry(t *testing.T) {
	b := newBench(t)
	var knocks atomic.Int64
	private := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		knocks.Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	defer private.Close()
	kind := &Kind{Builder: b.builder}
	build := func(from string, trust event.Trust) error {
		attempt, _ := b.attempt(map[string]string{"Dockerfile": "FROM " + from + "\n"}, pipeline.BuildSpec{Push: "x"})
		attempt.Event.Trust = trust
		_, err := kind.Run(context.Background(), attempt)
		return err
	}
	at := strings.TrimPrefix(private.URL, "http://") + "/x"
	err := build(at, event.Fork)
	require.ErrorContains(t, err, "private network")
	require.ErrorContains(t, err, "Dockerfile:1:6")
	require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err))
	require.Zero(t, knocks.Load())

	require.Error(t, build(at, event.Own))
	require.NotZero(t, knocks.Load())
	b.base("library/base:1", "x")
	require.NoError(t, build(b.peer.host()+"/library/base:1", event.Fork), "the registry of whoever runs this")
}
