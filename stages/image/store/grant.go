package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The cap holds at every moment, also in the middle of builds: nothing is
// written that was not granted before, and
//
//	what is kept + what is granted to running builds ≤ cap
//
// whenever a grant is given. What a build is granted stands in its session's
// directory, where other processes read it; it covers temporary files and what
// the build may still write. Keeping a file moves its size from the grant to
// what is kept.

const grantedName = "granted"

// The sizes of grants: big enough to be rare, small enough that a small store
// is not given away at once.
const (
	grantShare = 64 // the part of the cap
	maxGrant   = 64 << 20
)

// FullError says that there is no room under the cap: all that is kept is in use.
type FullError struct {
	Cap, Wanted int64
	// InUse is kept and may not be evicted, Granted is what running builds are
	// writing, this one included.
	InUse, Granted int64
	// Builds counts the running ones, this one included.
	Builds int
}

func (e *FullError) Error() string {
	who := "this build needs"
	if e.Builds > 1 {
		who = fmt.Sprintf("this build and %d others that run need", e.Builds-1)
	}
	return fmt.Sprintf("%s more than the build cache may hold: its cap is %s, %s of it is in use, %s is being written, and %s more is wanted; raise the cap (--cache-size, or limits.cache-bytes of a server) or run fewer builds at once",
		who, size(e.Cap), size(e.InUse), size(e.Granted), size(e.Wanted))
}

func size(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

// Take asks for room for n bytes before they are written below Dir, or elsewhere
// under the cap. The error is a *FullError when there is none.
func (session *Session) Take(n int64) error {
	session.mu.Lock()
	defer session.mu.Unlock()
	if session.free >= n {
		session.free -= n
		return nil
	}
	if err := session.store.grant(context.Background(), session, n-session.free); err != nil {
		return err
	}
	session.free -= n
	return nil
}

// Give tells that n bytes that were taken are not there any more.
func (session *Session) Give(n int64) {
	session.mu.Lock()
	defer session.mu.Unlock()
	session.free += n
}

// Kept tells that n bytes that were taken now belong to what is kept.
func (session *Session) Kept(n int64) error {
	session.mu.Lock()
	defer session.mu.Unlock()
	session.granted -= n
	return session.writeGranted()
}

func (session *Session) writeGranted() error {
	// In place and of fixed length: a reader never sees half a number.
	if _, err := session.grantedFile.WriteAt(fmt.Appendf(nil, "%020d", max(session.granted, 0)), 0); err != nil {
		return fmt.Errorf("write build cache: %w", err)
	}
	return nil
}

// grant gives a session room for at least n more bytes. The caller holds the
// session's mutex.
func (s *Store) grant(ctx context.Context, session *Session, n int64) error {
	unlock, err := s.exclusive(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	running, err := s.running()
	if err != nil {
		return err
	}
	more := n + min(s.maxBytes/grantShare, maxGrant)
	kept, err := s.makeRoom(ctx, running, more)
	if err != nil {
		return err
	}
	if room := s.maxBytes - kept - running.granted; room < more {
		if room < n {
			return &FullError{Cap: s.maxBytes, Wanted: n, InUse: kept, Granted: running.granted, Builds: running.builds}
		}
		more = n
	}
	session.granted += more
	session.free += more
	if err := session.writeGranted(); err != nil {
		return err
	}
	return nil
}

// runningBuilds is what the sessions of living processes say.
type runningBuilds struct {
	builds  int
	granted int64
	// oldest is when the first of them began; the present if there is none.
	// What was used since is in use.
	oldest time.Time
}

// running reads the sessions and removes those of dead processes. The caller
// holds the store's lock.
func (s *Store) running() (runningBuilds, error) {
	r := runningBuilds{oldest: s.now()}
	entries, err := os.ReadDir(filepath.Join(s.dir, sessionsDir))
	if err != nil {
		return r, fmt.Errorf("read build cache: %w", err)
	}
	for _, entry := range entries {
		dir := filepath.Join(s.dir, sessionsDir, entry.Name())
		began, alive := sessionAlive(dir)
		if !alive {
			if err := os.RemoveAll(dir); err != nil {
				return r, fmt.Errorf("clean build cache: %w", err)
			}
			continue
		}
		r.builds++
		if began.Before(r.oldest) {
			r.oldest = began
		}
		text, err := os.ReadFile(filepath.Join(dir, grantedName))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it ended just now
		}
		if err != nil {
			return r, fmt.Errorf("read build cache: %w", err)
		}
		granted, err := strconv.ParseInt(strings.TrimLeft(string(text), "0"), 10, 64)
		if err == nil {
			r.granted += granted
		}
	}
	return r, nil
}

// makeRoom evicts what was used least recently until wanted more bytes fit, or
// all that is left is in use. It tells how much is kept then. The caller holds
// the store's lock.
func (s *Store) makeRoom(ctx context.Context, running runningBuilds, wanted int64) (kept int64, err error) {
	all, err := s.list(ctx)
	if err != nil {
		return 0, err
	}
	for _, e := range all {
		kept += e.Bytes
	}
	for _, e := range all {
		if kept+running.granted+wanted <= s.maxBytes || !e.Used.Before(running.oldest) {
			break // what follows is in use too
		}
		removed, err := s.remove(ctx, e)
		if err != nil {
			return kept, fmt.Errorf("evict from build cache: %w", err)
		}
		if removed {
			kept -= e.Bytes
		}
	}
	return kept, nil
}

// Evict brings the store under its cap and removes what dead builds left.
func (s *Store) Evict(ctx context.Context) error {
	unlock, err := s.exclusive(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	running, err := s.running()
	if err != nil {
		return err
	}
	_, err = s.makeRoom(ctx, running, 0)
	return err
}

// byUse sorts what was used least recently first.
func byUse(entries []Entry) {
	slices.SortStableFunc(entries, func(a, b Entry) int { return a.Used.Compare(b.Used) })
}
