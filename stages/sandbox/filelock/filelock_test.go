package filelock

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhoExcludesWhom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	for _, test := range []struct {
		held, wanted Mode
		excluded     bool
	}{
		{Shared, Shared, false}, {Shared, Exclusive, true}, {Exclusive, Shared, true}, {Exclusive, Exclusive, true},
	} {
		held, err := Try(path, test.held)
		require.NoError(t, err)
		other, err := Try(path, test.wanted)
		if test.excluded {
			require.ErrorIs(t, err, ErrHeld)
		} else {
			require.NoError(t, err)
		}
		other.Release()
		held.Release()
	}
}

func TestWaitingEndsWithItsContextOrItsReason(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := Try(path, Exclusive)
	require.NoError(t, err)
	defer held.Release()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Acquire(ctx, path, Shared)
	require.ErrorIs(t, err, context.Canceled)
	lock, err := AcquireUnless(context.Background(), path, Shared, func() bool { return true })
	require.NoError(t, err)
	require.Nil(t, lock)
	lock.Release()
}

// A lock on a file that its last holder unlinked would exclude nobody.
func TestARemovedFileIsLockedByOneAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var group sync.WaitGroup
	var inside, most atomic.Int32
	for range 8 {
		group.Go(func() {
			for range 50 {
				lock, err := Acquire(context.Background(), path, Exclusive)
				if err != nil {
					t.Error(err)
					return
				}
				if n := inside.Add(1); n > most.Load() {
					most.Store(n)
				}
				inside.Add(-1)
				lock.Remove()
			}
		})
	}
	group.Wait()
	require.Equal(t, int32(1), most.Load())
	_, err := os.Stat(path)
	require.ErrorIs(t, err, os.ErrNotExist)
}
