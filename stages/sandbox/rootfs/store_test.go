package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

func openStore(t testing.TB) *Store {
	t.Helper()
	store, err := Open(t.TempDir())
	require.NoError(t, err)
	return store
}

func digestOf(stream []byte) v1.Hash {
	sum := sha256.Sum256(stream)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// archive makes a tar stream of headers; Body holds the content of each.
func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		e.Header.Size = int64(len(e.body))
		if e.Header.Mode == 0 {
			e.Header.Mode = 0o644
			if e.Header.Typeflag == tar.TypeDir {
				e.Header.Mode = 0o755
			}
		}
		require.NoError(t, w.WriteHeader(&e.Header))
		_, err := io.WriteString(w, e.body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name}, body}
}

func dir(name string) entry { return entry{tar.Header{Typeflag: tar.TypeDir, Name: name}, ""} }

func symlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func hardlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

func add(t testing.TB, store *Store, stream []byte) v1.Hash {
	t.Helper()
	id := digestOf(stream)
	require.NoError(t, store.Ensure(context.Background(), id, opener(stream)))
	return id
}

func opener(stream []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(stream)), nil }
}

func mountOver(t testing.TB, store *Store, layers ...v1.Hash) *Snapshot {
	t.Helper()
	snapshot, err := store.Mount(context.Background(), layers)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, snapshot.Close()) })
	return snapshot
}

func TestLayersMountChangeAndComeBackAsALayer(t *testing.T) {
	ctx := context.Background()
	store := openStore(t)
	base := add(t, store, archive(t, dir("etc/"), file("etc/a", "1"), file("etc/b", "2"), dir("gone/"), file("gone/x", "x"), dir("again/"), file("again/y", "y")))
	snapshot := mountOver(t, store, base)
	at := func(name string) string { return filepath.Join(snapshot.Root, name) }

	require.NoError(t, os.WriteFile(at("etc/a"), []byte("changed"), 0o600))
	require.NoError(t, os.Remove(at("etc/b")))
	require.NoError(t, os.RemoveAll(at("gone")))
	require.NoError(t, os.RemoveAll(at("again")))
	require.NoError(t, os.Mkdir(at("again"), 0o755))
	require.NoError(t, os.WriteFile(at("again/z"), []byte("z"), 0o644))
	require.NoError(t, os.Link(at("again/z"), at("again/zz")))

	var layer bytes.Buffer
	changed, err := snapshot.Diff(ctx, &layer, DiffOptions{})
	require.NoError(t, err)
	require.True(t, changed)
	require.Equal(t, []string{".wh.gone", "again/", "again/.wh..wh..opq", "again/z", "again/zz", "etc/", "etc/.wh.b", "etc/a"}, sortedAsWritten(t, layer.Bytes()))

	second := digestOf(layer.Bytes())
	require.NoError(t, store.Adopt(ctx, snapshot, second))
	other := openStore(t)
	stream := archive(t, dir("etc/"), file("etc/a", "1"), file("etc/b", "2"), dir("gone/"), file("gone/x", "x"), dir("again/"), file("again/y", "y"))
	require.Equal(t, describe(t, mountOver(t, store, base, second).Root), describe(t, mountOver(t, other, add(t, other, stream), add(t, other, layer.Bytes())).Root))
}

func TestNothingChangedIsSaid(t *testing.T) {
	store := openStore(t)
	snapshot := mountOver(t, store, add(t, store, archive(t, dir("a/b/"))))
	stub := filepath.Join(snapshot.Root, "a/b/stub")
	require.NoError(t, os.WriteFile(stub, nil, 0o600))
	require.NoError(t, os.Remove(stub))
	changed, err := snapshot.Diff(context.Background(), io.Discard, DiffOptions{})
	require.NoError(t, err)
	require.False(t, changed)
}

func sortedAsWritten(t testing.TB, stream []byte) (names []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(stream)); ; {
		header, err := r.Next()
		if err == io.EOF {
			return names
		}
		require.NoError(t, err)
		names = append(names, header.Name)
	}
}

func TestDirectoriesThatALayerOnlyImplies(t *testing.T) {
	store := openStore(t)
	tmp := dir("tmp/")
	tmp.Mode = 0o1777
	base := add(t, store, archive(t, tmp, dir("usr/bin/"), file("usr/bin/bash", "bash"), symlink("bin", "usr/bin"), symlink("abs", "/usr/lib"), dir("usr/lib/x/"), file("usr/lib/x/old", "old"), dir("kept/")))
	top := add(t, store, archive(t, file("tmp/new", "1"), file("bin/foo", "foo"), file("abs/x/new", "new"), file("bin/sub/deep", "deep"), file("fresh/a", "a")))
	replaced := add(t, store, archive(t, dir("bin/"), file("bin/only", "only")))

	snapshot := mountOver(t, store, base, top)
	read := func(name string) string {
		raw, err := os.ReadFile(filepath.Join(snapshot.Root, name))
		require.NoError(t, err)
		return string(raw)
	}
	info, err := os.Stat(filepath.Join(snapshot.Root, "tmp"))
	require.NoError(t, err)
	require.Equal(t, os.ModeDir|os.ModeSticky|0o777, info.Mode())
	link, err := os.Readlink(filepath.Join(snapshot.Root, "bin"))
	require.NoError(t, err)
	require.Equal(t, "usr/bin", link)
	for name, want := range map[string]string{"usr/bin/bash": "bash", "usr/bin/foo": "foo", "usr/bin/sub/deep": "deep", "usr/lib/x/old": "old", "usr/lib/x/new": "new", "fresh/a": "a", "tmp/new": "1"} {
		require.Equal(t, want, read(name), name)
	}

	snapshot = mountOver(t, store, base, replaced)
	require.Equal(t, "only", read("bin/only"))
	require.NoFileExists(t, filepath.Join(snapshot.Root, "bin/bash"))
}

func TestALayerInUseIsNotWaitedFor(t *testing.T) {
	ctx := context.Background()
	store := openStore(t)
	stream := archive(t)
	id := add(t, store, stream)
	snapshot := mountOver(t, store, id)
	require.NoError(t, store.Adopt(ctx, snapshot, id))
	require.NoError(t, store.Ensure(ctx, id, opener(stream)))
}

// A command made again gives the same layer. What it wrote is not removed at
// once, which would take longer than many a command, but it is accounted for.
func TestALayerMadeAgainLeavesSurplus(t *testing.T) {
	ctx := context.Background()
	store := openStore(t)
	write := func(files int) v1.Hash {
		snapshot := mountOver(t, store)
		for i := range files {
			require.NoError(t, os.WriteFile(filepath.Join(snapshot.Root, strconv.Itoa(i)), []byte("x"), 0o600))
		}
		var layer bytes.Buffer
		_, err := snapshot.Diff(ctx, &layer, DiffOptions{Epoch: time.Unix(1, 0)})
		require.NoError(t, err)
		id := digestOf(layer.Bytes())
		require.NoError(t, store.Adopt(ctx, snapshot, id))
		require.NoError(t, snapshot.Close())
		return id
	}
	for range 2 {
		write(surplusFrom - 2) // and the root
	}
	small, err := store.List()
	require.NoError(t, err)
	require.Len(t, small, 1, "what is removed in no time is not left")

	id := write(surplusFrom)
	require.Equal(t, id, write(surplusFrom))
	kept, err := store.List()
	require.NoError(t, err)
	require.Len(t, kept, 3)
	surplus := kept[0]
	require.Contains(t, surplus.Name, surplusPrefix, "it is the first to go")
	require.GreaterOrEqual(t, surplus.Bytes, int64(surplusFrom*2*blockSize))

	var total int64
	for _, tree := range kept {
		total += tree.Bytes
	}
	pruned, err := store.Prune(ctx, total-1)
	require.NoError(t, err)
	require.Equal(t, surplus.Bytes, pruned.Bytes)
	require.True(t, store.Has(id))
	left, err := os.ReadDir(filepath.Join(store.dir, "surplus"))
	require.NoError(t, err)
	require.Empty(t, left)
	gone, err := store.Remove(surplus)
	require.NoError(t, err)
	require.True(t, gone, "removing again does no harm")
	_, err = store.Remove(Unpacked{Name: surplusPrefix + "../layers"})
	require.Error(t, err)
}
