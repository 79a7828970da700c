package cache

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"
)

// The bounds of a packed cache mount.
const (
	maxPacked        = 64 << 30 // bytes, unpacked
	maxPackedEntries = 4 << 20
	packWindow       = 8 << 20
	blockSize        = 4096 // what an entry is counted as, and rounded up to
)

// Pack writes the content of a cache mount as a tar file compressed with zstd:
// files, directories and links with owners, modes and times. What else is in it
// (sockets, devices) is left out.
func Pack(ctx context.Context, dir string, w io.Writer) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("pack cache mount: %w", err)
	}
	defer root.Close()
	encoder, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(packWindow))
	if err != nil {
		return fmt.Errorf("pack cache mount: %w", err)
	}
	p := &packer{root: root, archive: tar.NewWriter(encoder), links: map[inode]string{}}
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		return p.add(name, entry)
	})
	if err == nil {
		err = p.archive.Close()
	}
	if err := errors.Join(err, encoder.Close()); err != nil {
		return fmt.Errorf("pack cache mount: %w", err)
	}
	return nil
}

type inode struct{ device, number uint64 }

type packer struct {
	root    *os.Root
	archive *tar.Writer
	links   map[inode]string
}

func (p *packer) add(name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = p.root.Readlink(filepath.FromSlash(name)); err != nil {
			return err
		}
	} else if !info.Mode().IsRegular() && !info.IsDir() {
		return nil
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name, header.Uname, header.Gname, header.Format = name, "", "", tar.FormatPAX
	if info.IsDir() {
		header.Name += "/"
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 && !info.IsDir() {
		id := inode{uint64(stat.Dev), stat.Ino} //nolint:unconvert // its type depends on the machine
		if first, ok := p.links[id]; ok {
			header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
			return p.archive.WriteHeader(header)
		}
		p.links[id] = name
	}
	if !info.Mode().IsRegular() {
		return p.archive.WriteHeader(header)
	}
	file, err := p.root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if err := p.archive.WriteHeader(header); err != nil {
		return err
	}
	n, err := io.Copy(p.archive, io.LimitReader(file, header.Size))
	if err == nil && n < header.Size {
		err = fmt.Errorf("%s changed while it was read", name)
	}
	return err
}

// Unpack fills the directory of a cache mount from what Pack wrote. Nothing is
// written outside the directory, whatever the archive says. Take, if not nil, is
// asked for room first.
func Unpack(ctx context.Context, from io.Reader, dir string, take func(bytes int64) error) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack cache mount: %w", err)
	}
	defer root.Close()
	decoder, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(2*packWindow))
	if err != nil {
		return fmt.Errorf("unpack cache mount: %w", err)
	}
	defer decoder.Close()
	u := &unpacker{root: root, take: take, left: maxPacked}
	archive := tar.NewReader(decoder)
	for entries := 0; ; entries++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil || errors.Is(err, tar.ErrInsecurePath) {
			if err = ctx.Err(); err == nil && entries == maxPackedEntries {
				err = fmt.Errorf("it has more than %d files", maxPackedEntries)
			}
			if err == nil {
				err = u.entry(header, archive)
			}
		}
		if err != nil {
			return fmt.Errorf("unpack cache mount: %w", err)
		}
	}
	return u.finish()
}

type unpacker struct {
	root *os.Root
	take func(int64) error
	left int64
	// directories get mode and times last: writing into one needs the one and
	// changes the other.
	directories []*tar.Header
}

func (u *unpacker) entry(header *tar.Header, content io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
	fail := func(err error) error { return fmt.Errorf("%.200q: %w", header.Name, err) }
	grown := int64(blockSize)
	if header.Typeflag == tar.TypeReg {
		grown += (header.Size + blockSize - 1) / blockSize * blockSize
	}
	if u.left -= grown; u.left < 0 {
		return fmt.Errorf("it holds more than %d bytes", int64(maxPacked))
	}
	if u.take != nil {
		if err := u.take(grown); err != nil {
			return err
		}
	}
	if name == "" {
		if header.Typeflag == tar.TypeDir {
			header.Name = "."
			u.directories = append(u.directories, header)
		}
		return nil
	}
	header.Name = name
	if parent := path.Dir(name); parent != "." {
		if err := u.root.MkdirAll(parent, 0o700); err != nil {
			return fail(err)
		}
	}
	switch header.Typeflag {
	case tar.TypeDir:
		if err := u.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fail(err)
		}
		u.directories = append(u.directories, header)
		return nil
	case tar.TypeSymlink:
		if err := u.root.Symlink(header.Linkname, name); err != nil {
			return fail(err)
		}
		return u.own(header)
	case tar.TypeLink:
		target := strings.TrimPrefix(path.Clean("/"+header.Linkname), "/")
		if err := u.root.Link(target, name); err != nil {
			return fail(err)
		}
		return nil
	case tar.TypeReg:
		if err := u.file(header, content); err != nil {
			return fail(err)
		}
		return nil
	}
	return fail(errors.New("neither a file nor a directory nor a link"))
}

func (u *unpacker) file(header *tar.Header, content io.Reader) error {
	file, err := u.root.OpenFile(header.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, io.LimitReader(content, header.Size))
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return u.describe(header)
}

func (u *unpacker) own(header *tar.Header) error {
	if err := u.root.Lchown(header.Name, header.Uid, header.Gid); err != nil && os.Geteuid() == 0 {
		return err
	}
	return nil
}

func (u *unpacker) describe(header *tar.Header) error {
	if err := u.own(header); err != nil {
		return err
	}
	// No setuid: what is in a cache is run by builds, not by this machine.
	if err := u.root.Chmod(header.Name, fs.FileMode(header.Mode).Perm()); err != nil {
		return err
	}
	return u.root.Chtimes(header.Name, header.ModTime, header.ModTime)
}

func (u *unpacker) finish() error {
	for i := len(u.directories) - 1; i >= 0; i-- {
		if err := u.describe(u.directories[i]); err != nil {
			return fmt.Errorf("unpack cache mount: %w", err)
		}
	}
	return nil
}
