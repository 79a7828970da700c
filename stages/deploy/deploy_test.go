package deploy

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/rollout"
)

const digest = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func attempt(t *testing.T, manifests string) pipeline.Attempt {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "k8s.yaml"), []byte(manifests), 0o600))
	bake := time.Duration(0)
	return pipeline.Attempt{RunID: "r1", Pipeline: "shop", Number: 2, Workspace: dir, Progress: func(string) {},
		Event: event.Event{Actor: "ada", Commit: "abc"},
		Needs: map[string]pipeline.Outputs{"image": {pipeline.OutputName: "shop", pipeline.OutputImage: "127.0.0.1:5000/shop" + digest}},
		Stage: pipeline.PlannedStage{ID: "staging", Deploy: &pipeline.DeploySpec{Environment: "staging", Manifests: []string{"k8s.yaml"}, Bake: &bake,
			Strategy: pipeline.StrategySpec{Canary: &pipeline.CanarySpec{Steps: []pipeline.CanaryStep{{Weight: 20, Hold: time.Minute}}}}}}}
}

const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: shop}]}\n"

// render is the request for one namespace, without asking a cluster.
func (k *Kind) render(t *testing.T, a pipeline.Attempt, namespace string) (rollout.Request, error) {
	t.Helper()
	requests, err := k.requests(t.Context(), a, []place{{namespace: namespace}})
	if err != nil {
		return rollout.Request{}, err
	}
	return requests[0], nil
}

func TestRequestSaysWhatTheStageSays(t *testing.T) {
	request, err := New(Options{}).render(t, attempt(t, pod), "staging-namespace")
	require.NoError(t, err)
	require.Equal(t, "shop", request.App)
	require.Equal(t, "staging-namespace", request.Namespace)
	require.Equal(t, rollout.Strategy{Kind: rollout.CanaryStrategy, Steps: []rollout.Step{{Weight: 20, Hold: time.Minute}}}, request.Strategy)
	require.Equal(t, "ada", request.By)
	require.Equal(t, "r1/staging/2", request.RunID, "an attempt that is continued is the same rollout; a new one is not")
	require.Zero(t, *request.Bake)
}

func TestWrongInputIsInvalid(t *testing.T) {
	k := New(Options{Environments: map[string]Environment{"production": {}}})
	_, err := k.Run(t.Context(), attempt(t, pod))
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
	require.ErrorContains(t, err, `"staging"; known: production`)
	_, err = k.render(t, attempt(t, "a: b"), "n")
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
	require.ErrorContains(t, err, "k8s.yaml:1")
	_, err = k.render(t, attempt(t, strings.Replace(pod, "image: shop", "image: 127.0.0.1:1/other", 1)), "n")
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
}

func TestCauses(t *testing.T) {
	for from, want := range map[error]pipeline.Cause{
		rollout.ErrFailed: pipeline.CauseFailed, rollout.ErrSuperseded: pipeline.CauseSuperseded, rollout.ErrAborted: pipeline.CauseCancelled,
		rollout.ErrRejected: pipeline.CauseInvalid, rollout.ErrLost: pipeline.CauseInfrastructure, context.Canceled: pipeline.CauseCancelled,
	} {
		require.Equal(t, want, pipeline.CauseOf(failure(fmt.Errorf("wrapped: %w", from))), "%v", from)
	}
}

func TestOnlyACancelledRunIsTakenBack(t *testing.T) {
	for cause, want := range map[error]bool{
		pipeline.Fail(pipeline.CauseSuperseded, "newer"): true, ErrCancelled: true, context.DeadlineExceeded: true,
		errors.New("shutting down"): false, context.Canceled: false,
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		require.Equal(t, want, takenBack(ctx), "%v", cause)
	}
}

func TestRegistryResolves(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.NewTag(host + "/team/base:1")
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, empty.Image))
	want, err := empty.Image.Digest()
	require.NoError(t, err)
	got, err := Registry{}.Resolve(t.Context(), host+"/team/base:1")
	require.NoError(t, err)
	require.Equal(t, host+"/team/base@"+want.String(), got)
	_, err = Registry{}.Resolve(t.Context(), host+"/team/base:2")
	require.ErrorContains(t, err, "has no 2")
}
