package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// Every command explains itself, with an example.
func TestHelp(t *testing.T) {
	root := newRootCommand()
	var visit func(path []string, command *cobra.Command)
	visit = func(path []string, command *cobra.Command) {
		t.Run(strings.Join(append([]string{"tidegate"}, path...), " "), func(t *testing.T) {
			run := newRootCommand()
			var out bytes.Buffer
			run.SetOut(&out)
			run.SetErr(&out)
			run.SetArgs(append(path, "--help"))
			require.NoError(t, run.Execute())
			require.NotEmpty(t, command.Short)
			require.Contains(t, out.String(), "Usage:\n")
			require.Contains(t, out.String(), "Examples:\n")
		})
		for _, child := range command.Commands() {
			visit(append(append([]string{}, path...), child.Name()), child)
		}
	}
	visit(nil, root)
}

func TestVersionFlagSaysWhatTheCommandSays(t *testing.T) {
	said := func(args ...string) string {
		root := newRootCommand()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetArgs(args)
		require.NoError(t, root.Execute())
		return out.String()
	}
	require.Equal(t, said("version"), said("--version"))
}
