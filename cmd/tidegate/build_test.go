package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// build runs tidegate build over a small context, with a cache of its own.
func build(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nARG TARGETARCH\nCOPY a /a\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a"), []byte("1"), 0o600))
	root := newRootCommand()
	var out, failures bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&failures)
	root.SetArgs(append([]string{"build", "--cache-dir", filepath.Join(dir, "cache"), dir}, args...))
	err = root.Execute()
	return out.String(), failures.String(), err
}

func TestBuildTellsWhatItMade(t *testing.T) {
	dir := t.TempDir()
	iid, metadata := filepath.Join(dir, "iid"), filepath.Join(dir, "metadata.json")
	stdout, stderr, err := build(t, "-t", "shop:1", "-t", "shop:2", "--iidfile", iid, "--metadata-file", metadata)
	require.NoError(t, err)
	require.Contains(t, stderr, "COPY a /a")
	var m map[string]any
	data, err := os.ReadFile(metadata)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &m))
	require.Equal(t, strings.TrimSpace(stdout), m["containerimage.digest"])
	require.Equal(t, "shop:1,shop:2", m["image.name"])
	require.Equal(t, m["containerimage.digest"], m["containerimage.descriptor"].(map[string]any)["digest"])
	id, err := os.ReadFile(iid)
	require.NoError(t, err)
	require.Equal(t, m["containerimage.config.digest"], string(id))

	stdout, stderr, err = build(t, "-q")
	require.NoError(t, err)
	require.Equal(t, string(id)+"\n", stdout)
	require.Empty(t, stderr)

	stdout, _, err = build(t, "--platform", "linux/amd64,linux/arm64", "-q", "--metadata-file", metadata)
	require.NoError(t, err)
	data, err = os.ReadFile(metadata)
	require.NoError(t, err)
	m = nil
	require.NoError(t, json.Unmarshal(data, &m))
	require.Equal(t, strings.TrimSpace(stdout), m["containerimage.digest"])
	require.NotContains(t, m, "containerimage.config.digest")
	require.Len(t, m["tidegate.platforms"], 2)
}

func TestBuildToStandardOutput(t *testing.T) {
	stdout, stderr, err := build(t, "-o", "-")
	require.NoError(t, err)
	header, err := tar.NewReader(strings.NewReader(stdout)).Next()
	require.NoError(t, err)
	require.Equal(t, "a", header.Name)
	require.Contains(t, stderr, "sha256:", "what names the result is elsewhere")

	stdout, _, err = build(t, "-o", "type=docker,dest=-", "-t", "shop")
	require.NoError(t, err)
	var names []string
	for r := tar.NewReader(strings.NewReader(stdout)); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		names = append(names, header.Name)
	}
	require.Contains(t, names, "manifest.json")
}

func TestBuildFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // of the error; empty for success
	}{
		{[]string{"--pull", "--rm", "--force-rm=false", "--compress", "--allow", "network.host"}, ""},
		{[]string{"--add-host", "db:10.0.0.1", "--shm-size", "1g", "--ulimit", "nofile=10:20", "-m", "1g", "--no-cache-filter", "a,b"}, ""},
		{[]string{"--annotation", "manifest:a=b", "--label", "a=b", "--compression", "zstd", "--compression-level", "3"}, ""},
		{[]string{"--add-host", "db"}, "NAME:ADDRESS"},
		{[]string{"--ulimit", "x=1"}, "--ulimit"},
		{[]string{"--shm-size", "0"}, "--shm-size"},
		{[]string{"--memory", "much"}, "--memory"},
		{[]string{"--allow", "security.insecure"}, "only network.host"},
		{[]string{"--cgroup-parent", "x"}, "--cgroup-parent: each RUN has a control group"},
		{[]string{"--squash"}, "--squash: layers are not squashed"},
		{[]string{"--security-opt", "seccomp=unconfined"}, "--security-opt"},
		{[]string{"--builder=x"}, "no builder instances"},
		{[]string{"--push"}, "--push needs a name"},
		{[]string{"-o", "-", "-o", "type=docker,dest=-"}, "only one output"},
		{[]string{"-o", "type=zip"}, "type=zip"},
		{[]string{"--annotation", "layer:a=b"}, "--annotation"},
		{[]string{"--annotation", "index:a=b"}, "has no index"},
		{[]string{"--compression", "lzma"}, "--compression"},
		{[]string{"--compression-level", "10"}, "0 to 9"},
		{[]string{"--platform", "a/b/c/d"}, "--platform"},
		{[]string{"--registry-ca", "x"}, "--registry-ca"},
		{[]string{"--registry-realm", "x="}, "--registry-realm"},
	} {
		_, _, err := build(t, c.args...)
		if c.want == "" {
			require.NoError(t, err, c.args)
			continue
		}
		require.ErrorContains(t, err, c.want, c.args)
	}
}
