package layer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"encoding/binary"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds what a decompressor may hold, in bytes.
const maxWindow = 128 << 20

var (
	gzipMagic  = []byte{0x1f, 0x8b}
	bzip2Magic = []byte("BZh")
	xzMagic    = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	zstdMagic  = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// zstd files may begin with frames to skip, 0x184D2A50 to 0x184D2A5F.
const (
	skippableMagic = 0x184D2A50
	skippableMask  = 0xFFFFFFF0
)

// IsPacked tells whether the beginning of a file, best its first 512 bytes, is
// that of a tar archive or of something compressed.
func IsPacked(head []byte) bool {
	if isCompressed(head) {
		return true
	}
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil
}

func isCompressed(head []byte) bool {
	for _, magic := range [][]byte{gzipMagic, bzip2Magic, xzMagic, zstdMagic} {
		if bytes.HasPrefix(head, magic) {
			return true
		}
	}
	return len(head) >= 8 && binary.LittleEndian.Uint32(head)&skippableMask == skippableMagic
}

// unpackStream opens what the first bytes say it is: gzip, bzip2, xz, zstd or plain.
func unpackStream(buffered *bufio.Reader) (io.Reader, func(), error) {
	magic, _ := buffered.Peek(8) // shorter is plain
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		reader, err := gzip.NewReader(buffered)
		return reader, func() {}, err
	case bytes.HasPrefix(magic, bzip2Magic):
		return bzip2.NewReader(buffered), func() {}, nil
	case bytes.HasPrefix(magic, xzMagic):
		reader, err := newXZReader(buffered)
		return reader, func() {}, err
	case isCompressed(magic):
		reader, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return reader, reader.Close, nil
	}
	return buffered, func() {}, nil
}
