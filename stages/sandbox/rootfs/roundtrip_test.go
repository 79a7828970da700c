package rootfs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// names collide often, so that things replace one another.
var names = rapid.SampledFrom([]string{"a", "b", "c", "a/a", "a/b", "b/a", "b/c", "c/c", "a/a/a", "a/b/c", "c/c/c"})

// change does one random thing to a tree, as a command in a container could.
func change(t *rapid.T, root string) {
	at := filepath.Join(root, names.Draw(t, "name"))
	var err error
	switch what := rapid.IntRange(0, 8).Draw(t, "what"); what {
	case 0, 1:
		err = os.WriteFile(at, []byte(rapid.StringN(0, 8, 16).Draw(t, "content")), 0o644)
	case 2:
		err = os.MkdirAll(at, 0o755)
	case 3:
		err = os.RemoveAll(at)
	case 4:
		err = os.Symlink(names.Draw(t, "target"), at)
	case 5:
		err = os.Link(filepath.Join(root, names.Draw(t, "source")), at)
	case 6:
		err = os.Rename(at, filepath.Join(root, names.Draw(t, "new name")))
	case 7:
		mode := rapid.SampledFrom([]uint32{0o600, 0o755, 0o1777, 0o4755}).Draw(t, "mode")
		err = unix.Fchmodat(unix.AT_FDCWD, at, mode, 0)
		if err == nil {
			err = os.Lchown(at, rapid.IntRange(0, 3).Draw(t, "owner"), 5)
		}
	case 8:
		err = unix.Lsetxattr(at, "user.note", []byte(rapid.StringN(1, 4, 8).Draw(t, "note")), 0)
	}
	_ = err // many combinations are impossible; the tree decides
}

// Whatever is done to a root filesystem: its layers, unpacked elsewhere, show the
// same, and so does the store that adopted them.
func TestLayersRoundTrip(t *testing.T) {
	ctx := context.Background()
	epoch := time.Unix(1_000_000_000, 0)
	rapid.Check(t, func(rt *rapid.T) {
		store, other := openStore(t), openStore(t)
		var layers []v1.Hash
		for range rapid.IntRange(1, 3).Draw(rt, "layers") {
			snapshot, err := store.Mount(ctx, layers)
			require.NoError(rt, err)
			for range rapid.IntRange(0, 12).Draw(rt, "changes") {
				change(rt, snapshot.Root)
			}
			var stream, again bytes.Buffer
			_, err = snapshot.Diff(ctx, &stream, DiffOptions{Epoch: epoch})
			require.NoError(rt, err)
			_, err = snapshot.Diff(ctx, &again, DiffOptions{Epoch: epoch})
			require.NoError(rt, err)
			require.Equal(rt, stream.Bytes(), again.Bytes())
			id := digestOf(stream.Bytes())
			require.NoError(rt, store.Adopt(ctx, snapshot, id))
			require.NoError(rt, snapshot.Close())
			require.NoError(rt, other.Ensure(ctx, id, opener(stream.Bytes())))
			layers = append(layers, id)
		}
		one, err := store.Mount(ctx, layers)
		require.NoError(rt, err)
		two, err := other.Mount(ctx, layers)
		require.NoError(rt, err)
		a, b := describe(t, one.Root), describe(t, two.Root)
		require.NoError(rt, one.Close())
		require.NoError(rt, two.Close())
		require.Equal(rt, a, b)
	})
}

// A directory that was removed and made again hides the old one; what was made
// in it anew is in the layer, even if the old one had the same.
func TestADirectoryMadeAgainKeepsWhatIsInIt(t *testing.T) {
	ctx := context.Background()
	store, other := openStore(t), openStore(t)
	var layers []v1.Hash
	for range 2 {
		snapshot, err := store.Mount(ctx, layers)
		require.NoError(t, err)
		require.NoError(t, os.RemoveAll(filepath.Join(snapshot.Root, "lists")))
		require.NoError(t, os.MkdirAll(filepath.Join(snapshot.Root, "lists/partial/deep"), 0o755))
		var stream bytes.Buffer
		_, err = snapshot.Diff(ctx, &stream, DiffOptions{})
		require.NoError(t, err)
		id := digestOf(stream.Bytes())
		require.NoError(t, snapshot.Close())
		require.NoError(t, other.Ensure(ctx, id, opener(stream.Bytes())))
		require.NoError(t, store.Ensure(ctx, id, opener(stream.Bytes())))
		layers = append(layers, id)
	}
	mounted, err := other.Mount(ctx, layers)
	require.NoError(t, err)
	require.DirExists(t, filepath.Join(mounted.Root, "lists/partial/deep"))
	require.NoError(t, mounted.Close())
}

func TestALayerIsUnpackedOnceForAll(t *testing.T) {
	dir := t.TempDir()
	stream := archive(t, file("a", "1"))
	var opened atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		store, err := Open(dir)
		require.NoError(t, err)
		group.Go(func() {
			err := store.Ensure(context.Background(), digestOf(stream), func() (io.ReadCloser, error) {
				opened.Add(1)
				return opener(stream)()
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.Equal(t, int32(1), opened.Load())
}

func TestManyLayersMount(t *testing.T) {
	store := openStore(t)
	var layers []v1.Hash
	for i := range 127 {
		layers = append(layers, add(t, store, archive(t, file(fmt.Sprintf("f%d", i), "x"), file("last", fmt.Sprint(i)))))
	}
	snapshot := mountOver(t, store, layers...)
	raw, err := os.ReadFile(filepath.Join(snapshot.Root, "last"))
	require.NoError(t, err)
	require.Equal(t, "126", string(raw))
	require.FileExists(t, filepath.Join(snapshot.Root, "f0"))
}

func TestPruneKeepsTheCapAndWhatIsMounted(t *testing.T) {
	ctx := context.Background()
	store := openStore(t)
	var layers []v1.Hash
	for i := range 3 {
		layers = append(layers, add(t, store, archive(t, file("f", fmt.Sprint(i)))))
		at := time.Now().Add(time.Duration(i-10) * time.Minute)
		require.NoError(t, os.Chtimes(store.layerDir(layers[i]), at, at))
	}
	snapshot := mountOver(t, store, layers[0])
	pruned, err := store.Prune(ctx, 2*2*blockSize)
	require.NoError(t, err)
	require.Equal(t, 1, pruned.Layers)
	require.True(t, store.Has(layers[0]), "it is mounted, and so used last")
	require.False(t, store.Has(layers[1]))
	require.True(t, store.Has(layers[2]))
	pruned, err = store.Prune(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, int64(2*blockSize), pruned.Kept)
	require.NoError(t, snapshot.Close())
	pruned, err = store.Prune(ctx, 0)
	require.NoError(t, err)
	require.Zero(t, pruned.Kept)
	_, err = store.Mount(ctx, layers[:1])
	require.ErrorContains(t, err, "not unpacked here")
}

// A process that is gone holds no locks: closing them is what its death does.
func TestOpenClearsWhatKilledProcessesLeft(t *testing.T) {
	ctx := context.Background()
	store := openStore(t)
	living := mountOver(t, store, add(t, store, archive(t, file("a", "1"))))
	dead, err := store.Mount(ctx, nil)
	require.NoError(t, err)
	dead.owner.Release()
	half, err := store.newIncoming()
	require.NoError(t, err)
	half.lock.Release()
	_, err = Open(store.dir)
	require.NoError(t, err)
	require.NoDirExists(t, dead.dir)
	require.NoDirExists(t, half.dir)
	require.FileExists(t, filepath.Join(living.Root, "a"))
}

func BenchmarkUnpack(b *testing.B) {
	var entries []entry
	body := string(bytes.Repeat([]byte("0123456789abcdef"), 1024)) // 16 KiB
	for i := range 150 {
		entries = append(entries, dir(fmt.Sprintf("d%d/", i)))
		for j := range 100 {
			entries = append(entries, file(fmt.Sprintf("d%d/f%d", i, j), body))
		}
	}
	stream := archive(b, entries...)
	store := openStore(b)
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		require.NoError(b, store.Ensure(context.Background(), digestOf(stream), opener(stream)))
		b.StopTimer()
		_, err := store.Prune(context.Background(), 0)
		require.NoError(b, err)
		b.StartTimer()
	}
}
