// Package layer makes image layers without a root filesystem: entries are
// written as a tar stream that is hashed, compressed, hashed again and stored
// in one pass, against tables of contents of the layers below.
package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// Layer is a layer that is stored.
type Layer struct {
	Digest    v1.Hash         `json:"digest"`
	DiffID    v1.Hash         `json:"diffID"`
	Size      int64           `json:"size"`
	MediaType types.MediaType `json:"mediaType"`
	// Empty is set when there is nothing in it: no layer is made.
	Empty bool `json:"empty,omitempty"`
}

// Entry is a file of a layer.
type Entry struct {
	// Name is the path without leading slash.
	Name string
	Node
	Size   int64
	Xattrs map[string]string
	// HardLink is the name of the earlier entry that this is another name of; it
	// has neither size nor content then.
	HardLink string
	// Major and Minor number a device.
	Major, Minor int64
	// Open gives the content of a regular file; nil for an empty one, and for one
	// of a tree.
	Open func() (io.ReadCloser, error)
	// tree and file are where a placed file is.
	tree *Tree
	file string
	// archive and index say where in which archive the content is; files of
	// archives come last in a layer, in the archive's order, so that it is read
	// in one pass.
	archive, index int
	// same numbers the entries that are one file; 0 is none.
	same int
}

// Writer turns a tar stream into a stored layer.
type Writer struct {
	temporary  *store.Temporary
	compressor io.WriteCloser
	diff       hash.Hash
	digest     hash.Hash
	size       int64
	codec      Codec
}

// NewWriter starts a layer. Either Commit or Abort ends it.
func NewWriter(session *store.Session, codec Codec) (*Writer, error) {
	temporary, err := session.Temporary()
	if err != nil {
		return nil, err
	}
	w := &Writer{temporary: temporary, diff: sha256.New(), digest: sha256.New(), codec: codec}
	if w.compressor, err = codec.compressor(compressedSide{w}); err != nil {
		temporary.Discard()
		return nil, fmt.Errorf("compress layer: %w", err)
	}
	return w, nil
}

type compressedSide struct{ w *Writer }

func (c compressedSide) Write(p []byte) (int, error) {
	n, err := c.w.temporary.Write(p)
	c.w.digest.Write(p[:n])
	c.w.size += int64(n)
	return n, err
}

// Write takes the tar stream.
func (w *Writer) Write(p []byte) (int, error) {
	w.diff.Write(p)
	return w.compressor.Write(p)
}

// Abort throws the layer away.
func (w *Writer) Abort() {
	_ = w.compressor.Close() // ends its goroutines; the bytes are thrown away
	w.temporary.Discard()
}

// Commit stores the layer.
func (w *Writer) Commit() (Layer, error) {
	defer w.temporary.Discard()
	if err := w.compressor.Close(); err != nil {
		return Layer{}, fmt.Errorf("compress layer: %w", err)
	}
	l := Layer{Digest: sum(w.digest), DiffID: sum(w.diff), Size: w.size, MediaType: w.codec.MediaType()}
	return l, w.temporary.Keep(l.Digest)
}

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// Build writes entries, in the order given, as a layer and returns its table of
// contents too. It takes the entries away from the slice as it goes. Every entry gets the time epoch. Progress is told the bytes of
// content as they are written; nil is fine.
func Build(ctx context.Context, session *store.Session, codec Codec, epoch time.Time, entries []*Entry, progress func(int64)) (Layer, *Table, error) {
	if len(entries) == 0 {
		return Layer{Empty: true}, newTable(), nil
	}
	w, err := NewWriter(session, codec)
	if err != nil {
		return Layer{}, nil, err
	}
	table := newTable()
	buffered := bufio.NewWriterSize(w, copyBuffer)
	e := entryWriter{archive: tar.NewWriter(buffered), table: table, epoch: epoch, buffer: make([]byte, copyBuffer), progress: progress}
	defer e.files.close()
	for i, entry := range entries {
		if err = ctx.Err(); err != nil {
			break
		}
		if err = e.write(entry); err != nil {
			break
		}
		entries[i] = nil // the table of contents grows instead
	}
	if err == nil {
		err = e.archive.Close()
	}
	if err == nil {
		err = buffered.Flush()
	}
	if err != nil {
		w.Abort()
		return Layer{}, nil, err
	}
	l, err := w.Commit()
	return l, table, err
}

// copyBuffer is how many bytes of content move at a time.
const copyBuffer = 256 << 10

// entryWriter writes entries one after the other.
type entryWriter struct {
	archive  *tar.Writer
	table    *Table
	epoch    time.Time
	buffer   []byte
	progress func(int64)
	files    opener
}

// filled tells whether an entry has content of its own.
func (e *Entry) filled() bool {
	return e.Type == tar.TypeReg && e.HardLink == "" && (e.tree != nil || e.Open != nil)
}

func (w *entryWriter) open(e *Entry) (io.ReadCloser, error) {
	if e.tree == nil {
		return e.Open()
	}
	if w.files.tree != e.tree {
		w.files.close()
		w.files.tree = e.tree
	}
	return w.files.open(e.file)
}

func (w *entryWriter) write(e *Entry) error {
	if strings.HasPrefix(path.Base(e.Name), whiteoutPrefix) {
		return fmt.Errorf("/%s: an image can't hold a file whose name starts with %q: it means a deleted file; rename it or list it in .dockerignore", e.Name, whiteoutPrefix)
	}
	header := &tar.Header{
		Typeflag: e.Type, Name: e.Name, Linkname: e.Link, Mode: int64(e.Mode), Uid: e.UID, Gid: e.GID,
		ModTime: w.epoch, Size: e.Size, Devmajor: e.Major, Devminor: e.Minor,
	}
	if e.Type == tar.TypeDir {
		header.Name += "/"
	}
	if e.HardLink != "" {
		header.Typeflag, header.Linkname = tar.TypeLink, e.HardLink
	}
	for name, value := range e.Xattrs {
		if header.PAXRecords == nil {
			header.PAXRecords = map[string]string{}
		}
		header.PAXRecords[xattrPrefix+name] = value
	}
	if err := w.archive.WriteHeader(header); err != nil {
		return fmt.Errorf("write /%s into the layer: %w", e.Name, err)
	}
	if err := w.table.add(header); err != nil {
		return err
	}
	if !e.filled() {
		return nil
	}
	content, err := w.open(e)
	if err != nil {
		return err
	}
	defer content.Close()
	var source io.Reader = content
	if account := w.table.accounts(e.Name); account != nil {
		source = io.TeeReader(content, &boundedBuffer{account})
	}
	// A file that grows is cut, one that shrinks is found out below: the size
	// stands in the header already.
	n, err := io.CopyBuffer(struct{ io.Writer }{w.archive}, io.LimitReader(source, e.Size), w.buffer)
	if w.progress != nil {
		w.progress(n)
	}
	switch {
	case err != nil:
		return fmt.Errorf("copy /%s into the layer: %w", e.Name, err)
	case n < e.Size:
		return fmt.Errorf("copy /%s into the layer: %w", e.Name, ErrChanged)
	}
	return nil
}

// ErrChanged says that a file changed while it was read.
var ErrChanged = errors.New("the file changed during the build: build again when it is at rest")

func (t *Table) accounts(name string) *[]byte {
	switch name {
	case "etc/passwd":
		t.Passwd = nil
		return &t.Passwd
	case "etc/group":
		t.Group = nil
		return &t.Group
	}
	return nil
}

type boundedBuffer struct{ to *[]byte }

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if room := maxAccounts - len(*b.to); room > 0 {
		*b.to = append(*b.to, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// TarType gives the tar type flag of a file mode; ok is false for sockets and
// other files an image cannot hold.
func TarType(mode fs.FileMode) (flag byte, ok bool) {
	switch {
	case mode.IsRegular():
		return tar.TypeReg, true
	case mode.IsDir():
		return tar.TypeDir, true
	case mode&fs.ModeSymlink != 0:
		return tar.TypeSymlink, true
	case mode&fs.ModeNamedPipe != 0:
		return tar.TypeFifo, true
	case mode&fs.ModeCharDevice != 0:
		return tar.TypeChar, true
	case mode&fs.ModeDevice != 0:
		return tar.TypeBlock, true
	}
	return 0, false
}

// ModeBits gives the permission bits of a file mode as Node.Mode holds them.
func ModeBits(mode fs.FileMode) uint32 {
	bits := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if mode&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if mode&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}
