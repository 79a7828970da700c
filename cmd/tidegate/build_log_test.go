package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheFullLogIsKeptAndNamed(t *testing.T) {
	host := pushBusybox(t)
	dir, err := os.MkdirTemp("", "tidegate-log-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	context := filepath.Join(dir, "context")
	require.NoError(t, os.Mkdir(context, 0o755))
	// More than any view shows, and what would play with a terminal.
	dockerfile := "FROM busybox\nRUN i=0; while [ $i -lt 3000 ]; do echo \"line $i of the log\"; i=$((i+1)); done; printf '\\033]0;owned\\007\\033[2Jlast\\n'; exit 4\n"
	require.NoError(t, os.WriteFile(filepath.Join(context, "Dockerfile"), []byte(dockerfile), 0o600))
	cache := filepath.Join(dir, "cache")
	out, err := runCache(t, "", "build", "--cache-dir", cache, "--mirror", "docker.io="+host, "--progress=quiet", context)
	require.Error(t, err)
	require.Contains(t, out, "add --debug")
	require.NotContains(t, err.Error()+out, "\x1b")
	require.Contains(t, err.Error(), "exit status 4")
	require.Contains(t, err.Error(), "line 2999 of the log")
	named := regexp.MustCompile(`full log: (\S+)`).FindStringSubmatch(out)
	require.NotNil(t, named, out)
	check := func(file string) {
		full, err := os.ReadFile(file)
		require.NoError(t, err)
		for i := range 3000 {
			require.Contains(t, string(full), fmt.Sprintf("| line %d of the log\n", i))
		}
		require.Contains(t, string(full), "exit status 4")
		require.NotContains(t, string(full), "\x1b")
	}
	check(named[1])
	require.True(t, strings.HasPrefix(named[1], cache))
	out, err = runCache(t, "", "cache", "list", "--kind", "log", "--cache-dir", cache)
	require.NoError(t, err)
	require.Contains(t, out, filepath.Base(named[1]))

	own := filepath.Join(dir, "own.log")
	_, err = runCache(t, "", "build", "--cache-dir", cache, "--mirror", "docker.io="+host, "--progress=rawjson", "--log", own, context)
	require.Error(t, err)
	check(own)
}
