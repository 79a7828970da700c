package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
}

// Cache is a directory that outlives builds, held until Release.
type Cache struct {
	// Path is the directory.
	Path string
	lock *os.File
}

// Release lets others have the directory.
func (c *Cache) Release() { _ = c.lock.Close() } // closing unlocks

// maxPrivate bounds how many private directories one cache can have.
const maxPrivate = 64

// Cache takes the directory kept under scope and id; different scopes never
// share one. It waits if need be, until ctx ends.
func (s *Store) Cache(ctx context.Context, scope, id string, sharing Sharing, owner CacheOwner) (*Cache, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%d:%s%d:%s", len(scope), scope, len(id), id)
	name := hex.EncodeToString(hash.Sum(nil))
	if sharing != Private {
		how := unix.LOCK_SH
		if sharing == Locked {
			how = unix.LOCK_EX
		}
		return s.cache(ctx, name, owner, how, true)
	}
	for n := range maxPrivate {
		instance := name
		if n > 0 {
			instance += "-" + strconv.Itoa(n)
		}
		if cache, err := s.cache(ctx, instance, owner, unix.LOCK_EX, false); err == nil {
			return cache, nil
		}
	}
	return s.cache(ctx, name, owner, unix.LOCK_EX, true)
}

func (s *Store) cache(ctx context.Context, name string, owner CacheOwner, how int, wait bool) (*Cache, error) {
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
	if err := s.makeCache(ctx, dir, owner); err != nil {
		return fail(err)
	}
	return &Cache{Path: dir, lock: lock}, nil
}

// makeCache makes the directory unless it is there. Whoever shares the cache may
// be about to do the same, and a rename would put a new empty directory in the
// place of an old empty one that is in use: so it is done one at a time.
func (s *Store) makeCache(ctx context.Context, dir string, owner CacheOwner) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	unlock, err := s.exclusive(ctx)
	if err != nil {
		return err
	}
	defer unlock()
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
	if err := os.Chmod(fresh, owner.Mode); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}
