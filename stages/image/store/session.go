package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Session is a build's use of the store. A file used after a session began is
// not evicted while the session lasts, whichever process evicts: a session is a
// directory with a locked file in it, and the file's age is the session's.
type Session struct {
	store *Store
	dir   string
	lock  *os.File

	mu sync.Mutex
	// granted is the room this session was given and has not turned into kept
	// files, free the part of it that nothing was written to.
	granted, free int64
	grantedFile   *os.File
	// measuring are the cache mounts being measured.
	measuring sync.WaitGroup
}

const lockName = "lock"

func begin(ctx context.Context, s *Store) (*Session, error) {
	// Under the eviction lock, so that nobody judges the session dead between
	// its making and its locking.
	unlock, err := s.exclusive(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, err := os.MkdirTemp(filepath.Join(s.dir, sessionsDir), "build-")
	if err != nil {
		return nil, fmt.Errorf("open build cache: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open build cache: %w", err)
	}
	session := &Session{store: s, dir: dir, lock: lock}
	fail := func(err error) (*Session, error) {
		_ = lock.Close() // the first error matters more
		return nil, fmt.Errorf("open build cache: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fail(err)
	}
	if session.grantedFile, err = os.OpenFile(filepath.Join(dir, grantedName), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return fail(err)
	}
	s.touch(lock.Name())
	return session, nil
}

// sessionAlive tells when a session began and whether its process lives.
func sessionAlive(dir string) (time.Time, bool) {
	lock, err := os.Open(filepath.Join(dir, lockName))
	if err != nil {
		return time.Time{}, false
	}
	defer lock.Close()
	info, err := lock.Stat()
	if err != nil || unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		return time.Time{}, false
	}
	return info.ModTime(), true
}

// Dir is a scratch directory of the session. What is written there has to be
// taken first.
func (session *Session) Dir() string { return session.dir }

// End lets go of all that the session held and removes its temporary files.
func (session *Session) End() error {
	session.measuring.Wait()
	err := os.RemoveAll(session.dir)
	return errors.Join(err, session.grantedFile.Close(), session.lock.Close())
}

// exclusive takes the lock under which room is given and files are evicted.
func (s *Store) exclusive(ctx context.Context) (func(), error) {
	lock, err := os.OpenFile(filepath.Join(s.dir, lockName), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock build cache: %w", err)
	}
	if err := lockFile(ctx, lock, unix.LOCK_EX); err != nil {
		_ = lock.Close() // the lock error matters more
		return nil, fmt.Errorf("lock build cache: %w", err)
	}
	return func() { _ = lock.Close() }, nil // closing unlocks
}

// lockPoll is how often a lock that is held elsewhere is tried again.
const lockPoll = 20 * time.Millisecond

// lockFile waits for a lock or the end of ctx.
func lockFile(ctx context.Context, file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if err == nil || (!errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR)) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}
