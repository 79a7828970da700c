package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Tree is a directory of this machine read as if it were the root of a
// filesystem: symbolic links, absolute ones too, lead nowhere outside it.
type Tree struct {
	root *os.Root
	// Dir is where the tree is.
	Dir string
	// KeepOwner says that files keep their owners and extended attributes;
	// otherwise all is root's, and without any.
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

// stat is Lstat in the kernel's terms, as far as they are used here.
func (t *Tree) stat(name string) (*unix.Stat_t, error) {
	info, err := t.Lstat(name)
	if err != nil {
		return nil, err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("stat %s: the system does not tell", name)
	}
	return &unix.Stat_t{
		Dev: s.Dev, Ino: s.Ino, Nlink: s.Nlink, Mode: s.Mode, Uid: s.Uid, Gid: s.Gid, Size: s.Size,
		Mtim: unix.Timespec(s.Mtim), Ctim: unix.Timespec(s.Ctim),
	}, nil
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
	dir, names, err := t.list(name)
	dir.close()
	return names, err
}

// directory opens a directory; name has no symbolic link in it.
func (t *Tree) directory(name string) (*openDirectory, error) {
	file, err := t.root.OpenFile(local(name), os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &openDirectory{name: name, file: file}, nil
}

// list opens a directory and gives the names in it, sorted.
func (t *Tree) list(name string) (*openDirectory, []string, error) {
	file, err := t.root.OpenFile(local(name), os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, err
	}
	names, err := file.Readdirnames(-1)
	if err != nil {
		_ = file.Close() // err matters more
		return nil, nil, err
	}
	slices.Sort(names)
	return &openDirectory{name: name, file: file}, names, nil
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
