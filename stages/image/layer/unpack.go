package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// Unpack writes the files of a tar archive, plain or compressed, into the
// directory dir, as a build context: owners and devices are left out. Names
// cannot leave the directory, nor lead out of it through links. The archive's
// size, number of files and ratio are bounded.
func Unpack(ctx context.Context, from io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	packed := &Counter{From: from}
	stream, end, err := unpackStream(bufio.NewReaderSize(packed, 256<<10))
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	defer end()
	u := &unpacking{root: root, modes: map[string]os.FileMode{}, buffer: make([]byte, 256<<10)}
	archive := tar.NewReader(Bounded(stream, packed))
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return u.finish()
		}
		if err == nil && n > maxEntries {
			err = fmt.Errorf("the archive has more than %d files", maxEntries)
		}
		if err == nil {
			err = u.entry(header, archive)
		}
		if err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
}

// unpacking is one Unpack.
type unpacking struct {
	root *os.Root
	// modes are of directories: they are set last, so that files go into all.
	modes  map[string]os.FileMode
	buffer []byte
}

func (u *unpacking) entry(header *tar.Header, content io.Reader) error {
	if slices.Contains(strings.Split(header.Name, "/"), "..") {
		return fmt.Errorf("the entry %q leads out of the archive", header.Name)
	}
	name := cleanName(header.Name)
	if name == "" {
		return nil
	}
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return fmt.Errorf("the entry %q: %w", header.Name, err)
	}
	if err := u.write(header, name, content); err != nil {
		return fmt.Errorf("the entry %q: %w", header.Name, err)
	}
	return nil
}

func (u *unpacking) write(header *tar.Header, name string, content io.Reader) error {
	mode := header.FileInfo().Mode()
	if header.Typeflag != tar.TypeDir {
		// The last of several entries with a name holds.
		if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	switch header.Typeflag {
	case tar.TypeDir:
		u.modes[name] = mode & (fs.ModePerm | fs.ModeSticky | fs.ModeSetgid | fs.ModeSetuid)
		return u.root.MkdirAll(name, 0o755)
	case tar.TypeReg, tar.TypeGNUSparse:
		file, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{file}, content, u.buffer)
		return errors.Join(err, file.Chmod(mode&(fs.ModePerm|fs.ModeSticky|fs.ModeSetgid|fs.ModeSetuid)), file.Close())
	case tar.TypeSymlink:
		return u.root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		if slices.Contains(strings.Split(header.Linkname, "/"), "..") {
			return errors.New("the hard link leads out of the archive")
		}
		return u.root.Link(cleanName(header.Linkname), name)
	}
	return nil // a device or something that says nothing of a file
}

func (u *unpacking) finish() error {
	names := make([]string, 0, len(u.modes))
	for name := range u.modes {
		names = append(names, name)
	}
	// What is below first: a directory may end up closed.
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(b, a) })
	for _, name := range names {
		info, err := u.root.Lstat(name)
		if err != nil || !info.IsDir() {
			continue // something else took its place
		}
		if err := u.root.Chmod(name, u.modes[name]); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	return nil
}
