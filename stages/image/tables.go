package image

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
)

// tableSet are the tables of contents a build has loaded.
type tableSet struct {
	loaded onceMap[v1.Hash, *layer.Table]
}

// tableRecord is the kind of a table's record; its number counts what tables tell.
const tableRecord = "table-2"

// view is what the chain's filesystem holds.
func (e *execution) view(ctx context.Context, chain []chainLink) (layer.View, error) {
	view := make(layer.View, 0, len(chain))
	for _, link := range chain {
		table, err := e.table(ctx, link)
		if err != nil {
			return nil, err
		}
		view = view.Above(table)
	}
	return view, nil
}

// table gives a layer's table of contents: kept from when the layer was made or
// last read, or else read from the layer.
func (e *execution) table(ctx context.Context, link chainLink) (*layer.Table, error) {
	return e.tables.loaded.do(link.DiffID, func() (*layer.Table, error) {
		table := &layer.Table{}
		if found, err := e.Store.Record(tableRecord, link.DiffID, table); err != nil || found {
			return table, err
		}
		stream, err := e.unpacked(ctx, link)
		if err != nil {
			return nil, err
		}
		defer stream.Close()
		hash := sha256.New()
		if table, err = layer.ReadTable(io.TeeReader(stream, hash)); err != nil {
			return nil, fmt.Errorf("layer %s: %w", link.Digest, err)
		}
		if got := hex.EncodeToString(hash.Sum(nil)); got != link.DiffID.Hex {
			return nil, fmt.Errorf("layer %s unpacks to sha256:%s and not to %s as its image says", link.Digest, got, link.DiffID)
		}
		return table, e.session.Put(tableRecord, link.DiffID, table)
	})
}

// keepTable remembers the table of a layer just made.
func (e *execution) keepTable(diffID v1.Hash, table *layer.Table) error {
	_, err := e.tables.loaded.do(diffID, func() (*layer.Table, error) { return table, nil })
	if err != nil {
		return err
	}
	return e.session.Put(tableRecord, diffID, table)
}

// unpacked opens a layer's tar stream. A layer of a base image is fetched
// whole first: it is wanted for its files, and likely so again.
func (e *execution) unpacked(ctx context.Context, link chainLink) (io.ReadCloser, error) {
	if err := e.fetch(ctx, link); err != nil {
		return nil, err
	}
	packed, err := openLink(ctx, e.Store, link, 0)
	if err != nil {
		return nil, err
	}
	return decompress(packed)
}

// fetch brings a base image's layer here.
func (e *execution) fetch(ctx context.Context, link chainLink) error {
	if link.from == nil || e.Store.Has(link.Digest, link.Size) {
		return nil
	}
	_, err := e.fetches.do(link.Digest, func() (struct{}, error) {
		id := "fetch " + short(link.Digest)
		start := e.now()
		e.emit(progress.Event{Kind: progress.Start, Step: id, Text: fmt.Sprintf("fetch layer %s of %s", short(link.Digest), link.from), Total: link.Size})
		err := e.download(ctx, link, id)
		if err != nil {
			e.emit(progress.Event{Kind: progress.Failed, Step: id, Text: firstLine(err), Duration: e.now().Sub(start)})
			return struct{}{}, err
		}
		e.emit(progress.Event{Kind: progress.Done, Step: id, Bytes: link.Size, Digest: link.Digest.String(), Duration: e.now().Sub(start)})
		return struct{}{}, nil
	})
	return err
}

func (e *execution) download(ctx context.Context, link chainLink, id string) error {
	content, err := link.from.Open(ctx, v1.Descriptor{Digest: link.Digest, Size: link.Size}, 0)
	if err != nil {
		return err
	}
	defer content.Close()
	file, err := e.session.Temporary()
	if err != nil {
		return err
	}
	defer file.Discard()
	// The reader verifies size and digest at its end.
	if _, err := io.Copy(file.File, &movedReader{from: content, e: e, id: id, total: link.Size}); err != nil {
		return err
	}
	return file.Keep(link.Digest)
}

// movedEvery is how many bytes pass between two progress events.
const movedEvery = 4 << 20

type movedReader struct {
	from  io.Reader
	e     *execution
	id    string
	total int64
	read  int64
	told  int64
}

func (r *movedReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.read += int64(n)
	if r.read-r.told >= movedEvery {
		r.told = r.read
		r.e.emit(progress.Event{Kind: progress.Moved, Step: r.id, Bytes: r.read, Total: r.total})
	}
	return n, err
}

func short(digest v1.Hash) string { return digest.Hex[:min(12, len(digest.Hex))] }

// decompress opens what its first bytes say it is: gzip, zstd or plain. What it
// gives is bounded as layer.Bounded says.
func decompress(packed io.ReadCloser) (io.ReadCloser, error) {
	counter := &layer.Counter{From: packed}
	buffered := bufio.NewReaderSize(counter, 256<<10)
	magic, _ := buffered.Peek(4) // shorter is neither
	fail := func(err error) (io.ReadCloser, error) {
		return nil, errors.Join(fmt.Errorf("unpack layer: %w", err), packed.Close())
	}
	switch {
	case len(magic) >= 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		reader, err := gzip.NewReader(buffered)
		if err != nil {
			return fail(err)
		}
		return &stream{layer.Bounded(reader, counter), []io.Closer{reader, packed}}, nil
	case len(magic) >= 4 && magic[0] == 0x28 && magic[1] == 0xb5 && magic[2] == 0x2f && magic[3] == 0xfd:
		reader, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return fail(err)
		}
		closer := reader.IOReadCloser()
		return &stream{layer.Bounded(closer, counter), []io.Closer{closer, packed}}, nil
	}
	return &stream{layer.Bounded(buffered, counter), []io.Closer{packed}}, nil
}

type stream struct {
	io.Reader
	closers []io.Closer
}

func (s *stream) Close() error {
	var all error
	for _, c := range s.closers {
		all = errors.Join(all, c.Close())
	}
	return all
}
