package cache

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

func TestPackedMountsComeBackAsTheyWere(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	at := time.Unix(1_600_000_000, 123_000_000)
	require.NoError(t, os.MkdirAll(filepath.Join(from, "a", "b"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(from, "a", "b", "file"), []byte("content"), 0o640))
	require.NoError(t, os.Link(filepath.Join(from, "a", "b", "file"), filepath.Join(from, "a", "hard")))
	require.NoError(t, os.Symlink("../outside", filepath.Join(from, "a", "soft")))
	require.NoError(t, os.Chtimes(filepath.Join(from, "a", "b", "file"), at, at))
	require.NoError(t, os.Chmod(filepath.Join(from, "a"), 0o500))
	var packed bytes.Buffer
	require.NoError(t, Pack(context.Background(), from, &packed))
	var taken int64
	require.NoError(t, Unpack(context.Background(), bytes.NewReader(packed.Bytes()), to, func(n int64) error { taken += n; return nil }))
	require.Greater(t, taken, int64(4096))
	info, err := os.Stat(filepath.Join(to, "a", "b", "file"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o640), info.Mode())
	require.True(t, info.ModTime().Equal(at), info.ModTime())
	hard, err := os.Stat(filepath.Join(to, "a", "hard"))
	require.NoError(t, err)
	require.True(t, os.SameFile(info, hard))
	link, err := os.Readlink(filepath.Join(to, "a", "soft"))
	require.NoError(t, err)
	require.Equal(t, "../outside", link)
	dir, err := os.Stat(filepath.Join(to, "a"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o500), dir.Mode().Perm())
	require.NoError(t, os.Chmod(filepath.Join(from, "a"), 0o700))
	require.NoError(t, os.Chmod(filepath.Join(to, "a"), 0o700))

	full := errors.New("full")
	require.ErrorIs(t, Unpack(context.Background(), bytes.NewReader(packed.Bytes()), t.TempDir(), func(int64) error { return full }), full)
}

func packedTar(t testing.TB, headers ...tar.Header) []byte {
	var buffer bytes.Buffer
	encoder, err := zstd.NewWriter(&buffer)
	require.NoError(t, err)
	w := tar.NewWriter(encoder)
	for _, h := range headers {
		require.NoError(t, w.WriteHeader(&h))
		_, err := w.Write(make([]byte, h.Size))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, encoder.Close())
	return buffer.Bytes()
}

func TestAPackedMountWritesNothingOutside(t *testing.T) {
	outside := t.TempDir()
	for name, headers := range map[string][]tar.Header{
		"dots":                {{Typeflag: tar.TypeReg, Name: "../evil", Size: 1, Mode: 0o644}},
		"absolute":            {{Typeflag: tar.TypeReg, Name: outside + "/evil", Size: 1, Mode: 0o644}},
		"through a link":      {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: outside}, {Typeflag: tar.TypeReg, Name: "l/evil", Size: 1, Mode: 0o644}},
		"over a link":         {{Typeflag: tar.TypeSymlink, Name: "evil", Linkname: outside + "/evil"}, {Typeflag: tar.TypeReg, Name: "evil", Size: 1, Mode: 0o644}},
		"hard link out":       {{Typeflag: tar.TypeLink, Name: "l", Linkname: "../../../../etc/passwd"}},
		"hard link to a link": {{Typeflag: tar.TypeSymlink, Name: "s", Linkname: "/etc"}, {Typeflag: tar.TypeLink, Name: "l", Linkname: "s/passwd"}},
		"device":              {{Typeflag: tar.TypeChar, Name: "d", Devmajor: 1, Devminor: 3}},
		"link as root":        {{Typeflag: tar.TypeSymlink, Name: ".", Linkname: outside}, {Typeflag: tar.TypeReg, Name: "evil", Size: 1, Mode: 0o644}},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "mount")
			require.NoError(t, os.Mkdir(dir, 0o755))
			_ = Unpack(context.Background(), bytes.NewReader(packedTar(t, headers...)), dir, nil) // refused or kept inside
			left, err := os.ReadDir(outside)
			require.NoError(t, err)
			require.Empty(t, left)
			left, err = os.ReadDir(parent)
			require.NoError(t, err)
			require.Len(t, left, 1)
			if info, err := os.Stat(filepath.Join(dir, "l")); err == nil {
				passwd, err := os.Stat("/etc/passwd")
				require.NoError(t, err)
				require.False(t, os.SameFile(info, passwd))
			}
		})
	}
	bomb := packedTar(t, tar.Header{Typeflag: tar.TypeReg, Name: "big", Size: 64 << 20, Mode: 0o644})
	limit := errors.New("no room")
	err := Unpack(context.Background(), bytes.NewReader(bomb), t.TempDir(), func(n int64) error {
		if n > 1<<20 {
			return limit
		}
		return nil
	})
	require.ErrorIs(t, err, limit)
}

func FuzzUnpack(f *testing.F) {
	f.Add(packedTar(f, tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Size: 3, Mode: 0o644}, tar.Header{Typeflag: tar.TypeLink, Name: "c", Linkname: "a/b"}))
	f.Add(packedTar(f, tar.Header{Typeflag: tar.TypeSymlink, Name: "x", Linkname: "/"}, tar.Header{Typeflag: tar.TypeDir, Name: "x/y"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "mount")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var left int64 = 1 << 20
		_ = Unpack(context.Background(), bytes.NewReader(data), dir, func(n int64) error { // only where it writes counts
			if left -= n; left < 0 {
				return errors.New("full")
			}
			return nil
		})
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
			t.Fatalf("something beside the mount: %v %v", entries, err)
		}
	})
}
