package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Sharing says who may use a cache directory at the same time.
type Sharing string

// The ways of sharing.
const (
	// Shared lets any number of commands use it at once.
	Shared Sharing = "shared"
	// Locked makes the second command wait for the first.
	Locked Sharing = "locked"
	// Private gives the second command another directory.
	Private Sharing = "private"
)

// CacheOwner is what a fresh cache directory belongs to.
type CacheOwner struct {
	UID, GID int
	Mode     os.FileMode
	// Fill, if not nil, puts into the directory what it starts with.
	Fill func(dir string) error
}

// Cache is a directory that outlives builds, held until Release.
type Cache struct {
	// Path is the directory.
	Path string
	lock *os.File
	// session measures the directory when it is released; nil measures nothing.
	session *Session
	// known is what the directory was last counted with, taken what the session
	// took for its growth since.
	known, taken int64
}

// Take takes room for bytes before they are written to the directory.
func (c *Cache) Take(bytes int64) error {
	if c.session == nil {
		return nil
	}
	if err := c.session.Take(bytes); err != nil {
		return err
	}
	c.taken += bytes
	return nil
}

// Charge takes room for what has been written to the directory by now. The
// error is a *FullError when there is none.
func (c *Cache) Charge(ctx context.Context) error {
	now, err := DiskUse(ctx, c.Path)
	if err != nil {
		return err
	}
	grown := now - c.known - c.taken
	if grown <= 0 || c.session == nil {
		return nil
	}
	if err := c.session.Take(grown); err != nil {
		return err
	}
	c.taken += grown
	return nil
}

// Release lets others have the directory. What it holds is measured before the
// session ends.
func (c *Cache) Release() {
	if c.session == nil {
		_ = c.lock.Close() // closing unlocks
		return
	}
	c.session.measuring.Go(func() {
		// A directory that could not be measured is measured when room is needed.
		_ = c.session.store.measureMount(context.Background(), c.Path)
		_ = c.session.Kept(c.taken) // counted twice until the session ends, at worst
		_ = c.lock.Close()          // closing unlocks
	})
}

// maxPrivate bounds how many private directories one cache can have.
const maxPrivate = 64

// Cache takes the directory kept under scope and id; different scopes never
// share one. It waits if need be, until ctx ends.
func (session *Session) Cache(ctx context.Context, scope, id string, sharing Sharing, owner CacheOwner) (*Cache, error) {
	cache, err := session.store.Cache(ctx, scope, id, sharing, owner)
	if err == nil {
		cache.session = session
	}
	return cache, err
}

// Cache is Session.Cache for who writes nothing to it.
func (s *Store) Cache(ctx context.Context, scope, id string, sharing Sharing, owner CacheOwner) (*Cache, error) {
	name := mountName(scope, id)
	if sharing != Private {
		how := unix.LOCK_SH
		if sharing == Locked {
			how = unix.LOCK_EX
		}
		return s.cache(ctx, mountRecord{Scope: scope, ID: id}, name, owner, how, true)
	}
	for n := range maxPrivate {
		instance := name
		if n > 0 {
			instance += "-" + strconv.Itoa(n)
		}
		if cache, err := s.cache(ctx, mountRecord{Scope: scope, ID: id}, instance, owner, unix.LOCK_EX, false); err == nil {
			return cache, nil
		}
	}
	return s.cache(ctx, mountRecord{Scope: scope, ID: id}, name, owner, unix.LOCK_EX, true)
}

func mountName(scope, id string) string {
	hash := sha256.New()
	fmt.Fprintf(hash, "%d:%s%d:%s", len(scope), scope, len(id), id)
	return hex.EncodeToString(hash.Sum(nil))
}

// HasCache tells whether there is a directory for scope and id.
func (s *Store) HasCache(scope, id string) bool {
	_, err := os.Lstat(filepath.Join(s.dir, cachesDir, mountName(scope, id)))
	return err == nil
}

func (s *Store) cache(ctx context.Context, record mountRecord, name string, owner CacheOwner, how int, wait bool) (*Cache, error) {
	dir := filepath.Join(s.dir, cachesDir, name)
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cache mount: %w", err)
	}
	fail := func(err error) (*Cache, error) {
		_ = lock.Close() // err matters more
		return nil, fmt.Errorf("cache mount: %w", err)
	}
	if wait {
		err = lockFile(ctx, lock, how)
	} else {
		err = unix.Flock(int(lock.Fd()), how|unix.LOCK_NB)
	}
	if err != nil {
		return fail(err)
	}
	// Whoever evicted it meanwhile has removed the lock's name too: a lock on a
	// file without a name excludes nobody.
	if named, err := os.Stat(lock.Name()); err != nil || !sameFile(named, lock) {
		_ = lock.Close() // excludes nobody
		return s.cache(ctx, record, name, owner, how, wait)
	}
	if err := s.makeCache(ctx, dir, owner); err != nil {
		return fail(err)
	}
	known, err := s.usedMount(dir, record)
	if err != nil {
		return fail(err)
	}
	return &Cache{Path: dir, lock: lock, known: known}, nil
}

// makeCache makes the directory unless it is there. Whoever shares the cache may
// be about to do the same, and a rename would put a new empty directory in the
// place of an old empty one that is in use: so it is done one at a time.
func (s *Store) makeCache(ctx context.Context, dir string, owner CacheOwner) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	// Aside and renamed, so that a killed build leaves none with a wrong owner.
	fresh, err := os.MkdirTemp(filepath.Dir(dir), "fresh-")
	if err != nil {
		return err
	}
	if err := os.Chown(fresh, owner.UID, owner.GID); err != nil && os.Geteuid() == 0 {
		return err
	}
	if owner.Fill != nil {
		if err := owner.Fill(fresh); err != nil {
			return errors.Join(err, os.RemoveAll(fresh))
		}
	}
	if err := os.Chmod(fresh, owner.Mode); err != nil {
		return err
	}
	unlock, err := s.exclusive(ctx)
	if err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	defer unlock()
	if _, err := os.Lstat(dir); err == nil {
		return os.RemoveAll(fresh)
	}
	return os.Rename(fresh, dir)
}
