package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

type lockMode int

const (
	shared    lockMode = unix.LOCK_SH
	exclusive lockMode = unix.LOCK_EX
)

// errHeld is returned by tryAcquire when another holder excludes this one.
var errHeld = errors.New("held by another")

// lock is a held flock. It dies with its process, whatever way that ends.
type lock struct{ file *os.File }

func (l *lock) release() {
	if l != nil {
		_ = l.file.Close()
	}
}

// remove unlinks the lock's file and releases it. The lock must be exclusive.
func (l *lock) remove() {
	_ = os.Remove(l.file.Name())
	_ = l.file.Close()
}

// tryAcquire takes the lock at path or returns errHeld.
func tryAcquire(path string, mode lockMode) (*lock, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(file, int(mode)|unix.LOCK_NB); err != nil {
			_ = file.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errHeld
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Whoever held it before may have unlinked the file meanwhile; a lock
		// on a file that has no name excludes nobody.
		named, err := os.Stat(path)
		held, heldErr := file.Stat()
		if err == nil && heldErr == nil && os.SameFile(named, held) {
			return &lock{file}, nil
		}
		_ = file.Close()
	}
}

func flock(file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// The pauses between two tries for a lock.
const (
	firstPause = 2 * time.Millisecond
	maxPause   = 100 * time.Millisecond
)

// acquire waits for the lock until ctx ends. It asks again and again instead of
// blocking in the kernel, which a context could not interrupt.
func acquire(ctx context.Context, path string, mode lockMode) (*lock, error) {
	return acquireUnless(ctx, path, mode, func() bool { return false })
}

// acquireUnless is acquire, except that it gives up, with no lock and no error,
// once there is no need for the lock any more.
func acquireUnless(ctx context.Context, path string, mode lockMode, needless func() bool) (*lock, error) {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		if needless() {
			return nil, nil
		}
		held, err := tryAcquire(path, mode)
		if !errors.Is(err, errHeld) {
			return held, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// incoming is a layer that is not visible yet.
type incoming struct {
	dir  string
	lock *lock
}

func (s *Store) newIncoming() (*incoming, error) {
	name := filepath.Join(s.dir, "incoming", uuid.NewString())
	held, err := tryAcquire(name+".lock", exclusive)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		held.remove()
		return nil, err
	}
	return &incoming{dir: name, lock: held}, nil
}

// discard removes what is left of an incoming layer; nothing is once it was published.
func (in *incoming) discard() {
	_ = os.RemoveAll(in.dir)
	in.lock.remove()
}
