package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/scoped"
)

// Names with a meaning in a layer (OCI image specification, "Representing
// Changes"), and attributes with a meaning to overlayfs.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	// reservedPrefix marks what AUFS kept for itself; it says nothing about files.
	reservedPrefix = ".wh..wh."

	paxAttribute = "SCHILY.xattr."
)

// blockSize is what a store counts for an entry, and rounds file sizes up to.
const blockSize = 4096

// The bounds of sparse files: how many bytes they may have for each of the stream,
// which counts once they have more than sparseFrom together.
const (
	maxSparse  = 1000
	sparseFrom = 256 << 20
)

// countingReader counts what is read through it.
type countingReader struct {
	from io.Reader
	n    int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += int64(n)
	return n, err
}

// extract writes a layer's tar stream below dir, in overlay form.
func extract(from io.Reader, dir string, limits Limits) (record, error) {
	t, err := openTree(dir)
	if err != nil {
		return record{}, err
	}
	defer t.close()
	counted := &countingReader{from: from}
	x := &extraction{tree: t, buffer: make([]byte, 256<<10), left: limits.Bytes, stream: counted, take: limits.take}
	t.implied[""] = struct{}{}
	archive := tar.NewReader(counted)
	for entries := 0; ; entries++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return record{}, fmt.Errorf("read the layer's tar stream: %w", err)
		}
		if entries == limits.Entries {
			return record{}, fmt.Errorf("the layer has more than %d entries", limits.Entries)
		}
		if err := x.entry(header, archive); err != nil {
			return record{}, fmt.Errorf("entry %q: %w", shorten(header.Name), err)
		}
	}
	if err := x.finishDirectories(); err != nil {
		return record{}, err
	}
	return record{Bytes: x.bytes, Implied: slices.Sorted(maps.Keys(t.implied))}, nil
}

func shorten(name string) string {
	const most = 200
	if len(name) > most {
		return name[:most] + "…"
	}
	return name
}

type extraction struct {
	tree   *tree
	buffer []byte
	bytes  int64
	left   int64
	// content is the size of the files so far, stream what they came from.
	content int64
	stream  *countingReader
	// stale is set when what was replaced may be a link on the way to the
	// directory that the tree remembers.
	stale bool
	take  func(bytes int64) error // may be nil
	// directories get their times at the end: writing into one changes them.
	directories []directoryTime
}

type directoryTime struct {
	name  string
	times [2]unix.Timespec
}

func (x *extraction) entry(header *tar.Header, content io.Reader) error {
	switch header.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	}
	name, err := clean(header.Name)
	if err != nil {
		return err
	}
	if x.stale {
		x.tree.forget()
		x.stale = false
	}
	if err := x.grow(blockSize); err != nil {
		return err
	}
	if name == "" {
		return x.top(header)
	}
	parentName, base := path.Split(name)
	parentName = strings.TrimSuffix(parentName, "/")
	if strings.HasPrefix(base, whiteoutPrefix) {
		return x.whiteout(parentName, base)
	}
	parent, err := x.tree.directory(parentName, true)
	if err != nil {
		return err
	}
	if disk().ordinary && isDevice(header) {
		// No ordinary user may make one. The container has its own, and a layer
		// tells only what a command changed: nothing is lost of the image.
		return nil
	}
	// A link's target may lie in another directory, whose descriptor replaces
	// the remembered one.
	if header.Typeflag == tar.TypeLink {
		return x.hardLink(parent, parentName, base, header.Linkname)
	}
	if err := x.create(parent, base, header, content); err != nil {
		return err
	}
	if header.Typeflag == tar.TypeDir {
		return x.describe(parent, parentName, base, header)
	}
	return setMetadata(parent, base, header)
}

// grow counts what is about to be written.
func (x *extraction) grow(bytes int64) error {
	x.bytes += bytes
	if x.take == nil {
		return nil
	}
	return x.take(bytes)
}

// top applies an entry for the root directory itself.
func (x *extraction) top(header *tar.Header) error {
	if header.Typeflag != tar.TypeDir {
		return errors.New("the root of a layer can only be a directory")
	}
	top, err := x.tree.directory("", false)
	if err != nil {
		return err
	}
	if err := setMetadata(top, ".", header); err != nil {
		return err
	}
	delete(x.tree.implied, "")
	x.directories = append(x.directories, directoryTime{"", timesOf(header)})
	return nil
}

func (x *extraction) describe(parent int, parentName, base string, header *tar.Header) error {
	if err := setMetadata(parent, base, header); err != nil {
		return err
	}
	name := path.Join(parentName, base)
	delete(x.tree.implied, name)
	x.directories = append(x.directories, directoryTime{name, timesOf(header)})
	return nil
}

// create makes the entry, replacing what an earlier entry of the same name left.
func (x *extraction) create(parent int, base string, header *tar.Header, content io.Reader) error {
	err := x.createNew(parent, base, header, content)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var existing unix.Stat_t
	if err := unix.Fstatat(parent, base, &existing, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	isDirectory := existing.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDirectory && header.Typeflag == tar.TypeDir {
		return nil
	}
	if err := x.replace(parent, base); err != nil {
		return err
	}
	if err := x.createNew(parent, base, header, content); err != nil {
		return err
	}
	if isWhiteout(&existing) && header.Typeflag == tar.TypeDir {
		// What the whiteout hid must not show through the new directory.
		return x.makeOpaque(parent, base)
	}
	return nil
}

// replace removes base from parent. The descriptor parent stays valid.
func (x *extraction) replace(parent int, base string) error {
	x.stale = true
	if err := remove(parent, base); err != nil {
		return fmt.Errorf("replace an earlier entry: %w", err)
	}
	return nil
}

func isDevice(header *tar.Header) bool {
	return (header.Typeflag == tar.TypeChar && (header.Devmajor != 0 || header.Devminor != 0)) || header.Typeflag == tar.TypeBlock
}

func isWhiteout(stat *unix.Stat_t) bool {
	return stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == 0
}

func (x *extraction) createNew(parent int, base string, header *tar.Header, content io.Reader) error {
	switch header.Typeflag {
	case tar.TypeDir:
		return unix.Mkdirat(parent, base, 0o700)
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse, tar.TypeCont: //nolint:staticcheck // old archives use TypeRegA
		return x.file(parent, base, header, content)
	case tar.TypeSymlink:
		if header.Linkname == "" || len(header.Linkname) > scoped.MaxName {
			return fmt.Errorf("symbolic link with a target of %d bytes", len(header.Linkname))
		}
		return unix.Symlinkat(header.Linkname, parent, base)
	case tar.TypeFifo:
		return unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0)
	case tar.TypeChar, tar.TypeBlock:
		kind := uint32(unix.S_IFCHR)
		if header.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		if header.Devmajor < 0 || header.Devmajor > 1<<12-1 || header.Devminor < 0 || header.Devminor > 1<<20-1 {
			return fmt.Errorf("device number %d:%d does not exist", header.Devmajor, header.Devminor)
		}
		return unix.Mknodat(parent, base, kind|0o600, int(unix.Mkdev(uint32(header.Devmajor), uint32(header.Devminor))))
	}
	return fmt.Errorf("entries of type %q are not known", header.Typeflag)
}

func (x *extraction) file(parent int, base string, header *tar.Header, content io.Reader) (err error) {
	if header.Size > x.left {
		return errors.New("the layer's files are larger than the store's limit for one layer")
	}
	x.left -= header.Size
	// A sparse file takes hardly a byte of the stream and all of it on the disk.
	if x.content += header.Size; x.content > sparseFrom && x.content/maxSparse > x.stream.n {
		return fmt.Errorf("sparse files of %d bytes from a stream of %d: a decompression bomb", x.content, x.stream.n)
	}
	if err := x.grow((header.Size + blockSize - 1) / blockSize * blockSize); err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := unix.Close(fd); err == nil {
			err = closeErr
		}
	}()
	for {
		n, readErr := content.Read(x.buffer)
		for chunk := x.buffer[:n]; len(chunk) > 0; {
			written, err := unix.Write(fd, chunk)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			chunk = chunk[written:]
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return fmt.Errorf("read its content: %w", readErr)
		}
	}
}

func (x *extraction) hardLink(parent int, parentName, base, target string) error {
	name, err := clean(target)
	if err != nil {
		return fmt.Errorf("link target: %w", err)
	}
	targetParent, targetBase := path.Split(name)
	if targetBase == "" {
		return errors.New("hard link to the root directory")
	}
	if path.Join(parentName, base) == name {
		return nil
	}
	from, err := x.tree.resolve(strings.TrimSuffix(targetParent, "/"))
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", shorten(target), err)
	}
	defer unix.Close(from)
	var original unix.Stat_t
	if err := unix.Fstatat(from, targetBase, &original, unix.AT_SYMLINK_NOFOLLOW); err == nil && isWhiteout(&original) {
		return fmt.Errorf("hard link to %q: the layer has removed it", shorten(target))
	}
	// A link to the link itself, not through it: no flag to follow is set.
	err = unix.Linkat(from, targetBase, parent, base, 0)
	if errors.Is(err, unix.EEXIST) {
		if err := x.replace(parent, base); err != nil {
			return err
		}
		err = unix.Linkat(from, targetBase, parent, base, 0)
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", shorten(target), err)
	}
	return nil
}

func (x *extraction) whiteout(parentName, base string) error {
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	switch {
	case base == opaqueMarker:
		parent, err := x.tree.directory(parentName, true)
		if err != nil {
			return err
		}
		return x.makeOpaque(parent, ".")
	case strings.HasPrefix(base, reservedPrefix):
		return nil
	case hidden == "" || hidden == "." || hidden == "..":
		return errors.New("a whiteout that hides no name")
	}
	parent, err := x.tree.directory(parentName, true)
	if err != nil {
		return err
	}
	err = unix.Mknodat(parent, hidden, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	// A whiteout speaks of the layers below only. A file of this layer hides
	// theirs anyway; a directory must be told not to show them.
	var existing unix.Stat_t
	if err := unix.Fstatat(parent, hidden, &existing, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if existing.Mode&unix.S_IFMT == unix.S_IFDIR {
		return x.makeOpaque(parent, hidden)
	}
	return nil
}

func (x *extraction) makeOpaque(parent int, base string) error {
	if err := setAttribute(parent, base, disk().opaque(), "y"); err != nil {
		return fmt.Errorf("mark a directory opaque: %w", err)
	}
	return nil
}

func (x *extraction) finishDirectories() error {
	for _, d := range slices.Backward(x.directories) {
		parentName, base := path.Split(d.name)
		if base == "" {
			base = "."
		}
		parent, err := x.tree.directory(strings.TrimSuffix(parentName, "/"), false)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // a later entry replaced it
		}
		if err != nil {
			return err
		}
		err = unix.UtimesNanoAt(parent, base, d.times[:], unix.AT_SYMLINK_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("set times of %q: %w", shorten(d.name), err)
		}
	}
	return nil
}

func timesOf(header *tar.Header) [2]unix.Timespec {
	at := header.ModTime
	// What the kernel can't store becomes the epoch rather than an error.
	if at.Before(time.Unix(0, 0)) || at.After(time.Unix(1<<34, 0)) {
		at = time.Unix(0, 0)
	}
	spec := unix.Timespec{Sec: at.Unix(), Nsec: int64(at.Nanosecond())}
	return [2]unix.Timespec{spec, spec}
}
