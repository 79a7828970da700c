package layer

import (
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
)

// Codec is how layers are compressed: a method, with "-" and a level if it is
// not the usual one, such as "zstd-19".
type Codec string

// The methods. Gzip is understood everywhere, Zstd is faster and smaller,
// Uncompressed for who compresses later.
const (
	Gzip         Codec = "gzip"
	Zstd         Codec = "zstd"
	Uncompressed Codec = "uncompressed"
)

// version changes when the bytes a layer is made of change for equal input.
const version = "1"

// levels are the compression levels of each method.
var levels = map[Codec][2]int{Gzip: {0, 9}, Zstd: {1, 22}, Uncompressed: {0, 0}}

// ParseCodec reads a method and a level; a nil level is the method's usual one.
func ParseCodec(method string, level *int) (Codec, error) {
	c := Codec(method)
	bounds, ok := levels[c]
	switch {
	case !ok:
		return "", fmt.Errorf("compression %q is not known: use gzip, zstd or uncompressed", method)
	case level == nil, c == Uncompressed:
		return c, nil
	case *level < bounds[0] || *level > bounds[1]:
		return "", fmt.Errorf("compression level %d: %s has %d to %d", *level, c, bounds[0], bounds[1])
	}
	return Codec(method + "-" + strconv.Itoa(*level)), nil
}

// parts are the method and level of a codec; ok is false without a level.
func (c Codec) parts() (method Codec, level int, ok bool) {
	name, text, ok := strings.Cut(string(c), "-")
	if !ok {
		return c, 0, false
	}
	level, err := strconv.Atoi(text)
	return Codec(name), level, err == nil
}

// Identity is what of a codec decides a layer's bytes; it belongs in cache keys.
func (c Codec) Identity() string { return string(c) + "/" + version }

// MediaType is the OCI media type of layers of the codec.
func (c Codec) MediaType() types.MediaType {
	switch method, _, _ := c.parts(); method {
	case Zstd:
		return types.OCILayerZStd
	case Uncompressed:
		return types.OCIUncompressedLayer
	}
	return types.OCILayer
}

// gzipBlock is the unit of parallel compression. The result depends on it, and
// not on how many cores compress.
const gzipBlock = 1 << 20

// compressor compresses a stream with the codec.
func (c Codec) compressor(out io.Writer) (io.WriteCloser, error) {
	method, level, hasLevel := c.parts()
	switch method {
	case Zstd:
		speed := zstd.SpeedDefault
		if hasLevel {
			speed = zstd.EncoderLevelFromZstd(level)
		}
		// One thread per layer: layers are made at the same time, and the bytes
		// must not depend on the number of cores.
		return zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(speed))
	case Gzip, "":
		if !hasLevel {
			level = pgzip.DefaultCompression
		}
		encoder, err := pgzip.NewWriterLevel(out, level)
		if err != nil {
			return nil, err
		}
		return encoder, encoder.SetConcurrency(gzipBlock, runtime.GOMAXPROCS(0))
	case Uncompressed:
		return plain{out}, nil
	}
	return nil, fmt.Errorf("compression %q is not known: use gzip, zstd or uncompressed", string(c))
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }
