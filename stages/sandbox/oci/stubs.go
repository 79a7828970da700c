package oci

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/scoped"
)

// stubs are the empty directories and files that a root filesystem got so that
// something can be mounted over them. They are made before the container starts
// and removed after, so that they are no part of what the command changed.
type stubs struct {
	top  int // O_PATH descriptor of the root
	made []stub
	// touched remembers the times of directories that stubs were put into.
	touched []touchedDirectory
}

type stub struct {
	parent int // O_PATH descriptor
	name   string
	inode  uint64
	dir    bool
}

type touchedDirectory struct {
	fd    int
	times [2]unix.Timespec
}

// maxLinks bounds the links that lead to a mount point, as the kernel does.
const maxLinks = 40

func openStubs(root string) (*stubs, error) {
	top, err := scoped.Root(root)
	if err != nil {
		return nil, fmt.Errorf("open root filesystem %s: %w", root, err)
	}
	return &stubs{top: top}, nil
}

// ensure makes sure that something can be mounted at target (a directory or a
// file) and returns where that is without links. Links on the way are followed
// as a process chrooted to the root would.
func (s *stubs) ensure(target string, dir bool) (string, error) {
	real, err := s.ensureFrom("", target, dir, maxLinks)
	if err != nil {
		return "", fmt.Errorf("mount point %s: %w", target, err)
	}
	return "/" + real, nil
}

// ensureFrom walks name from the link-free directory at, both relative to the root.
func (s *stubs) ensureFrom(at, name string, dir bool, links int) (string, error) {
	for rest := strings.Trim(name, "/"); rest != ""; {
		var component string
		component, rest, _ = strings.Cut(rest, "/")
		rest = strings.TrimLeft(rest, "/")
		switch component {
		case ".", "":
			continue
		case "..":
			at = strings.TrimPrefix(path.Dir("/"+at), "/")
			continue
		}
		parent, err := s.open(at)
		if err != nil {
			return "", err
		}
		var stat unix.Stat_t
		err = unix.Fstatat(parent, component, &stat, unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case errors.Is(err, unix.ENOENT):
			err = s.make(parent, component, dir || rest != "")
		case err != nil:
		case stat.Mode&unix.S_IFMT == unix.S_IFLNK:
			if links == 0 {
				err = unix.ELOOP
				break
			}
			var target string
			if target, err = scoped.Readlink(parent, component); err != nil {
				break
			}
			unix.Close(parent)
			if strings.HasPrefix(target, "/") {
				at = ""
			}
			links--
			rest = strings.Trim(target+"/"+rest, "/")
			continue
		case rest != "" && stat.Mode&unix.S_IFMT != unix.S_IFDIR:
			err = unix.ENOTDIR
		case rest == "" && dir != (stat.Mode&unix.S_IFMT == unix.S_IFDIR):
			err = errors.New("a directory can't be mounted over a file, nor a file over a directory")
		}
		unix.Close(parent)
		if err != nil {
			return "", fmt.Errorf("/%s: %w", path.Join(at, component), err)
		}
		at = path.Join(at, component)
	}
	if at == "" {
		return "", errors.New("the root itself can't be a mount point")
	}
	return at, nil
}

// open opens a directory by its link-free name.
func (s *stubs) open(name string) (int, error) {
	fd, err := scoped.OpenPlain(s.top, name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, fmt.Errorf("/%s: %w", name, err)
	}
	return fd, nil
}

func (s *stubs) make(parent int, name string, dir bool) error {
	keep, err := unix.FcntlInt(uintptr(parent), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var before unix.Stat_t
	if err := unix.Fstat(parent, &before); err != nil {
		unix.Close(keep)
		return err
	}
	if dir {
		err = unix.Mkdirat(parent, name, 0o755)
	} else {
		err = unix.Mknodat(parent, name, unix.S_IFREG|0o644, 0)
	}
	var stat unix.Stat_t
	if err == nil {
		err = unix.Fstatat(parent, name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		unix.Close(keep)
		return err
	}
	s.made = append(s.made, stub{parent: keep, name: name, inode: stat.Ino, dir: dir})
	s.touched = append(s.touched, touchedDirectory{keep, [2]unix.Timespec{before.Atim, before.Mtim}})
	return nil
}

// remove takes away what was made and is still as it was, and closes.
func (s *stubs) remove() {
	for i, stub := range slices.Backward(s.made) {
		var stat unix.Stat_t
		if err := unix.Fstatat(stub.parent, stub.name, &stat, unix.AT_SYMLINK_NOFOLLOW); err == nil && stat.Ino == stub.inode {
			switch {
			case stub.dir:
				// Fails, rightly, when the command left something in it.
				_ = unix.Unlinkat(stub.parent, stub.name, unix.AT_REMOVEDIR)
			case stat.Size == 0:
				_ = unix.Unlinkat(stub.parent, stub.name, 0)
			}
		}
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", s.touched[i].fd), s.touched[i].times[:], 0)
		unix.Close(stub.parent)
	}
	unix.Close(s.top)
	s.made, s.touched, s.top = nil, nil, -1
}
