package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Tree is a directory of this machine read as if it were the root of a
// filesystem: symbolic links, absolute ones too, lead nowhere outside it.
type Tree struct {
	root *os.Root
	// Dir is where the tree is.
	Dir string
	// KeepOwner says that files keep their owners; otherwise all is root's.
	KeepOwner bool
}

// OpenTree opens a directory.
func OpenTree(dir string, keepOwner bool) (*Tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Tree{root: root, Dir: dir, KeepOwner: keepOwner}, nil
}

// Close lets go of the directory.
func (t *Tree) Close() error { return t.root.Close() }

func local(name string) string {
	if name == "" {
		return "."
	}
	return filepath.FromSlash(name)
}

// Lstat describes a file without following a link it is.
func (t *Tree) Lstat(name string) (fs.FileInfo, error) {
	return t.root.Lstat(local(name))
}

// Open opens a regular file; name has no symbolic link in it.
func (t *Tree) Open(name string) (*os.File, error) {
	file, err := t.root.OpenFile(local(name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("/%s: %w", name, ErrChanged)
	}
	if err != nil {
		_ = file.Close() // err matters more
		return nil, err
	}
	return file, nil
}

// Readlink reads a symbolic link.
func (t *Tree) Readlink(name string) (string, error) {
	return t.root.Readlink(local(name))
}

// Names lists a directory, sorted.
func (t *Tree) Names(name string) ([]string, error) {
	dir, err := t.root.OpenFile(local(name), os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// Resolve follows every symbolic link in name, the last component included.
// The error is fs.ErrNotExist when a link or name leads nowhere.
func (t *Tree) Resolve(name string) (string, error) {
	resolved, err := resolve(name, func(at string) (string, bool, error) {
		info, err := t.Lstat(at)
		if err != nil {
			if errors.Is(err, syscall.ENOTDIR) {
				err = fs.ErrNotExist
			}
			return "", false, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return "", false, nil
		}
		target, err := t.Readlink(at)
		return target, true, err
	})
	if errors.Is(err, ErrLinks) {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return resolved, err
}
