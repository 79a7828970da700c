package deploy

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

func TestPromotedReleaseTakesNothingElse(t *testing.T) {
	k := New(Options{})
	const proven = "r.example.com/team/shop@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	from := &rollout.Provenance{Environment: "staging", App: "shop", Namespace: "s", Revision: 3, Commit: "abc"}
	p, err := newPromotion([]string{proven}, from)
	require.NoError(t, err)
	a := attempt(t, pod) // whose run has built a shop of its own
	request, err := k.request(t.Context(), a, nil, "n", k.images(a, p))
	require.NoError(t, err)
	require.Equal(t, []string{proven}, manifest.Images(request.Release.Objects))
	_, err = k.request(t.Context(), attempt(t, strings.Replace(pod, "image: shop", "image: other", 1)), nil, "n", k.images(a, p))
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
	require.ErrorContains(t, err, "environment staging")

	_, err = newPromotion([]string{"shop:latest"}, from)
	require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err))
}

// resolver counts what it is asked for.
type resolver map[string]int

func (r resolver) Resolve(_ context.Context, reference string) (string, error) {
	if r[reference]++; strings.HasPrefix(reference, "gone") {
		return "", errors.New("gone")
	}
	return "r.example.com/" + reference + digest, nil
}

// All clusters of a deploy run what a tag meant when it was first asked for.
func TestATagIsLookedUpOnce(t *testing.T) {
	asked := resolver{}
	k := New(Options{Resolver: asked})
	a := attempt(t, strings.Replace(pod, "image: shop", "image: other", 1))
	requests, err := k.requests(t.Context(), a, []place{{cluster: "eu", namespace: "a"}, {cluster: "us", namespace: "b"}})
	require.NoError(t, err)
	require.Len(t, requests, 2)
	require.Equal(t, "b", requests[1].Namespace)
	require.Equal(t, requests[0].RunID, requests[1].RunID)
	require.Equal(t, resolver{"other": 1}, asked)

	next := resolver{}
	first, err := manifest.NewPromoted([]string{"r.example.com/shop" + digest, "r.example.com/a/tool" + digest}, "staging")
	require.NoError(t, err)
	both := PromotedFirst{Promoted: first, Next: next}
	got, err := both.Resolve(t.Context(), "shop:1")
	require.NoError(t, err)
	require.Equal(t, "r.example.com/shop"+digest, got)
	got, err = both.Resolve(t.Context(), "curl")
	require.NoError(t, err)
	require.Equal(t, "r.example.com/curl"+digest, got)
	require.Equal(t, resolver{"curl": 1}, next)
}

func TestClustersOfAnEnvironment(t *testing.T) {
	require.Equal(t, []Cluster{{Kubeconfig: "k", Context: "c", Namespace: "n"}}, Environment{Kubeconfig: "k", Context: "c", Namespace: "n"}.clusters())
	require.Equal(t, []Cluster{
		{Name: "eu", Kubeconfig: "k", Context: "eu", Namespace: "n"}, {Name: "us", Kubeconfig: "us.yaml", Namespace: "m"}, {Name: "here", Kubeconfig: "k", Context: "c", Namespace: "o"},
	}, Environment{Kubeconfig: "k", Context: "c", Namespace: "n", Clusters: []Cluster{
		{Name: "eu", Context: "eu"}, {Name: "us", Kubeconfig: "us.yaml", Namespace: "m"}, {Name: "here", Namespace: "o"},
	}}.clusters())
}

func TestNobodyIsAnsweredWhereNothingRuns(t *testing.T) {
	err := New(Options{}).Answer(t.Context(), "r1", "production", pipeline.Decision{Approved: true, By: "ann"})
	require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err))
}
