package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, path, text string) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), text)
}

// The plans that the rollout package keeps as golden files, as people see them.
func TestPlanTable(t *testing.T) {
	files, err := filepath.Glob("../../rollout/testdata/plan/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			encoded, err := os.ReadFile(file)
			require.NoError(t, err)
			var plan rollout.Plan
			require.NoError(t, json.Unmarshal(encoded, &plan))
			var out bytes.Buffer
			printPlan(&out, &plan)
			golden(t, filepath.Join("testdata", "plan", name+".txt"), out.String())
		})
	}
}

func TestDriftTable(t *testing.T) {
	drift := rollout.Drift{Target: rollout.Target{App: "shop", Namespace: "x"}, Revision: 7, Objects: []rollout.ObjectDrift{
		{Ref: manifest.Ref{APIVersion: "v1", Kind: "Service", Namespace: "x", Name: "shop"}, Missing: true},
		{Ref: manifest.Ref{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "x", Name: "shop"}, By: `with "somebody\u001b[31m" at .spec.replicas`,
			Changes: []manifest.Change{{Path: "spec.replicas", Before: 3.0, After: 4.0}, {Path: "spec.paused", After: true}}},
	}}
	var out bytes.Buffer
	printDrift(&out, drift)
	golden(t, filepath.Join("testdata", "plan", "drift.txt"), out.String())
}
