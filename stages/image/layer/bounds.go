package layer

import (
	"fmt"
	"io"
)

// The bounds of what is unpacked, a layer or an archive. The ratio is of unpacked
// to packed bytes, and counts once more than ratioFrom came out: gzip reaches it
// only with nothing but zeros.
const (
	maxUnpacked = 64 << 30
	maxRatio    = 1000
	ratioFrom   = 256 << 20
)

// checkUnpacked tells whether unpacked bytes may come from that many packed ones.
func checkUnpacked(unpacked, packed int64) error {
	if unpacked > maxUnpacked {
		return fmt.Errorf("it unpacks to more than %d bytes", int64(maxUnpacked))
	}
	if unpacked > ratioFrom && unpacked/maxRatio > packed {
		return fmt.Errorf("it unpacks to far more than its size: %d bytes from %d, as a decompression bomb does", unpacked, packed)
	}
	return nil
}

// Counter counts what is read through it.
type Counter struct {
	From io.Reader
	// N is how many bytes were read.
	N int64
}

// Read implements io.Reader.
func (c *Counter) Read(p []byte) (int, error) {
	n, err := c.From.Read(p)
	c.N += int64(n)
	return n, err
}

// Bounded reads what is unpacked from packed, and fails where that turns out to
// be a decompression bomb.
func Bounded(unpacked io.Reader, packed *Counter) io.Reader {
	return &bounded{from: unpacked, packed: packed}
}

type bounded struct {
	from   io.Reader
	packed *Counter
	n      int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	b.n += int64(n)
	if bomb := checkUnpacked(b.n, b.packed.N); bomb != nil {
		return 0, bomb
	}
	return n, err
}
