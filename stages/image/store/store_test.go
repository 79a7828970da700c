package store

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Second)
	return c.now
}

func open(t *testing.T, maxBytes int64) *Store {
	s, err := Open(t.TempDir(), Options{MaxBytes: maxBytes, Now: (&clock{now: time.Unix(1e9, 0)}).Now})
	require.NoError(t, err)
	return s
}

func hash(n byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: string([]byte{'a' + n})} }

func TestWhatIsPutIsThere(t *testing.T) {
	s := open(t, 0)
	session, err := s.Begin(context.Background())
	require.NoError(t, err)
	require.False(t, s.Has(hash(0), 3))
	require.NoError(t, session.PutBlob(hash(0), []byte("abc")))
	require.True(t, s.Has(hash(0), 3))
	require.False(t, s.Has(hash(0), 4), "a short file is no blob")
	require.NoError(t, session.Put("kind", hash(1), map[string]int{"n": 1}))
	var got map[string]int
	found, err := s.Record("kind", hash(1), &got)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, map[string]int{"n": 1}, got)
	require.NoError(t, os.WriteFile(s.recordPath("kind", hash(1)), []byte("{bro"), 0o600))
	found, err = s.Record("kind", hash(1), &got)
	require.NoError(t, err)
	require.False(t, found, "a broken record is a miss")
	require.NoError(t, session.End())
}

func TestLeastRecentlyUsedGoesFirstAndWhatIsInUseStays(t *testing.T) {
	s := open(t, 250)
	put := func(session *Session, n byte) { require.NoError(t, session.PutBlob(hash(n), make([]byte, 100))) }
	first, err := s.Begin(context.Background())
	require.NoError(t, err)
	put(first, 0)
	put(first, 1)
	require.NoError(t, first.End())
	require.True(t, s.Has(hash(0), 100)) // used again: 1 is older now

	second, err := s.Begin(context.Background())
	require.NoError(t, err)
	put(second, 2)
	require.NoError(t, s.Evict(context.Background()))
	require.True(t, s.Has(hash(0), 100))
	require.False(t, s.Has(hash(1), 100))
	var full *FullError
	require.ErrorAs(t, second.PutBlob(hash(3), make([]byte, 100)), &full)
	for _, n := range []byte{0, 2} {
		require.True(t, s.Has(hash(n), 100), "a running build keeps what it made and used")
	}
	require.NoError(t, second.End())
	third, err := s.Begin(context.Background())
	require.NoError(t, err)
	put(third, 3)
	require.True(t, s.Has(hash(2), 100))
	require.False(t, s.Has(hash(0), 100))
	require.NoError(t, third.End())
}

func TestADeadSessionIsSwept(t *testing.T) {
	s := open(t, 0)
	session, err := s.Begin(context.Background())
	require.NoError(t, err)
	temporary, err := session.Temporary()
	require.NoError(t, err)
	require.NoError(t, s.Evict(context.Background()))
	require.FileExists(t, temporary.Name())
	require.NoError(t, session.lock.Close()) // as the kernel does for a killed process
	require.NoError(t, s.Evict(context.Background()))
	require.NoDirExists(t, session.Dir())
}

func TestSharedCachesAreOneDirectory(t *testing.T) {
	s := open(t, 0)
	var group sync.WaitGroup
	paths := make([]string, 16)
	inodes := make([]os.FileInfo, 16)
	for i := range paths {
		group.Go(func() {
			cache, err := s.Cache(context.Background(), "scope", "id", Shared, CacheOwner{Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()})
			if err != nil {
				return
			}
			defer cache.Release()
			paths[i] = cache.Path
			inodes[i], _ = os.Stat(cache.Path)
		})
	}
	group.Wait()
	for i := range paths {
		require.Equal(t, paths[0], paths[i])
		require.True(t, os.SameFile(inodes[0], inodes[i]), "nobody's directory is replaced")
	}
	other, err := s.Cache(context.Background(), "scop", "eid", Shared, CacheOwner{Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()})
	require.NoError(t, err)
	defer other.Release()
	require.NotEqual(t, paths[0], other.Path)
	require.Equal(t, filepath.Dir(paths[0]), filepath.Dir(other.Path))
}

func TestLockedWaitsAndPrivateGoesElsewhere(t *testing.T) {
	s := open(t, 0)
	owner := CacheOwner{Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()}
	held, err := s.Cache(context.Background(), "s", "i", Locked, owner)
	require.NoError(t, err)
	private, err := s.Cache(context.Background(), "s", "i", Private, owner)
	require.NoError(t, err)
	require.NotEqual(t, held.Path, private.Path)
	private.Release()
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan error, 1)
	go func() {
		_, err := s.Cache(ctx, "s", "i", Locked, owner)
		got <- err
	}()
	cancel()
	require.ErrorIs(t, <-got, context.Canceled)
	held.Release()
	again, err := s.Cache(context.Background(), "s", "i", Locked, owner)
	require.NoError(t, err)
	again.Release()
}
