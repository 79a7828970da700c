package oci

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

func BenchmarkRun(b *testing.B) {
	r, root := findRuntime(b), busyboxRoot(b)
	for b.Loop() {
		require.NoError(b, r.Run(context.Background(), root, sandbox.Command{Args: []string{"true"}}, Limits{}))
	}
}

// BenchmarkBareRuntime is the floor: the runtime with the same spec and nothing around it.
func BenchmarkBareRuntime(b *testing.B) {
	r, root := findRuntime(b), busyboxRoot(b)
	bundle := b.TempDir()
	spec, err := containerSpec(root, "bare", sandbox.Command{Args: []string{"true"}}, identity{home: "/root"}, nil, r.controllers, Limits{})
	require.NoError(b, err)
	raw, err := json.Marshal(spec)
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(filepath.Join(bundle, "config.json"), raw, 0o600))
	for b.Loop() {
		require.NoError(b, exec.Command(r.command, "--root", r.stateDir(), "run", "--bundle", bundle, "bare").Run())
	}
}
