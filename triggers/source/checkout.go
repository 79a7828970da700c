package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

const (
	// maxDepth bounds how deep a tree may nest.
	maxDepth = 200
	// maxLinkTarget is what Linux allows a symbolic link to hold (PATH_MAX).
	maxLinkTarget = 4095
	// maxTreeBytes bounds one directory's listing.
	maxTreeBytes = 64 << 20
)

// Checkout is what a checkout wrote.
type Checkout struct {
	Files int
	Bytes int64
	// Submodules lists paths that were left as empty directories: submodules
	// are not fetched.
	Submodules []string
}

// Checkout writes the files of a commit, fetched if need be, into dir, which
// must be empty or not exist. It keeps the executable bit and symbolic links,
// wherever those point: who reads the files must not follow them out of dir.
// Nothing is written outside dir. What a failed checkout wrote is removed.
func (c *Cache) Checkout(ctx context.Context, repository event.Repository, commit, dir string) (*Checkout, error) {
	var done *Checkout
	err := c.read(ctx, repository, commit, func(storage *filesystem.Storage) error {
		var err error
		done, err = c.checkout(ctx, storage, commit, dir)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("check out %s of %s: %w", commit, repository.FullName, err)
	}
	return done, nil
}

// read fetches the commit if need be and calls use with the mirror's objects,
// again if one cannot be read: with nobody else fetching, for who fetches may
// just have put an empty mirror in this one's place; then from one made whole.
func (c *Cache) read(ctx context.Context, repository event.Repository, commit string, use func(*filesystem.Storage) error) error {
	m, err := c.mirror(repository)
	if err != nil {
		return err
	}
	if err := c.fetch(ctx, m, repository, "", commit); err != nil {
		return err
	}
	var broken *brokenError
	if err := m.reading(use); !errors.As(err, &broken) {
		return err
	}
	return c.locked(ctx, m, func(ctx context.Context) error {
		if err := m.reading(use); !errors.As(err, &broken) {
			return err
		}
		if listed, _ := m.look(commit); listed {
			m.suspect.Store(true)
		}
		if err := c.fetchAlone(ctx, m, repository, "", commit); err != nil {
			return err
		}
		return m.reading(use)
	})
}

func (m *mirror) reading(use func(*filesystem.Storage) error) error {
	m.present.RLock()
	defer m.present.RUnlock()
	storage, err := m.open()
	if err != nil {
		return &brokenError{err}
	}
	defer func() { _ = storage.Close() }()
	return use(storage)
}

// brokenError is an object that must be there and cannot be read.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "the local mirror is damaged: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

func (c *Cache) checkout(ctx context.Context, storage *filesystem.Storage, commit, dir string) (_ *Checkout, err error) {
	tree, err := rootTree(storage, commit)
	if err != nil {
		return nil, err
	}
	made := false
	switch entries, err := os.ReadDir(dir); {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		made = true
	case err != nil:
		return nil, err
	case len(entries) > 0:
		return nil, fmt.Errorf("%s is not empty", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	w := &treeWriter{ctx: ctx, storage: storage, config: &c.config, buffer: make([]byte, 64<<10)}
	err = w.tree(root, "", tree, 0)
	if err != nil {
		err = errors.Join(err, clear(root, dir, made))
	}
	if err := errors.Join(err, root.Close()); err != nil {
		return nil, err
	}
	return &w.done, nil
}

// clear removes what a failed checkout wrote.
func clear(root *os.Root, dir string, made bool) error {
	if made {
		return os.RemoveAll(dir)
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	for _, entry := range entries {
		err = errors.Join(err, root.RemoveAll(entry.Name()))
	}
	return err
}

func rootTree(storage *filesystem.Storage, commit string) (*object.Tree, error) {
	c, err := object.GetCommit(storage, plumbing.NewHash(commit))
	if err != nil {
		return nil, &brokenError{err}
	}
	return readTree(storage, c.TreeHash)
}

func readTree(storage *filesystem.Storage, hash plumbing.Hash) (*object.Tree, error) {
	switch size, err := storage.EncodedObjectSize(hash); {
	case err != nil:
		return nil, &brokenError{err}
	case size > maxTreeBytes:
		return nil, fmt.Errorf("%w: a directory's listing has %d bytes", ErrTooLarge, size)
	}
	tree, err := object.GetTree(storage, hash)
	if err != nil {
		return nil, &brokenError{err}
	}
	return tree, nil
}

// treeWriter writes trees to disk, within the limits of Config.
type treeWriter struct {
	ctx     context.Context
	storage *filesystem.Storage
	config  *Config
	buffer  []byte
	done    Checkout
}

// tree writes the entries of a tree into dir, which the path prefix names. Every
// name is created, never opened if it exists, and relative to an open
// directory: a link that the repository holds is never followed.
func (w *treeWriter) tree(dir *os.Root, prefix string, tree *object.Tree, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: %q is nested deeper than %d directories", ErrTooLarge, prefix, maxDepth)
	}
	for _, entry := range tree.Entries {
		if err := w.ctx.Err(); err != nil {
			return withCause(w.ctx, err)
		}
		name := path.Join(prefix, entry.Name)
		if err := checkName(entry.Name); err != nil {
			return fmt.Errorf("%w: %q: %w", ErrRefused, name, err)
		}
		if w.done.Files++; w.done.Files > w.config.MaxFiles {
			return fmt.Errorf("%w: more than %d files", ErrTooLarge, w.config.MaxFiles)
		}
		if err := w.entry(dir, name, entry, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *treeWriter) entry(dir *os.Root, name string, entry object.TreeEntry, depth int) error {
	switch entry.Mode {
	case filemode.Dir:
		tree, err := readTree(w.storage, entry.Hash)
		if err != nil {
			return err
		}
		if err := dir.Mkdir(entry.Name, 0o755); err != nil {
			return err
		}
		sub, err := dir.OpenRoot(entry.Name)
		if err != nil {
			return err
		}
		return errors.Join(w.tree(sub, name, tree, depth+1), sub.Close())
	case filemode.Regular, filemode.Deprecated:
		return w.file(dir, name, entry, 0o644)
	case filemode.Executable:
		return w.file(dir, name, entry, 0o755)
	case filemode.Symlink:
		return w.link(dir, name, entry)
	case filemode.Submodule:
		w.done.Submodules = append(w.done.Submodules, name)
		return dir.Mkdir(entry.Name, 0o755)
	}
	return fmt.Errorf("%w: %q has mode %s", ErrRefused, name, entry.Mode)
}

func (w *treeWriter) file(dir *os.Root, name string, entry object.TreeEntry, mode fs.FileMode) error {
	blob, err := w.blob(name, entry.Hash, w.config.MaxFileBytes)
	if err != nil {
		return err
	}
	if w.done.Bytes += blob.Size; w.done.Bytes > w.config.MaxCheckoutBytes {
		return fmt.Errorf("%w: the files have more than %d bytes together", ErrTooLarge, w.config.MaxCheckoutBytes)
	}
	file, err := dir.OpenFile(entry.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	reader, err := blob.Reader()
	if err != nil {
		return errors.Join(&brokenError{err}, file.Close())
	}
	n, err := io.CopyBuffer(onlyWriter{file}, reader, w.buffer)
	if err == nil && n != blob.Size {
		err = &brokenError{fmt.Errorf("%q has %d bytes in place of %d", name, n, blob.Size)}
	}
	return errors.Join(err, reader.Close(), file.Close())
}

// onlyWriter hides ReadFrom, which would bring a buffer of its own for each file.
type onlyWriter struct{ io.Writer }

func (w *treeWriter) link(dir *os.Root, name string, entry object.TreeEntry) error {
	blob, err := w.blob(name, entry.Hash, maxLinkTarget)
	if err != nil {
		return err
	}
	target, err := readBlob(blob)
	if err != nil {
		return err
	}
	if len(target) == 0 || strings.ContainsRune(string(target), 0) {
		return fmt.Errorf("%w: the symbolic link %q has no valid target", ErrRefused, name)
	}
	return dir.Symlink(string(target), entry.Name)
}

// blob looks a file up; its size is checked before any of it is read.
func (w *treeWriter) blob(name string, hash plumbing.Hash, limit int64) (*object.Blob, error) {
	return limitedBlob(w.storage, name, hash, limit)
}

func limitedBlob(storage *filesystem.Storage, name string, hash plumbing.Hash, limit int64) (*object.Blob, error) {
	switch size, err := storage.EncodedObjectSize(hash); {
	case err != nil:
		return nil, &brokenError{fmt.Errorf("%q: %w", name, err)}
	case size > limit:
		return nil, fmt.Errorf("%w: %q has %d bytes, at most %d are allowed", ErrTooLarge, name, size, limit)
	}
	blob, err := object.GetBlob(storage, hash)
	if err != nil {
		return nil, &brokenError{fmt.Errorf("%q: %w", name, err)}
	}
	return blob, nil
}

func readBlob(blob *object.Blob) ([]byte, error) {
	reader, err := blob.Reader()
	if err != nil {
		return nil, &brokenError{err}
	}
	data, err := io.ReadAll(io.LimitReader(reader, blob.Size))
	if err := errors.Join(err, reader.Close()); err != nil {
		return nil, &brokenError{err}
	}
	return data, nil
}

// checkName refuses names that Git itself would not check out: those that leave
// the directory, and all that some filesystem takes for ".git".
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return errors.New("not a valid file name")
	case len(name) > 255:
		return errors.New("the file name is longer than 255 bytes")
	case strings.ContainsAny(name, "/\x00"):
		return errors.New("the file name has a separator in it")
	}
	plain := strings.Map(func(r rune) rune {
		// Characters that HFS+ ignores.
		if r >= 0x200c && r <= 0x200f || r >= 0x202a && r <= 0x202e || r >= 0x206a && r <= 0x206f || r == 0xfeff {
			return -1
		}
		return r
	}, name)
	plain, _, _ = strings.Cut(plain, ":") // an NTFS stream
	plain = strings.ToLower(strings.TrimRight(plain, ". "))
	if plain == ".git" || plain == "git~1" {
		return errors.New("the file name means Git's own directory")
	}
	return nil
}
