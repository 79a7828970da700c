// Package filelock takes locks on files (flock(2)) between processes. The kernel
// takes a lock away when its process dies, whatever way that ends.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Mode says who else may hold a lock at the same time.
type Mode int

// The modes.
const (
	// Shared excludes exclusive holders.
	Shared Mode = unix.LOCK_SH
	// Exclusive excludes everyone.
	Exclusive Mode = unix.LOCK_EX
)

// ErrHeld is returned by Try when another holder excludes this one.
var ErrHeld = errors.New("held by another")

// Lock is a held lock. A nil Lock is none, and releasing it does nothing.
type Lock struct{ file *os.File }

// Path is the name of the lock's file.
func (l *Lock) Path() string { return l.file.Name() }

// Release lets others have the lock. The file stays.
func (l *Lock) Release() {
	if l != nil {
		_ = l.file.Close() // which unlocks
	}
}

// Remove unlinks the file and releases the lock, which must be exclusive.
func (l *Lock) Remove() {
	if l != nil {
		_ = os.Remove(l.file.Name())
		_ = l.file.Close()
	}
}

// Try takes the lock on the file at path, which is made if needed, or returns
// ErrHeld.
func Try(path string, mode Mode) (*Lock, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := flock(file, int(mode)|unix.LOCK_NB); err != nil {
			_ = file.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrHeld
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Whoever held it before may have unlinked the file meanwhile; a lock
		// on a file that has no name excludes nobody.
		named, err := os.Stat(path)
		held, heldErr := file.Stat()
		if err == nil && heldErr == nil && os.SameFile(named, held) {
			return &Lock{file}, nil
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

// Acquire waits for the lock until ctx ends. It asks again and again instead of
// blocking in the kernel, which a context could not interrupt.
func Acquire(ctx context.Context, path string, mode Mode) (*Lock, error) {
	return AcquireUnless(ctx, path, mode, func() bool { return false })
}

// AcquireUnless is Acquire, except that it gives up, with no lock and no error,
// once there is no need for the lock any more.
func AcquireUnless(ctx context.Context, path string, mode Mode, needless func() bool) (*Lock, error) {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		if needless() {
			return nil, nil
		}
		held, err := Try(path, mode)
		if !errors.Is(err, ErrHeld) {
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
