package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// MaxReadBytes bounds a file that is read through FS: pipeline files and
// manifests, not data.
const MaxReadBytes = 8 << 20

// FS returns the files of a commit, fetched if need be, without a checkout. It
// is safe for concurrent use, stays valid as long as the cache, and reads while
// ctx lives. Symbolic links are not followed: opening one is an error.
func (c *Cache) FS(ctx context.Context, repository event.Repository, commit string) (fs.FS, error) {
	f := &commitFS{ctx: ctx, cache: c, repository: repository, commit: commit}
	if _, err := f.Open("."); err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", commit, repository.FullName, err)
	}
	return f, nil
}

// ReadFile returns one file of a commit, fetched if need be.
func (c *Cache) ReadFile(ctx context.Context, repository event.Repository, commit, name string) ([]byte, error) {
	f := &commitFS{ctx: ctx, cache: c, repository: repository, commit: commit}
	data, err := f.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read from %s of %s: %w", commit, repository.FullName, err)
	}
	return data, nil
}

type commitFS struct {
	ctx        context.Context
	cache      *Cache
	repository event.Repository
	commit     string
}

var (
	_ fs.ReadFileFS = (*commitFS)(nil)
	_ fs.ReadDirFS  = (*commitFS)(nil)
)

func (f *commitFS) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	var file *openFile
	err := f.cache.read(f.ctx, f.repository, f.commit, func(storage *filesystem.Storage) (err error) {
		file, err = openIn(storage, f.commit, name)
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return file, nil
}

func (f *commitFS) ReadFile(name string) ([]byte, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	open := file.(*openFile) //nolint:errcheck // Open makes no other
	if open.info.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("is a directory")}
	}
	return open.data, nil
}

func (f *commitFS) ReadDir(name string) ([]fs.DirEntry, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	return file.(*openFile).ReadDir(-1) //nolint:errcheck // Open makes no other
}

func openIn(storage *filesystem.Storage, commit, name string) (*openFile, error) {
	tree, err := rootTree(storage, commit)
	if err != nil {
		return nil, err
	}
	entry := object.TreeEntry{Name: ".", Mode: filemode.Dir, Hash: tree.Hash}
	if name != "." {
		for _, part := range strings.Split(name, "/") {
			if entry.Mode != filemode.Dir {
				return nil, fs.ErrNotExist
			}
			if tree, err = readTree(storage, entry.Hash); err != nil {
				return nil, err
			}
			i := slices.IndexFunc(tree.Entries, func(e object.TreeEntry) bool { return e.Name == part })
			if i < 0 {
				return nil, fs.ErrNotExist
			}
			entry = tree.Entries[i]
		}
	}
	file := &openFile{info: fileInfo{name: path.Base(name), mode: modeOf(entry.Mode)}}
	switch {
	case entry.Mode == filemode.Dir:
		file.entries, err = listTree(storage, entry.Hash)
		return file, err
	case entry.Mode == filemode.Submodule:
		return file, nil
	case entry.Mode == filemode.Symlink:
		return nil, fmt.Errorf("%w: it is a symbolic link", ErrRefused)
	}
	blob, err := limitedBlob(storage, name, entry.Hash, MaxReadBytes)
	if err != nil {
		return nil, err
	}
	if file.data, err = readBlob(blob); err != nil {
		return nil, err
	}
	file.info.size = blob.Size
	file.reader = bytes.NewReader(file.data)
	return file, nil
}

func listTree(storage *filesystem.Storage, hash plumbing.Hash) ([]fs.DirEntry, error) {
	tree, err := readTree(storage, hash)
	if err != nil {
		return nil, err
	}
	entries := make([]fs.DirEntry, 0, len(tree.Entries))
	for _, e := range tree.Entries {
		if checkName(e.Name) != nil {
			continue
		}
		info := fileInfo{name: e.Name, mode: modeOf(e.Mode)}
		if e.Mode.IsFile() {
			if info.size, err = storage.EncodedObjectSize(e.Hash); err != nil {
				return nil, &brokenError{err}
			}
		}
		entries = append(entries, fs.FileInfoToDirEntry(info))
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

func modeOf(mode filemode.FileMode) fs.FileMode {
	switch mode {
	case filemode.Dir, filemode.Submodule:
		return fs.ModeDir | 0o755
	case filemode.Executable:
		return 0o755
	case filemode.Symlink:
		return fs.ModeSymlink | 0o777
	}
	return 0o644
}

type fileInfo struct {
	name string
	size int64
	mode fs.FileMode
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) Mode() fs.FileMode  { return i.mode }
func (i fileInfo) ModTime() time.Time { return time.Time{} }
func (i fileInfo) IsDir() bool        { return i.mode.IsDir() }
func (i fileInfo) Sys() any           { return nil }

// openFile is a file or directory, read whole when it was opened.
type openFile struct {
	info    fileInfo
	data    []byte
	reader  *bytes.Reader
	entries []fs.DirEntry
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openFile) Close() error               { return nil }

func (f *openFile) Read(p []byte) (int, error) {
	if f.reader == nil {
		return 0, &fs.PathError{Op: "read", Path: f.info.name, Err: errors.New("is a directory")}
	}
	return f.reader.Read(p)
}

func (f *openFile) ReadDir(n int) ([]fs.DirEntry, error) {
	if !f.info.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: f.info.name, Err: errors.New("not a directory")}
	}
	if n <= 0 {
		entries := f.entries
		f.entries = nil
		return entries, nil
	}
	if len(f.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(f.entries))
	entries := f.entries[:n]
	f.entries = f.entries[n:]
	return entries, nil
}
