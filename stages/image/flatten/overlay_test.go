package flatten_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/stages/image/flatten"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

// drawLayer makes a layer that could be a real one: a name has one entry, and
// what is in a directory comes after it.
func drawLayer(t *rapid.T, number int, files []string) []byte {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	used := map[string]bool{}
	names := rapid.SliceOfN(rapid.SampledFrom(files), 0, 6).Draw(t, "names")
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		parent := filepath.Dir(name)
		hidden := used[name]
		for above := parent; above != "."; above = filepath.Dir(above) {
			hidden = hidden || used["!"+above]
		}
		if hidden {
			continue
		}
		header := &tar.Header{Name: name, Mode: 0o644}
		content := ""
		switch rapid.SampledFrom([]string{"file", "file", "directory", "whiteout", "opaque"}).Draw(t, "kind") {
		case "file":
			content = fmt.Sprintf("%s of %d", name, number)
			header.Typeflag, header.Size = tar.TypeReg, int64(len(content))
			used["!"+name] = true // nothing lies below it
		case "directory":
			header.Typeflag, header.Mode = tar.TypeDir, 0o750
		case "whiteout":
			header.Typeflag, header.Name = tar.TypeReg, filepath.Join(parent, ".wh."+filepath.Base(name))
			used["!"+name] = true
		case "opaque":
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o700}); err != nil {
				t.Fatal(err)
			}
			header.Typeflag, header.Name = tar.TypeReg, name+"/.wh..wh..opq"
		}
		used[name] = true
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, content)
	}
	_ = w.Close()
	return buffer.Bytes()
}

func listing(t require.TestingT, dir string) []string {
	var all []string
	require.NoError(t, filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // overlayfs lists a whiteout with nothing below it, and has no such file
		}
		if err != nil {
			return err
		}
		line := strings.TrimPrefix(name, dir+"/") + " " + info.Mode().String()
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += " " + string(content)
		}
		all = append(all, line)
		return nil
	}))
	return all
}

// What is flattened is what the kernel shows of the same layers.
func TestFlattenedLayersAreWhatOverlayfsShows(t *testing.T) {
	dir, err := os.MkdirTemp("", "tidegate-flatten-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	store, err := rootfs.Open(filepath.Join(dir, "rootfs"))
	require.NoError(t, err)
	files := []string{"a", "a/b", "a/b/c", "a/d", "e", "e/f"}
	rapid.Check(t, func(t *rapid.T) {
		var layers []flatten.Layer
		var ids []v1.Hash
		for i := range rapid.IntRange(1, 4).Draw(t, "layers") {
			data := drawLayer(t, i, files)
			open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
			layers = append(layers, open)
			sum := sha256.Sum256(data)
			id := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
			require.NoError(t, store.Ensure(context.Background(), id, func() (io.ReadCloser, error) { return open(context.Background()) }))
			ids = append(ids, id)
		}
		at, err := os.MkdirTemp(dir, "flat-")
		require.NoError(t, err)
		folder, err := flatten.NewFolder(at)
		require.NoError(t, err)
		require.NoError(t, flatten.Write(context.Background(), layers, folder))
		require.NoError(t, folder.Close())
		snapshot, err := store.Mount(context.Background(), ids)
		require.NoError(t, err)
		want := listing(t, snapshot.Root)
		require.NoError(t, snapshot.Close())
		require.Equal(t, want, listing(t, at))
		require.NoError(t, os.RemoveAll(at))
	})
}
