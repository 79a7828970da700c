package layer

import (
	"errors"
	"fmt"
	"io"
	"path"

	"golang.org/x/sys/unix"
)

// opener opens many files of a tree, one after the other. It keeps the last
// directory open, so that a file costs one look-up and not one for each
// directory above it. It belongs to one goroutine.
type opener struct {
	tree *Tree
	dir  *openDirectory
}

// openDirectory is a directory that is held open. Names looked up in it have no slash, so that
// nothing leads out of it.
type openDirectory struct {
	name string
	file interface {
		Fd() uintptr
		Close() error
	}
	// path is its name by descriptor, once it was asked for.
	path string
}

func (d *openDirectory) close() {
	if d != nil {
		_ = d.file.Close() // only read from
	}
}

// lstat describes a file of the directory.
func (d *openDirectory) lstat(name string, stat *unix.Stat_t) error {
	for {
		err := unix.Fstatat(int(d.file.Fd()), name, stat, unix.AT_SYMLINK_NOFOLLOW)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// open opens a regular file; name has no symbolic link in it.
func (o *opener) open(name string) (*content, error) {
	dir, base := path.Split(name)
	if len(dir) > 0 {
		dir = dir[:len(dir)-1]
	}
	if o.dir == nil || o.dir.name != dir {
		o.dir.close()
		o.dir = nil
		opened, err := o.tree.directory(dir)
		if err != nil {
			return nil, err
		}
		o.dir = opened
	}
	for {
		fd, err := unix.Openat(int(o.dir.file.Fd()), base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var stat unix.Stat_t
		err = unix.Fstat(fd, &stat)
		if err == nil && stat.Mode&unix.S_IFMT != unix.S_IFREG {
			err = fmt.Errorf("/%s: %w", name, ErrChanged)
		}
		if err != nil {
			_ = unix.Close(fd) // err matters more
			return nil, err
		}
		return &content{fd}, nil
	}
}

func (o *opener) close() {
	o.dir.close()
	o.dir = nil
}

// content reads a regular file. Unlike os.File it is not known to the runtime's
// poller, which costs more than a small file's content.
type content struct{ fd int }

func (c *content) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, p)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (c *content) Close() error { return unix.Close(c.fd) }
