package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

// collidingNames are few, so that entries replace and hide one another.
var collidingNames = rapid.SampledFrom([]string{"a", "b", "c", "a/a", "a/b", "b/a", "b/c", "c/c", "a/a/a", "a/b/c", "c/c/c", "b/a/a", "../a", "/b/./c"})

var targets = rapid.SampledFrom([]string{"a", "b", "c", "../b", "/c", "a/b", "../../a", "/", ".."})

func drawHeader(t *rapid.T) tar.Header {
	name := collidingNames.Draw(t, "name")
	switch rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0, 1:
		return regular(name)
	case 2:
		h := directory(name)
		h.Mode = rapid.SampledFrom([]int64{0o700, 0o1777}).Draw(t, "mode")
		return h
	case 3, 4:
		return link(name, targets.Draw(t, "target"))
	case 5:
		return hardLink(name, collidingNames.Draw(t, "original"))
	case 6:
		return regular(filepath.Dir(name) + "/.wh." + filepath.Base(name))
	}
	return regular(name + "/.wh..wh..opq")
}

// A layer may hide all that is below it, by a marker at its root or at a link
// that leads there.
func TestALayerThatHidesAllBelow(t *testing.T) {
	ctx := context.Background()
	for _, headers := range [][]tar.Header{
		{regular(".wh..wh..opq"), regular("x")},
		{link("b/c", "/"), regular("b/c/.wh..wh..opq"), regular("x")},
	} {
		store, err := rootfs.Open(t.TempDir())
		require.NoError(t, err, "this test needs root")
		var layers []v1.Hash
		var view View
		for _, layer := range [][]tar.Header{{regular("a")}, headers} {
			stream := tarOf(t, layer...)
			sum := sha256.Sum256(stream)
			id := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
			require.NoError(t, store.Ensure(ctx, id, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(stream)), nil }))
			table, err := ReadTable(bytes.NewReader(stream))
			require.NoError(t, err)
			view, layers = view.Above(table), append(layers, id)
		}
		snapshot, err := store.Mount(ctx, layers)
		require.NoError(t, err)
		require.NoFileExists(t, filepath.Join(snapshot.Root, "a"))
		require.FileExists(t, filepath.Join(snapshot.Root, "x"))
		require.NoError(t, snapshot.Close())
		_, ok := view.Lookup("a")
		require.False(t, ok)
	}
}

// What a view of tables says is what the mounted layers show.
func TestViewsAgreeWithMountedLayers(t *testing.T) {
	ctx := context.Background()
	store, err := rootfs.Open(t.TempDir())
	require.NoError(t, err, "this test needs root")
	rapid.Check(t, func(rt *rapid.T) {
		var layers []v1.Hash
		var view View
		for range rapid.IntRange(1, 3).Draw(rt, "layers") {
			headers := rapid.SliceOfN(rapid.Custom(drawHeader), 0, 6).Draw(rt, "headers")
			stream := tarOf(t, headers...)
			sum := sha256.Sum256(stream)
			id := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
			err := store.Ensure(ctx, id, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(stream)), nil })
			if err != nil {
				rt.Skip("it can't be unpacked either")
			}
			table, err := ReadTable(bytes.NewReader(stream))
			require.NoError(rt, err)
			for name := range table.Removed {
				if table.Implied[name] {
					rt.Skip("overlayfs can't tell a removed directory from an emptied one")
				}
			}
			above := view.Above(table)
			if above[len(above)-1] != table {
				rt.Skip("hostile enough, where things end up depends on the order of entries, which no table has")
			}
			layers, view = append(layers, id), above
		}
		snapshot, err := store.Mount(ctx, layers)
		if errors.Is(err, unix.ELOOP) {
			rt.Skip("no tool could unpack a layer over a loop of links")
		}
		require.NoError(rt, err)
		defer func() { require.NoError(rt, snapshot.Close()) }()
		for _, name := range []string{"a", "b", "c", "a/a", "a/b", "a/c", "b/a", "b/b", "b/c", "c/a", "c/b", "c/c", "a/a/a", "a/a/b", "a/b/c", "b/a/a", "c/c/c"} {
			if resolved, err := view.Resolve(filepath.Dir(name)); err != nil || resolved != cleanName(filepath.Dir(name)) {
				continue // not a path without links
			}
			node, ok := view.Lookup(name)
			info, err := os.Lstat(filepath.Join(snapshot.Root, name))
			require.Equal(rt, err == nil, ok, "/%s: %v", name, err)
			if !ok {
				continue
			}
			flag, _ := TarType(info.Mode())
			require.Equal(rt, string(rune(flag)), string(rune(node.Type)), "/%s", name)
			require.Equal(rt, ModeBits(info.Mode()), node.Mode, "/%s", name)
		}
	})
}

// A layer made by a tool that does not look below it: bin is a link there.
func TestNamesThroughLinksOfLowerLayersLandWhereTheyLead(t *testing.T) {
	table := func(headers ...tar.Header) *Table {
		read, err := ReadTable(bytes.NewReader(tarOf(t, headers...)))
		require.NoError(t, err)
		return read
	}
	view := View(nil).Above(table(directory("usr"), directory("usr/bin"), regular("usr/bin/old"), link("bin", "usr/bin"), link("abs", "/usr")))
	view = view.Above(table(regular("bin/new"), regular("bin/.wh.old"), regular("abs/lib/x")))
	for name, want := range map[string]byte{"bin": '2', "usr/bin/new": '0', "usr/lib": '5', "usr/lib/x": '0', "usr/bin/old": 0, "bin/new": 0} {
		node, ok := view.Lookup(name)
		require.Equal(t, want != 0, ok, name)
		if ok {
			require.Equal(t, string(rune(want)), string(rune(node.Type)), name)
		}
	}
	require.Len(t, view.Above(table(directory("bin"), regular("bin/own"))), 3)
	node, ok := view.Above(table(directory("bin"), regular("bin/own"))).Lookup("bin/own")
	require.True(t, ok, "a layer that describes its directory has one")
	require.Equal(t, byte(tar.TypeReg), node.Type)
}
