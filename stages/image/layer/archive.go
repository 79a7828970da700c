package layer

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Directory tells whether the item is a directory.
func (i *Item) Directory() bool { return i.Type == tar.TypeDir }

// Regular tells whether the item is a regular file.
func (i *Item) Regular() bool { return i.Type == tar.TypeReg }

// Opener opens files by name: a Tree does.
type Opener interface {
	Open(name string) (*os.File, error)
}

// Archive places what is in an archive of the tree: a tar file, plain or
// compressed with gzip, bzip2, xz or zstd. It tells whether the file is one. The
// content is read again when the layer is written.
func (p *Placement) Archive(to Destination, tree Opener, name string) (bool, error) {
	ok, err := isArchive(tree, name)
	if err != nil || !ok {
		return false, err
	}
	to.Directory = true
	dest, _, err := p.resolve(to)
	if err != nil {
		return false, err
	}
	if err := p.directory(dest); err != nil {
		return false, err
	}
	reader := &archiveReader{tree: tree, name: name}
	if err := reader.open(); err != nil {
		return false, err
	}
	defer reader.close()
	content := &cursor{reader: archiveReader{tree: tree, name: name}}
	p.cursors = append(p.cursors, content)
	for {
		header, err := reader.next()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err == nil {
			err = p.archived(to, dest, content, reader.index, header)
		}
		if err != nil {
			return false, fmt.Errorf("unpack %q: %w", name, err)
		}
	}
}

func isArchive(tree Opener, name string) (bool, error) {
	file, err := tree.Open(name)
	if err != nil {
		return false, fmt.Errorf("read %q: %w", name, err)
	}
	defer file.Close()
	buffered := bufio.NewReader(file)
	stream, end, err := unpackStream(buffered)
	if err != nil {
		return false, nil // it only looks like one
	}
	defer end()
	_, err = tar.NewReader(io.LimitReader(stream, 1<<20)).Next()
	return err == nil, nil
}

// archiveReader goes through an archive once; index counts its entries.
type archiveReader struct {
	tree  Opener
	name  string
	tar   *tar.Reader
	index int
	end   []func()
	// size is of the files so far, holes of sparse ones included.
	size   int64
	packed *Counter
}

func (a *archiveReader) open() error {
	a.close()
	file, err := a.tree.Open(a.name)
	if err != nil {
		return fmt.Errorf("read %q: %w", a.name, err)
	}
	packed := &Counter{From: file}
	stream, end, err := unpackStream(bufio.NewReaderSize(packed, 256<<10))
	if err != nil {
		_ = file.Close() // err matters more
		return fmt.Errorf("unpack %q: %w", a.name, err)
	}
	a.end = []func(){end, func() { _ = file.Close() }}
	a.tar, a.packed = tar.NewReader(Bounded(stream, packed)), packed
	a.index, a.size = -1, 0
	return nil
}

func (a *archiveReader) close() {
	for _, end := range a.end {
		end()
	}
	a.end = nil
}

func (a *archiveReader) next() (*tar.Header, error) {
	header, err := a.tar.Next()
	if err == nil {
		if a.index++; a.index > maxEntries {
			err = fmt.Errorf("the archive has more than %d files", maxEntries)
		}
		// A sparse file takes hardly a byte of the archive and all of it in a layer.
		a.size += header.Size
		err = errors.Join(err, checkUnpacked(a.size, a.packed.N))
	}
	return header, err
}

// archived places one entry. Names and hard links stay below the destination;
// symbolic links are kept as they are, but nothing is placed through them
// except to where they lead within the image.
func (p *Placement) archived(to Destination, dest string, content *cursor, index int, header *tar.Header) error {
	for _, part := range strings.Split(header.Name, "/") {
		if part == ".." {
			return fmt.Errorf("the entry %q leads out of the archive", header.Name)
		}
	}
	relative := cleanName(header.Name)
	if relative == "" {
		return nil
	}
	parent, err := p.resolvePlaced(path.Join(dest, path.Dir(relative)))
	if err != nil {
		return err
	}
	if err := p.directory(parent); err != nil {
		return err
	}
	name := path.Join(parent, path.Base(relative))
	node := Node{Type: header.Typeflag, Mode: uint32(header.Mode & 0o7777), UID: header.Uid, GID: header.Gid}
	entry := Entry{Name: name}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		node.Type = tar.TypeReg
		entry.Size = header.Size
		entry.Open = func() (io.ReadCloser, error) { return content.at(index) }
		entry.archive, entry.index = len(p.cursors), index
	case tar.TypeDir, tar.TypeFifo:
	case tar.TypeChar, tar.TypeBlock:
		entry.Major, entry.Minor = header.Devmajor, header.Devminor
	case tar.TypeSymlink:
		node.Link, node.Mode = header.Linkname, 0o777
	case tar.TypeLink:
		for _, part := range strings.Split(header.Linkname, "/") {
			if part == ".." {
				return fmt.Errorf("the hard link %q leads out of the archive", header.Name)
			}
		}
		target, err := p.resolvePlaced(path.Join(dest, path.Dir(cleanName(header.Linkname))))
		if err != nil {
			return err
		}
		original, ok := p.entries[path.Join(target, path.Base(cleanName(header.Linkname)))]
		if !ok || original.Type == tar.TypeDir {
			return fmt.Errorf("the hard link %q has no file to link to in the archive", header.Name)
		}
		if original.same == 0 {
			p.groups++
			original.same = p.groups
		}
		entry = *original
		entry.Name = name
		p.put(entry)
		return nil
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return fmt.Errorf("the entry %q is of an unknown kind", header.Name)
	}
	if existing, ok := p.lookup(name); ok && existing.Type == tar.TypeDir && node.Type != tar.TypeDir {
		return fmt.Errorf("the entry %q would replace a directory", header.Name)
	} else if ok && existing.Type != tar.TypeDir && node.Type == tar.TypeDir {
		if real, err := p.resolvePlaced(name); err == nil {
			if target, ok := p.lookup(real); ok && target.Type == tar.TypeDir {
				return p.directory(real)
			}
		}
	}
	if node.Type != tar.TypeSymlink {
		entry.Xattrs = keptXattrs(header.PAXRecords)
	}
	entry.Node = to.change(node)
	p.put(entry)
	return nil
}

// resolvePlaced follows links of the image and of what has been placed.
func (p *Placement) resolvePlaced(name string) (string, error) {
	resolved, err := resolve(name, func(at string) (string, bool, error) {
		node, ok := p.lookup(at)
		return node.Link, ok && node.Type == tar.TypeSymlink, nil
	})
	if err != nil {
		return "", fmt.Errorf("resolve /%s in the image: %w", cleanName(name), err)
	}
	return resolved, nil
}

// cursor gives the content of an archive's files, in the order of the archive
// in a single pass.
type cursor struct {
	reader archiveReader
	opened bool
}

// at opens the content of the entry with that index. It is read before the next
// one is opened.
func (c *cursor) at(index int) (io.ReadCloser, error) {
	if !c.opened || c.reader.index >= index {
		if err := c.reader.open(); err != nil {
			return nil, err
		}
		c.opened = true
	}
	for c.reader.index < index {
		if _, err := c.reader.next(); err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrChanged
			}
			return nil, fmt.Errorf("unpack %q: %w", c.reader.name, err)
		}
	}
	return io.NopCloser(c.reader.tar), nil
}

// Close lets go of archives that are being read. Entries can't be read after it.
func (p *Placement) Close() {
	for _, c := range p.cursors {
		c.reader.close()
	}
}
