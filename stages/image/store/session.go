package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
	// room is how many bytes may be written before the store is measured again.
	room int64
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
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close() // the lock error matters more
		return nil, fmt.Errorf("lock build cache: %w", err)
	}
	s.touch(lock.Name())
	return &Session{store: s, dir: dir, lock: lock}, nil
}

// Dir is a scratch directory of the session.
func (session *Session) Dir() string { return session.dir }

// End lets go of all that the session held and removes its temporary files.
func (session *Session) End() error {
	err := os.RemoveAll(session.dir)
	return errors.Join(err, session.lock.Close())
}

// exclusive takes the lock under which files are evicted.
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

// measureShare is the part of the cap after which the store is measured again.
const measureShare = 64

// reserve makes room for size bytes: it evicts what was used least recently.
func (session *Session) reserve(size int64) error {
	session.mu.Lock()
	defer session.mu.Unlock()
	session.room -= size
	if session.room >= 0 {
		return nil
	}
	step := max(session.store.maxBytes/measureShare, 1)
	if err := session.store.evict(context.Background(), size+step); err != nil {
		return err
	}
	session.room = step
	return nil
}

// Evict brings the store under its cap and removes what dead builds left.
func (s *Store) Evict(ctx context.Context) error { return s.evict(ctx, 0) }

type stored struct {
	path string
	size int64
	used time.Time
}

func (s *Store) evict(ctx context.Context, wanted int64) error {
	unlock, err := s.exclusive(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	oldest, err := s.sweepSessions()
	if err != nil {
		return err
	}
	var files []stored
	var total int64
	for _, sub := range []string{blobsDir, recordsDir} {
		entries, err := os.ReadDir(filepath.Join(s.dir, sub))
		if err != nil {
			return fmt.Errorf("measure build cache: %w", err)
		}
		for _, entry := range entries {
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("measure build cache: %w", err)
			}
			total += info.Size()
			files = append(files, stored{filepath.Join(s.dir, sub, entry.Name()), info.Size(), info.ModTime()})
		}
	}
	slices.SortFunc(files, func(a, b stored) int { return a.used.Compare(b.used) })
	for _, file := range files {
		if total+wanted <= s.maxBytes {
			return nil
		}
		if !file.used.Before(oldest) {
			break // in use, and so is all that follows
		}
		if err := os.Remove(file.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("evict from build cache: %w", err)
		}
		total -= file.size
	}
	return nil
}

// sweepSessions removes the sessions of dead processes and tells when the
// oldest living one began; now if there is none.
func (s *Store) sweepSessions() (time.Time, error) {
	oldest := s.now()
	entries, err := os.ReadDir(filepath.Join(s.dir, sessionsDir))
	if err != nil {
		return oldest, fmt.Errorf("read build cache: %w", err)
	}
	for _, entry := range entries {
		dir := filepath.Join(s.dir, sessionsDir, entry.Name())
		lock, err := os.Open(filepath.Join(dir, lockName))
		alive := false
		if err == nil {
			alive = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
			if info, err := lock.Stat(); alive && err == nil && info.ModTime().Before(oldest) {
				oldest = info.ModTime()
			}
			_ = lock.Close() // only looked at
		}
		if !alive {
			if err := os.RemoveAll(dir); err != nil {
				return oldest, fmt.Errorf("clean build cache: %w", err)
			}
		}
	}
	return oldest, nil
}
