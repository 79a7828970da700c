package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/stages/image/store"
)

func runCache(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	root := newRootCommand()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetIn(strings.NewReader(in))
	root.SetArgs(args)
	err := root.Execute()
	return out.String(), err
}

func TestCacheListPruneExportAndImport(t *testing.T) {
	dir := t.TempDir()
	writeContext := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(writeContext, "Dockerfile"), []byte("FROM scratch\nCOPY a /\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(writeContext, "a"), []byte("1"), 0o600))
	_, err := runCache(t, "", "build", "--cache-dir", dir, "--cache-size", "1GiB", writeContext)
	require.NoError(t, err)

	out, err := runCache(t, "", "cache", "list", "--cache-dir", dir)
	require.NoError(t, err)
	require.Contains(t, out, "KIND    SIZE")
	require.Contains(t, out, "blob ")
	require.Contains(t, out, "record ")
	require.Regexp(t, `\d+ entries, \d+`, out)

	packed := filepath.Join(t.TempDir(), "go-build.tar.zst")
	kept, err := store.Open(filepath.Join(dir, "build"), store.Options{})
	require.NoError(t, err)
	mount, err := kept.Cache(t.Context(), localScope, "go-build", store.Shared, store.CacheOwner{Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(mount.Path, "object"), []byte("compiled"), 0o600))
	mount.Release()
	_, err = runCache(t, "", "cache", "export", "go-build", packed, "--cache-dir", dir)
	require.NoError(t, err)
	_, err = runCache(t, "", "cache", "import", "go-build", packed, "--cache-dir", dir)
	require.ErrorContains(t, err, "has something in it")
	out, err = runCache(t, "", "cache", "prune", "--kind", "mount", "go-build", "--cache-dir", dir)
	require.NoError(t, err)
	require.Contains(t, out, "removed 1 entries")
	_, err = runCache(t, "", "cache", "export", "go-build", packed+"2", "--cache-dir", dir)
	require.ErrorContains(t, err, `there is no cache mount "go-build"`)
	_, err = runCache(t, "", "cache", "import", "go-build", packed, "--cache-dir", dir)
	require.NoError(t, err)
	out, err = runCache(t, "", "cache", "list", "--kind", "mount", "-o", "json", "--cache-dir", dir)
	require.NoError(t, err)
	var entries []store.Entry
	require.NoError(t, json.Unmarshal([]byte(out), &entries))
	require.Len(t, entries, 1)
	require.Equal(t, "go-build", entries[0].Name)
	require.Positive(t, entries[0].Bytes)

	_, err = runCache(t, "", "cache", "prune", "--kind", "everything", "--cache-dir", dir)
	require.ErrorContains(t, err, "use blob, record, unpacked, mount, log")
	_, err = runCache(t, "", "cache", "prune", "--cache-dir", dir)
	require.NoError(t, err)
	out, err = runCache(t, "", "cache", "list", "-o", "json", "--cache-dir", dir)
	require.NoError(t, err)
	require.JSONEq(t, "[]", out)
}

func TestCacheTable(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	require.Equal(t, []string{
		"KIND   SIZE    USED    SCOPE  NAME",
		"mount  1.5 MB  3h ago  local  /root/.cache evil",
		"blob   2 B     5s ago         sha256:abc",
		"2 entries, 1.5 MB",
	}, cacheTable([]store.Entry{
		{Kind: store.KindMount, Name: "/root/.cache\x1b[2J evil", Scope: "local", Bytes: 1_500_000, Used: now.Add(-3 * time.Hour)},
		{Kind: store.KindBlob, Name: "sha256:abc", Bytes: 2, Used: now.Add(-5 * time.Second)},
	}, now))
}

func TestByteSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "123": 123, "1k": 1000, "2KiB": 2048, "1.5GB": 1_500_000_000, "20GiB": 20 << 30, "7 mb": 7_000_000, "5b": 5} {
		var b byteSize
		require.NoError(t, b.Set(text), text)
		require.Equal(t, want, int64(b), text)
	}
	for _, text := range []string{"", "x", "-1", "1e30TB", "NaN", "GiB"} {
		var b byteSize
		require.Error(t, b.Set(text), text)
	}
	rapid.Check(t, func(t *rapid.T) {
		b := byteSize(rapid.Int64Range(0, 1<<52).Draw(t, "bytes"))
		var back byteSize
		if err := back.Set(b.String()); err != nil || back != b {
			t.Fatalf("%d is written %s and read %d: %v", int64(b), b.String(), int64(back), err)
		}
	})
}
