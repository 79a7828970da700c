package layer

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/rawfile"
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
func (o *opener) open(name string) (*rawfile.File, error) {
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
	file, err := rawfile.OpenAt(int(o.dir.file.Fd()), base)
	if errors.Is(err, rawfile.ErrNotRegular) {
		err = fmt.Errorf("/%s: %w", name, ErrChanged)
	}
	return file, err
}

func (o *opener) close() {
	o.dir.close()
	o.dir = nil
}
