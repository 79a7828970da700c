package deploy

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// known is a cluster of which all that charts ask is known.
type known struct {
	installed bool
	err       error
}

func (k known) Capabilities(context.Context) (rollout.Capabilities, error) {
	return rollout.Capabilities{KubeVersion: "v1.36.1", APIVersions: []string{"apps/v1"}}, k.err
}

func (k known) Installed(context.Context, rollout.Target) (bool, error) { return k.installed, nil }

func put(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o600))
	}
}

var chartFiles = map[string]string{
	"chart/Chart.yaml":          "apiVersion: v2\nname: shop\nversion: 0.1.0\n",
	"chart/values.yaml":         "greeting: hello\n",
	"chart/templates/pod.yaml":  "apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {cluster: {{ .Capabilities.KubeVersion }}, says: {{ .Values.greeting }}}}\nspec: {containers: [{name: c, image: shop}]}\n",
	"chart/templates/job.yaml":  "apiVersion: batch/v1\nkind: Job\nmetadata: {name: migrate.data, annotations: {helm.sh/hook: 'pre-upgrade,post-upgrade'}}\nspec: {template: {spec: {containers: [{name: c, image: shop}]}}}\n",
	"chart/templates/made.yaml": "apiVersion: example.com/v1\nkind: Made\nmetadata: {name: m}\nspec: {image: shop}\n",
}

// requested is what the stage asks of a cluster that is known.
func requested(t *testing.T, a pipeline.Attempt, facts ClusterFacts) (rollout.Request, error) {
	t.Helper()
	k := New(Options{})
	return k.request(t.Context(), a, facts, "n", k.images(a, nil))
}

func TestChartOfTheStage(t *testing.T) {
	a := attempt(t, pod)
	put(t, a.Workspace, chartFiles)
	d := a.Stage.Deploy
	d.Manifests = nil
	d.Helm = &pipeline.HelmSpec{Chart: "chart", Set: map[string]string{"greeting": "good day"}}
	d.Images = []pipeline.ImageFieldSpec{{Kind: "Made", Path: "spec.image"}}
	d.Readiness = []pipeline.ReadinessSpec{{Kind: "Made", Ready: "true", Failed: "false"}}
	request, err := requested(t, a, known{installed: true})
	require.NoError(t, err)
	built := "127.0.0.1:5000/shop" + digest
	require.Len(t, request.Release.Objects, 2)
	require.Equal(t, map[string]any{"image": built}, request.Release.Objects[0].Object["spec"])
	require.Equal(t, []string{built}, manifest.Images(request.Release.Objects))
	require.Equal(t, map[string]string{"cluster": "v1.36.1", "says": "good day"}, request.Release.Objects[1].GetAnnotations())
	require.Equal(t, []rollout.Readiness{{Kind: "Made", Ready: "true", Failed: "false"}}, request.Readiness)
	require.Len(t, request.Hooks, 2)
	require.Equal(t, rollout.BeforeHook, request.Hooks[0].Phase)
	require.Equal(t, "migrate-data", request.Hooks[0].Name)
	require.Equal(t, rollout.AfterHook, request.Hooks[1].Phase)
	require.Equal(t, "migrate-data-after", request.Hooks[1].Name)
	require.Empty(t, request.Hooks[0].Manifest.GetAnnotations())

	request, err = requested(t, a, known{})
	require.NoError(t, err)
	require.Empty(t, request.Hooks, "nothing to upgrade yet")

	_, err = requested(t, a, known{err: &url.Error{Op: "Get", URL: "https://x", Err: http.ErrServerClosed}})
	require.Equal(t, pipeline.CauseInfrastructure, pipeline.CauseOf(err), "the cluster's fault, not the chart's")
	d.Helm.KubeVersion = "1.30"
	_, err = requested(t, a, known{err: errors.New("not asked")})
	require.NoError(t, err)
	d.Helm.Chart = "gone"
	_, err = requested(t, a, known{})
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
}

func TestKustomizationOfTheStage(t *testing.T) {
	a := attempt(t, pod)
	put(t, a.Workspace, map[string]string{"k/kustomization.yaml": "resources: [pod.yaml]\nnamePrefix: a-\n", "k/pod.yaml": pod})
	a.Stage.Deploy.Kustomize = "k"
	request, err := requested(t, a, nil)
	require.NoError(t, err)
	require.Len(t, request.Release.Objects, 2, "beside the plain manifests")
	put(t, a.Workspace, map[string]string{"k/kustomization.yaml": "resources: ['https://example.com/x']\n"})
	_, err = requested(t, a, nil)
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
	require.ErrorContains(t, err, "k/kustomization.yaml:1:13")
}

// What lint says of a rule is what the rollout says.
func TestLintAndRolloutAgreeOnReadiness(t *testing.T) {
	for expression, fine := range map[string]bool{
		`object.status.phase == "Up"`: true, "object.status.ready": true, "self.ready": false, "object.spec.size + 1": false, `"yes"`: false, "object.": false,
	} {
		_, err := pipeline.Parse("x.yaml", []byte("version: 1\nname: x\non: {push: {branches: [main]}}\nstages: {a: {deploy: {environment: e, manifests: k, readiness: [{kind: A, ready: '"+expression+"'}]}}}\n"))
		require.Equal(t, fine, err == nil, "lint on %q: %v", expression, err)
		err = rollout.Readiness{Kind: "A", Ready: expression}.Check()
		require.Equal(t, fine, err == nil, "rollout on %q: %v", expression, err)
	}
}
