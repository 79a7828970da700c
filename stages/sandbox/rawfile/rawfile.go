// Package rawfile reads regular files by the plain calls of the kernel. An
// os.File is offered to the runtime's poller when it is opened, which costs more
// than the content of a small file, and layers are made of very many of those.
package rawfile

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// ErrNotRegular says that a file is something else: a pipe or a device, which
// could block whoever reads it.
var ErrNotRegular = errors.New("not a regular file")

// File is a regular file opened for reading. It belongs to one goroutine.
type File struct{ fd int }

// OpenAt opens the file name, which has no slash, of the directory with the
// descriptor dir. A link is not followed. What is no regular file is
// ErrNotRegular.
func OpenAt(dir int, name string) (*File, error) {
	var fd int
	err := again(func() (err error) {
		fd, err = unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	err = unix.Fstat(fd, &stat)
	if err == nil && stat.Mode&unix.S_IFMT != unix.S_IFREG {
		err = ErrNotRegular
	}
	if err != nil {
		_ = unix.Close(fd) // err matters more
		return nil, err
	}
	return &File{fd}, nil
}

// Read implements io.Reader.
func (f *File) Read(p []byte) (n int, err error) {
	err = again(func() (err error) {
		n, err = unix.Read(f.fd, p)
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Close implements io.Closer.
func (f *File) Close() error { return unix.Close(f.fd) }

// again repeats a call that a signal interrupted: the runtime sends some.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
