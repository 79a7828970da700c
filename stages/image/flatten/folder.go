package flatten

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

// Folder is a sink that writes files below a directory, as whoever runs it:
// owners, setuid and setgid bits, extended attributes and devices are left out.
// Nothing is written outside the directory, whatever links lie in it. A file
// that is there is replaced.
type Folder struct {
	root *os.Root
	// directories get their modes and times at the end: until then they must
	// be writable.
	directories []*tar.Header
	// Skipped counts devices, pipes and other files that were left out.
	Skipped int
}

// NewFolder opens a directory, which is made if it does not exist.
func NewFolder(dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Folder{root: root}, nil
}

// Add implements Sink.
func (f *Folder) Add(header *tar.Header, content io.Reader) error {
	name := filepath.FromSlash(header.Name)
	switch header.Typeflag {
	case tar.TypeDir:
		return f.directory(header)
	case tar.TypeReg:
		return f.file(name, header, content)
	case tar.TypeSymlink:
		return f.replacing(name, func(at string) error { return f.root.Symlink(header.Linkname, at) })
	case tar.TypeLink:
		return f.replacing(name, func(at string) error { return f.root.Link(filepath.FromSlash(header.Linkname), at) })
	}
	f.Skipped++
	return nil
}

// Close gives directories their modes and times and ends the work.
func (f *Folder) Close() error {
	var failures []error
	for i := len(f.directories) - 1; i >= 0; i-- {
		d := f.directories[i]
		name := filepath.FromSlash(d.Name)
		failures = append(failures, f.root.Chmod(name, fs.FileMode(d.Mode).Perm()), f.root.Chtimes(name, time.Time{}, d.ModTime))
	}
	return errors.Join(append(failures, f.root.Close())...)
}

func (f *Folder) directory(header *tar.Header) error {
	if header.Name == "" {
		return nil // it is the user's own
	}
	name := filepath.FromSlash(header.Name)
	err := f.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, err := f.root.Lstat(name)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("the image has a directory where the folder has a file: remove %s", header.Name)
		}
		if err := f.root.Chmod(name, 0o700); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	kept := *header
	f.directories = append(f.directories, &kept)
	return nil
}

func (f *Folder) file(name string, header *tar.Header, content io.Reader) error {
	return f.replacing(name, func(at string) error {
		file, err := f.root.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		if err := errors.Join(err, file.Chmod(fs.FileMode(header.Mode).Perm()), file.Close()); err != nil {
			return err
		}
		return f.root.Chtimes(at, time.Time{}, header.ModTime)
	})
}

// replacing makes a file under a name of its own and moves it to its place, so
// that nothing that lies there, such as a link, is written through.
func (f *Folder) replacing(name string, create func(at string) error) error {
	if info, err := f.root.Lstat(name); err == nil && info.IsDir() {
		return fmt.Errorf("the image has a file where the folder has a directory: remove %s", name)
	} else if errors.Is(err, fs.ErrNotExist) {
		return create(name)
	} else if err != nil {
		return err
	}
	temporary := path.Join(path.Dir(filepath.ToSlash(name)), ".tidegate-new")
	if err := f.root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := create(temporary); err != nil {
		return err
	}
	return f.root.Rename(temporary, name)
}
