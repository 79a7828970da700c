package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/render"
)

func TestSourceFlags(t *testing.T) {
	f := sourceFlags{files: []string{"k8s"}, kustomize: "k", chart: render.Helm{Chart: "chart", Values: []string{"v.yaml"}, Set: map[string]string{"a": "1"}},
		imageFields: []string{"Workflow=spec.steps[*].image"}, ready: []string{`A=object.status.phase == "Up"`, "B=true"}, failed: []string{`A=object.status.phase == "Down"`}}
	source, fields, rules, err := f.source()
	require.NoError(t, err)
	require.Equal(t, render.Source{Manifests: []string{"k8s"}, Kustomize: "k", Helm: &render.Helm{Chart: "chart", Values: []string{"v.yaml"}, Set: map[string]string{"a": "1"}}}, source)
	require.Equal(t, []manifest.ImageField{{Kind: "Workflow", Path: "spec.steps[*].image"}}, fields)
	require.Equal(t, []rollout.Readiness{{Kind: "A", Ready: `object.status.phase == "Up"`, Failed: `object.status.phase == "Down"`}, {Kind: "B", Ready: "true"}}, rules)

	for name, flags := range map[string]sourceFlags{
		"nothing":              {},
		"values without chart": {files: []string{"k8s"}, chart: render.Helm{Values: []string{"v.yaml"}}},
		"no path":              {files: []string{"k8s"}, imageFields: []string{"Workflow"}},
		"a wrong path":         {files: []string{"k8s"}, imageFields: []string{"Workflow=a..b"}},
		"no expression":        {files: []string{"k8s"}, ready: []string{"A"}},
		"a wrong expression":   {files: []string{"k8s"}, ready: []string{"A=object.("}},
		"twice":                {files: []string{"k8s"}, ready: []string{"A=true", "A=false"}},
		"failed alone":         {files: []string{"k8s"}, failed: []string{"A=true"}},
	} {
		_, _, _, err := flags.source()
		require.Error(t, err, name)
		require.Equal(t, exitUsage, exitCode(err), name)
	}
}
