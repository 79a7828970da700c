// Package flatten makes of an image's layers the one tree of files that they
// show, without a root filesystem and without root: as a tar stream, or in a
// folder. Layers may be hostile: names cannot leave the root, links of a layer
// lead nowhere outside it, and what is read is bounded.
package flatten

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// Layer opens a layer's tar stream. It may be called twice.
type Layer func(ctx context.Context) (io.ReadCloser, error)

// Sink takes the files of the tree: directories first, each after the one it is
// in, and a hard link after the file it is of. Names have no leading slash and
// no link in them. The top directory's name is "".
type Sink interface {
	Add(header *tar.Header, content io.Reader) error
}

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	// reservedPrefix marks what AUFS kept for itself.
	reservedPrefix = ".wh..wh."
	paxAttribute   = "SCHILY.xattr."

	// maxNodes bounds the files of all layers together, with the directories
	// above them; maxName a name and a link's target, in bytes.
	maxNodes = 4 << 20
	maxName  = 4096
	// maxLinks bounds the symbolic links followed for one name, as the kernel does.
	maxLinks = 40
)

// Write gives the tree of the layers, bottom first, to the sink.
func Write(ctx context.Context, layers []Layer, to Sink) error {
	t := newTree()
	for i, open := range layers {
		err := each(ctx, open, func(n int, header *tar.Header, _ io.Reader) error { return t.apply(i, n, header) })
		if err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	visible := t.visible(len(layers))
	for _, d := range visible.directories {
		if err := to.Add(d, nil); err != nil {
			return fmt.Errorf("/%s: %w", d.Name, err)
		}
	}
	for i, open := range layers {
		files := visible.files[i]
		if len(files) == 0 {
			continue
		}
		err := each(ctx, open, func(n int, header *tar.Header, content io.Reader) error {
			if names := files[n]; len(names) > 0 {
				return addFile(to, header, names, content)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return nil
}

// addFile adds a file under the first of its names, and links for the others.
func addFile(to Sink, header *tar.Header, names []string, content io.Reader) error {
	file := described(header)
	file.Name = names[0]
	if err := to.Add(file, content); err != nil {
		return fmt.Errorf("/%s: %w", file.Name, err)
	}
	for _, name := range names[1:] {
		if err := to.Add(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: names[0], Mode: file.Mode, Uid: file.Uid, Gid: file.Gid, ModTime: file.ModTime}, nil); err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
	}
	return nil
}

// each goes through a layer's entries, which are counted from 0.
func each(ctx context.Context, open Layer, do func(n int, header *tar.Header, content io.Reader) error) (err error) {
	stream, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	archive := tar.NewReader(stream)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			// What follows the end belongs to the layer's digest.
			_, err = io.Copy(io.Discard, stream)
			return err
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return fmt.Errorf("read the layer's tar stream: %w", err)
		}
		if err := do(n, header, archive); err != nil {
			return err
		}
	}
}

// described is what of an entry describes the file, for an archive of our own.
func described(from *tar.Header) *tar.Header {
	to := &tar.Header{
		Typeflag: from.Typeflag, Linkname: from.Linkname, Size: from.Size, Mode: from.Mode & 0o7777, Uid: from.Uid, Gid: from.Gid,
		ModTime: from.ModTime.Truncate(time.Second), Devmajor: from.Devmajor, Devminor: from.Devminor,
	}
	switch from.Typeflag {
	case tar.TypeRegA, tar.TypeGNUSparse, tar.TypeCont: //nolint:staticcheck // old archives use TypeRegA
		to.Typeflag = tar.TypeReg
	}
	for name, value := range from.PAXRecords {
		if strings.HasPrefix(name, paxAttribute) {
			if to.PAXRecords == nil {
				to.PAXRecords = map[string]string{}
			}
			to.PAXRecords[name] = value
		}
	}
	return to
}

// visibleFiles are what can be seen of the layers.
type visibleFiles struct {
	directories []*tar.Header
	// files are the names of a layer's entries, by the entry's number.
	files []map[int][]string
}

func (t *tree) visible(layers int) visibleFiles {
	v := visibleFiles{files: make([]map[int][]string, layers)}
	var visit func(name string, n *node)
	visit = func(name string, n *node) {
		if !n.isDirectory() {
			if v.files[n.file.layer] == nil {
				v.files[n.file.layer] = map[int][]string{}
			}
			v.files[n.file.layer][n.file.entry] = append(v.files[n.file.layer][n.file.entry], name)
			return
		}
		header := &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}
		if n.header != nil {
			header = described(n.header)
		}
		header.Name = name
		v.directories = append(v.directories, header)
		names := make([]string, 0, len(n.children))
		for child := range n.children {
			names = append(names, child)
		}
		slices.Sort(names)
		for _, child := range names {
			visit(path.Join(name, child), n.children[child])
		}
	}
	visit("", t.root)
	return v
}
