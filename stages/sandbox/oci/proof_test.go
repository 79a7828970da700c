package oci

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A container is run to try the runtime once, and again when the runtime is
// another program, or failed.
func TestARuntimeIsTriedOncePerProgram(t *testing.T) {
	working, dir := findRuntime(t).command, t.TempDir()
	calls, wrapper := filepath.Join(dir, "calls"), filepath.Join(dir, "runtime")
	state := filepath.Join(dir, "oci")
	install := func(script string) {
		require.NoError(t, os.RemoveAll(wrapper))
		require.NoError(t, os.WriteFile(wrapper, []byte("#!/bin/sh\necho \"$@\" >>"+calls+"\n"+script+"\n"), 0o755))
	}
	tried := func() int {
		raw, err := os.ReadFile(calls)
		require.NoError(t, err)
		return strings.Count(string(raw), " run ")
	}
	find := func() error {
		_, err := Find(context.Background(), Options{Dir: state, Command: wrapper})
		return err
	}
	install("exec " + working + ` "$@"`)
	require.NoError(t, find())
	require.Equal(t, 1, tried())
	require.NoError(t, find())
	require.Equal(t, 1, tried(), "nothing has changed")

	install("exit 1")
	require.ErrorIs(t, find(), ErrNoRuntime)
	require.ErrorIs(t, find(), ErrNoRuntime, "a failure is not remembered as a success")
	require.Equal(t, 3, tried())

	install("exec " + working + ` "$@"`)
	require.NoError(t, find())
	require.Equal(t, 4, tried())

	record := filepath.Join(state, "proven-runtime")
	raw, err := os.ReadFile(record)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(record, raw[:len(raw)/2], 0o600))
	require.NoError(t, find(), "half a record, as a crash may leave it")
	require.Equal(t, 5, tried())
}
