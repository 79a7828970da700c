package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// unpackInto extracts into a directory beside one that must stay as it is.
func unpackInto(t testing.TB, stream []byte, limits Limits) (tree string, err error) {
	t.Helper()
	outer := t.TempDir()
	tree = filepath.Join(outer, "tree")
	require.NoError(t, os.Mkdir(tree, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outer, "victim"), []byte("untouched"), 0o600))
	before := describe(t, filepath.Join(outer, "victim"))
	_, err = extract(bytes.NewReader(stream), tree, limits.withDefaults())
	require.Equal(t, before, describe(t, filepath.Join(outer, "victim")))
	entries, readErr := os.ReadDir(outer)
	require.NoError(t, readErr)
	require.Len(t, entries, 2, "something was made outside the tree")
	return tree, err
}

func TestHostileLayersStayInside(t *testing.T) {
	outer := t.TempDir()
	for name, entries := range map[string][]entry{
		"dot dot":                 {file("../victim", "x"), file("a/../../victim", "x")},
		"absolute":                {file("/victim", "x"), file(filepath.Join(outer, "victim"), "x")},
		"through a link":          {symlink("out", ".."), file("out/victim", "x")},
		"through an absolute one": {symlink("out", outer), file("out/victim", "x")},
		"through a chain":         {symlink("a", "b"), symlink("b", "../.."), file("a/victim", "x")},
		"link named dot":          {symlink(".", ".."), file("victim", "x")},
		"link replaces directory": {dir("d"), symlink("d", ".."), file("d/victim", "x")},
		"hard link outside":       {hardlink("stolen", "../victim"), file("stolen", "x")},
		"hard link by link":       {symlink("l", "../victim"), hardlink("stolen", "l"), file("stolen", "x")},
		"hard link in link":       {symlink("l", ".."), hardlink("stolen", "l/victim"), file("stolen", "x")},
		"hard link to a whiteout": {file(".wh.a", ""), hardlink("b", "a")},
		"whiteout outside":        {file("../.wh.victim", ""), symlink("l", ".."), file("l/.wh.victim", "")},
		"whiteout of dot dot":     {file(".wh...", "")},
		"opaque outside":          {symlink("l", ".."), file("l/.wh..wh..opq", "")},
		"endless link":            {symlink("a", "b"), symlink("b", "a"), file("a/x", "x")},
		"mode through a link":     {symlink("victim", "../victim"), {tar.Header{Typeflag: tar.TypeSymlink, Name: "victim", Linkname: "../victim", Mode: 0o4777}, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _ = unpackInto(t, archive(t, entries...), Limits{}) // refused or kept inside: both will do
		})
	}
}

func TestAttributesThatSteerOverlayfsAreDropped(t *testing.T) {
	hostile := dir("d/")
	hostile.PAXRecords = map[string]string{
		"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.kept": "yes",
	}
	tree, err := unpackInto(t, archive(t, hostile), Limits{})
	require.NoError(t, err)
	names, err := listAttributes(filepath.Join(tree, "d"))
	require.NoError(t, err)
	require.Equal(t, []string{"user.kept"}, names)
}

func TestLayersAreBounded(t *testing.T) {
	many := archive(t, file("a", "1"), file("b", "2"), file("c", "3"))
	_, err := unpackInto(t, many, Limits{Entries: 2})
	require.ErrorContains(t, err, "more than 2 entries")
	_, err = unpackInto(t, many, Limits{Bytes: 2})
	require.ErrorContains(t, err, "larger than the store's limit")
	_, err = unpackInto(t, archive(t, file(strings.Repeat("d/", 2500)+"f", "")), Limits{})
	require.ErrorContains(t, err, "longer than")
	_, err = unpackInto(t, archive(t, file(strings.Repeat("n", 300), "")), Limits{})
	require.Error(t, err)

	store, err := OpenLimited(t.TempDir(), Limits{Bytes: 100})
	require.NoError(t, err)
	require.ErrorContains(t, store.Ensure(context.Background(), digestOf(many), opener(many)), "larger than the store's limit")
	require.False(t, store.Has(digestOf(many)))
}

// A file of holes alone costs the layer a few bytes and the disk all it says.
func TestSparseBombsAreFoundOut(t *testing.T) {
	const size = 60 << 30
	var stream bytes.Buffer
	record := func(key, value string) string {
		text := " " + key + "=" + value + "\n"
		return fmt.Sprintf("%d%s", len(text)+2, text) // all are of two digits
	}
	records := record("GNU.sparse.size", strconv.Itoa(size)) + record("GNU.sparse.numblocks", "1") + record("GNU.sparse.map", "0,1") + record("GNU.sparse.name", "holes")
	w := tar.NewWriter(&stream)
	// The writer refuses sparse records; so they are put in place of a comment.
	filler := strings.Repeat("c", len(records)-len(strconv.Itoa(len(records))+" comment=\n"))
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "holes", Mode: 0o644, Size: 1, PAXRecords: map[string]string{"comment": filler}, Format: tar.FormatPAX}))
	_, err := w.Write([]byte("x"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	raw := bytes.Replace(stream.Bytes(), []byte(fmt.Sprintf("%d comment=%s\n", len(records), filler)), []byte(records), 1)
	header, err := tar.NewReader(bytes.NewReader(raw)).Next()
	require.NoError(t, err)
	require.Equal(t, int64(size), header.Size, "the stream is what this test is about")
	_, err = unpackInto(t, raw, Limits{})
	require.ErrorContains(t, err, "decompression bomb")
}

func TestADamagedLayerIsRefused(t *testing.T) {
	store := openStore(t)
	stream := archive(t, file("a", "1"))
	id := digestOf(stream)
	require.ErrorContains(t, store.Ensure(context.Background(), id, opener(append(stream, 0))), "damaged")
	require.Error(t, store.Ensure(context.Background(), id, opener(stream[:600])))
	require.False(t, store.Has(id))
	left, err := os.ReadDir(filepath.Join(store.dir, "incoming"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, store.Ensure(context.Background(), id, opener(stream)))
}

func FuzzExtract(f *testing.F) {
	f.Add(archive(f, dir("d/"), file("d/f", "x"), symlink("l", "../d"), hardlink("h", "l/f"), file("d/.wh.x", ""), file("d/.wh..wh..opq", "")))
	f.Add(archive(f, symlink("l", "/etc"), file("l/passwd", "x"), file("../x", "x")))
	f.Add(archive(f, symlink("a", "b/c"), symlink("b", "a"), file("a/b/c", "")))
	f.Fuzz(func(t *testing.T, stream []byte) {
		_, _ = unpackInto(t, stream, Limits{Bytes: 1 << 20, Entries: 1000})
	})
}
