package baseimage

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// layer is a compressed layer in a file. It implements v1.Layer.
type layer struct {
	file   string
	record layerRecord
}

type layerRecord struct {
	Digest v1.Hash `json:"digest"`
	DiffID v1.Hash `json:"diffID"`
	Size   int64   `json:"size"`
}

func (l *layer) Digest() (v1.Hash, error)             { return l.record.Digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.record.DiffID, nil }
func (l *layer) Size() (int64, error)                 { return l.record.Size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return types.OCILayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return os.Open(l.file) }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return openGzip(l.file) }

type gzipFile struct {
	*gzip.Reader
	file *os.File
}

func openGzip(name string) (io.ReadCloser, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	reader, err := gzip.NewReader(bufio.NewReaderSize(file, 256<<10))
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return &gzipFile{reader, file}, nil
}

func (g *gzipFile) Close() error { return errors.Join(g.Reader.Close(), g.file.Close()) }

// archive writes a layer's entries, all of them with the same fixed time and
// owned by root, so that equal content is an equal layer.
type archive struct {
	ctx context.Context
	tar *tar.Writer
}

func (a *archive) write(header tar.Header, content io.Reader) error {
	if err := a.ctx.Err(); err != nil {
		return context.Cause(a.ctx)
	}
	header.ModTime, header.Format = time.Unix(0, 0), tar.FormatPAX
	if err := a.tar.WriteHeader(&header); err != nil {
		return fmt.Errorf("write layer entry %s: %w", header.Name, err)
	}
	if content == nil {
		return nil
	}
	if _, err := io.Copy(a.tar, content); err != nil {
		return fmt.Errorf("write layer entry %s: %w", header.Name, err)
	}
	return nil
}

func (a *archive) directory(name string, mode int64) error {
	return a.write(tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (a *archive) symlink(name, target string) error {
	return a.write(tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

// file adds a file of this machine.
func (a *archive) file(name, source string, mode int64) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", source)
	}
	return a.write(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: info.Size()}, file)
}

// cachedLayer returns the layer kept under key in dir, making it by fill when
// there is none.
func cachedLayer(ctx context.Context, dir, key string, fill func(*archive) error) (v1.Layer, error) {
	file, recordFile := filepath.Join(dir, key+".tar.gz"), filepath.Join(dir, key+".json")
	if raw, err := os.ReadFile(recordFile); err == nil {
		l := &layer{file: file}
		info, statErr := os.Stat(file)
		if json.Unmarshal(raw, &l.record) == nil && statErr == nil && info.Size() == l.record.Size {
			return l, nil
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("keep layers: %w", err)
	}
	made, err := os.CreateTemp(dir, "making-")
	if err != nil {
		return nil, fmt.Errorf("keep layers: %w", err)
	}
	defer os.Remove(made.Name()) // gone already when all went well
	record, err := fillLayer(ctx, made, fill)
	if err = errors.Join(err, made.Close()); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	// The record comes last: it vouches for the file.
	if err := os.Rename(made.Name(), file); err != nil {
		return nil, fmt.Errorf("keep layers: %w", err)
	}
	if err := replaceFile(recordFile, raw); err != nil {
		return nil, fmt.Errorf("keep layers: %w", err)
	}
	return &layer{file: file, record: record}, nil
}

func replaceFile(name string, content []byte) error {
	made, err := os.CreateTemp(filepath.Dir(name), "making-") // others may be at it, in this process too
	if err != nil {
		return err
	}
	defer os.Remove(made.Name()) // gone already when all went well
	_, err = made.Write(content)
	if err := errors.Join(err, made.Close()); err != nil {
		return err
	}
	return os.Rename(made.Name(), name)
}

func fillLayer(ctx context.Context, to io.Writer, fill func(*archive) error) (layerRecord, error) {
	digest, diffID := sha256.New(), sha256.New()
	counted := &counter{to: io.MultiWriter(to, digest)}
	buffered := bufio.NewWriterSize(counted, 256<<10)
	compressed, err := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	if err != nil {
		return layerRecord{}, err
	}
	plain := bufio.NewWriterSize(io.MultiWriter(compressed, diffID), 256<<10)
	a := &archive{ctx: ctx, tar: tar.NewWriter(plain)}
	if err := fill(a); err != nil {
		return layerRecord{}, err
	}
	for _, finish := range []func() error{a.tar.Close, plain.Flush, compressed.Close, buffered.Flush} {
		if err := finish(); err != nil {
			return layerRecord{}, fmt.Errorf("write layer: %w", err)
		}
	}
	return layerRecord{Digest: hashOf(digest), DiffID: hashOf(diffID), Size: counted.bytes}, nil
}

func hashOf(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

type counter struct {
	to    io.Writer
	bytes int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.bytes += int64(n)
	return n, err
}
