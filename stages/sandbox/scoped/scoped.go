// Package scoped opens files by names from outside below a directory, as a
// process chrooted there would: ".." stops at the top, links that are absolute
// start there. The kernel enforces it (openat2(2), RESOLVE_IN_ROOT), whatever
// others do to the tree meanwhile.
package scoped

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MaxName bounds names and the targets of links, in bytes: PATH_MAX without its
// terminator.
const MaxName = unix.PathMax - 1

var errTooOld = errors.New("this kernel has no openat2: Linux 5.6 or newer is needed")

// Root opens the directory that names are resolved in and returns an O_PATH
// descriptor, which the caller closes.
func Root(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// Open opens name below root with the flags of open(2). "" is root itself. Links
// are followed within root; those of /proc that lead to open files never are.
func Open(root int, name string, flags uint64) (int, error) {
	return open(root, name, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// OpenPlain is Open for a name without links; one that has some is ELOOP.
func OpenPlain(root int, name string, flags uint64) (int, error) {
	return open(root, name, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
}

func open(root int, name string, flags, resolve uint64) (int, error) {
	if name == "" {
		name = "."
	}
	for {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve})
		switch {
		// EAGAIN: something was renamed meanwhile, and the kernel could not tell
		// whether the name still lies below root.
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.ENOSYS):
			return -1, errTooOld
		}
		return fd, err
	}
}

// ReadFile opens a regular file below the directory dir for reading.
func ReadFile(dir, name string) (*os.File, error) {
	root, err := Root(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	fd, err := Open(root, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	file := os.NewFile(uintptr(fd), name)
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		_ = file.Close() // err matters more
		return nil, err
	}
	return file, nil
}

// Readlink tells where the link name in the open directory dir points.
func Readlink(dir int, name string) (string, error) {
	buffer := make([]byte, MaxName+1)
	n, err := unix.Readlinkat(dir, name, buffer)
	if err != nil {
		return "", err
	}
	return string(buffer[:n]), nil
}

// Path is where an open descriptor leads, for this process and those that may
// look at it, as long as it is open.
func Path(fd int) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) }
