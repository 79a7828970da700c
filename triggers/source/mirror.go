package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-billy/v5/osfs"
	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	// objectCache is how much memory one reader may use for objects.
	objectCache = 32 * cache.MiByte
	// largeObject is the size from which files are streamed, not held.
	largeObject = 1 << 20
)

// mirror is a bare repository on disk.
type mirror struct {
	path string
	url  *url.URL
	log  *zap.Logger
	// fetching holds one token: whoever has it may write.
	fetching chan struct{}
	// present is held by readers, and by whoever replaces the mirror.
	present sync.RWMutex
	// suspect is set when an object that must be there could not be read.
	suspect atomic.Bool
}

// lock takes the right to write, from this process and all others.
func (m *mirror) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case m.fetching <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	release := func() { <-m.fetching }
	file, err := os.OpenFile(strings.TrimSuffix(m.path, ".git")+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		release()
		return nil, err
	}
	// The wait for another process cannot be cancelled: it is done aside.
	locked := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(file.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				locked <- err
				return
			}
		}
	}()
	finish := func() { _ = file.Close(); release() } // closing unlocks
	select {
	case err := <-locked:
		if err != nil {
			finish()
			return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		return finish, nil
	case <-ctx.Done():
		go func() {
			<-locked //nolint:errcheck // whether it was had or not, it is given back
			finish()
		}()
		return nil, ctx.Err()
	}
}

// open returns the mirror's objects. go-git's storage is not safe for
// concurrent use, so each operation opens its own. The caller closes it.
func (m *mirror) open() (*filesystem.Storage, error) {
	if _, err := os.Stat(filepath.Join(m.path, "HEAD")); err != nil {
		return nil, err
	}
	return filesystem.NewStorageWithOptions(osfs.New(m.path), cache.NewObjectLRU(objectCache), filesystem.Options{
		KeepDescriptors: true, LargeObjectThreshold: largeObject,
	}), nil
}

// has tells whether the commit and its tree are there.
func (m *mirror) has(commit string) bool {
	_, whole := m.look(commit)
	return whole
}

// look tells whether the commit is listed, and whether it and its tree can be
// read. The first without the second is a damage only if nobody else holds the
// lock: another process may be replacing the mirror.
func (m *mirror) look(commit string) (listed, whole bool) {
	m.present.RLock()
	defer m.present.RUnlock()
	storage, err := m.open()
	if err != nil {
		return false, false
	}
	defer func() { _ = storage.Close() }()
	hash := plumbing.NewHash(commit)
	if storage.HasEncodedObject(hash) != nil {
		return false, false
	}
	c, err := object.GetCommit(storage, hash)
	if err == nil {
		_, err = c.Tree()
	}
	return true, err == nil
}

// prepare makes the mirror ready for a fetch: it exists, holds nothing that a
// killed or failed fetch left, and is not worn out. Called with the lock held.
// What it holds is kept if it can be: a forge that gives no commit by its name
// does not give again what a forced push replaced.
func (m *mirror) prepare(commit string, maxPacks int) error {
	packs, err := m.sweep()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m.recreate()
	case err != nil:
		return err
	case packs > maxPacks:
		m.log.Info("mirror has too many packs: made anew", zap.Int("packs", packs))
		return m.recreate()
	}
	if commit != "" {
		if listed, whole := m.look(commit); listed && !whole {
			m.suspect.Store(true) // a pack was torn
		}
	}
	if m.suspect.Load() {
		m.log.Warn("mirror damaged: made anew")
		return m.recreate()
	}
	if err := m.sweepRefs(); err != nil {
		m.log.Warn("mirror damaged: made anew", zap.Error(err))
		return m.recreate()
	}
	return nil
}

// sweep removes what an ended fetch left half done, and counts packs. An index
// without its pack must go: go-git takes one that exists for complete, even if
// it was cut short.
func (m *mirror) sweep() (packs int, err error) {
	dir := filepath.Join(m.path, "objects", "pack")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	whole := map[string]bool{}
	for _, entry := range entries {
		if name, ok := strings.CutSuffix(entry.Name(), ".pack"); ok {
			whole[name] = true
		}
	}
	for _, entry := range entries {
		name := entry.Name()
		base, index := strings.CutSuffix(name, ".idx")
		if strings.HasPrefix(name, "tmp_") || index && !whole[base] {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				return 0, err
			}
		}
	}
	return len(whole), nil
}

// sweepRefs removes refs that a killed fetch left without their text or their
// object. Refs only tell the forge what is here already.
func (m *mirror) sweepRefs() error {
	storage, err := m.open()
	if err != nil {
		return err
	}
	defer func() { _ = storage.Close() }()
	dir := filepath.Join(m.path, filepath.FromSlash(localRefs))
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		name := filepath.Join(dir, entry.Name())
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		hash := strings.TrimSuffix(string(text), "\n")
		if plumbing.IsHash(hash) && storage.HasEncodedObject(plumbing.NewHash(hash)) == nil {
			continue
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// recreate puts an empty mirror in place of what is there, in one step.
func (m *mirror) recreate() error {
	// Only who holds the lock uses that name: what is there was left by one killed.
	fresh := strings.TrimSuffix(m.path, ".git") + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(fresh) }()
	if _, err := git.PlainInit(fresh, true); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(fresh, "objects", "pack"), 0o700); err != nil {
		return err
	}
	m.present.Lock()
	defer m.present.Unlock()
	if err := os.RemoveAll(m.path); err != nil {
		return err
	}
	if err := os.Rename(fresh, m.path); err != nil {
		return err
	}
	m.suspect.Store(false)
	return nil
}
