package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/rawfile"
)

// write writes an entry, after the directories that lead to it. filled says
// that the content of the file follows.
func (d *diff) write(header *tar.Header, filled bool) error {
	if err := d.flush(); err != nil {
		return err
	}
	if err := d.writeHeader(header); err != nil || !filled {
		return err
	}
	if err := d.writeContent(header); err != nil {
		return fmt.Errorf("/%s: %w", header.Name, err)
	}
	return nil
}

// flush writes the directories that are pending.
func (d *diff) flush() error {
	for _, header := range d.pending {
		if err := d.writeHeader(header); err != nil {
			return err
		}
	}
	d.pending = d.pending[:0]
	return nil
}

func (d *diff) writeHeader(header *tar.Header) error {
	if err := d.ctx.Err(); err != nil {
		return context.Cause(d.ctx)
	}
	if d.entries == d.limits.Entries {
		return fmt.Errorf("more than %d entries changed", d.limits.Entries)
	}
	d.entries++
	if err := d.archive.WriteHeader(header); err != nil {
		return fmt.Errorf("/%s: %w", header.Name, err)
	}
	return nil
}

func (d *diff) writeContent(header *tar.Header) error {
	dir, base := path.Split(header.Name)
	if err := d.enter(dir); err != nil {
		return err
	}
	file, err := rawfile.OpenAt(d.content.dir, base)
	if err != nil {
		return err
	}
	defer file.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{d.archive}, io.LimitReader(file, header.Size), d.content.buffer)
	if err == nil && n != header.Size {
		err = errors.New("the file shrank while it was read")
	}
	return err
}

// enter opens the directory that the next content lies in, unless it is open.
func (d *diff) enter(name string) error {
	if d.content.dir >= 0 && d.content.name == name {
		return nil
	}
	d.leave()
	dir, err := unix.Open(filepath.Join(d.snapshot.Upper, name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d.content.name, d.content.dir = name, dir
	return nil
}

func (d *diff) leave() {
	if d.content.dir >= 0 {
		unix.Close(d.content.dir)
	}
	d.content.dir = -1
}
