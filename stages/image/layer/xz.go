package layer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz"
)

// newXZReader unpacks xz. The library makes a dictionary as large as the file
// asks for, up to 4 GiB, so what each block asks for is looked at first.
func newXZReader(from *bufio.Reader) (io.Reader, error) {
	return xz.NewReader(&xzGuard{from: bufio.NewReaderSize(from, 64<<10)})
}

// xzGuard passes an xz file on and follows its structure (The .xz File Format
// 1.2.1) from one part to the next, to see every block's header before the
// decompressor does.
type xzGuard struct {
	from *bufio.Reader
	// next looks at the part that comes and tells how long it is; it leaves
	// behind what looks at the part after that.
	next func() (int64, error)
	// run is what is left of the part at hand, in bytes.
	run int64
	// check is the size of a block's check, packed the bytes of its chunks so far.
	check, packed int64
	// varints and index are what is left of an index, and its bytes so far.
	varints uint64
	index   int64
}

var errXZ = errors.New("the xz file is damaged")

func (g *xzGuard) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for g.run == 0 {
		if g.next == nil {
			g.next = g.stream
		}
		run, err := g.next()
		if err != nil {
			return 0, err
		}
		g.run = run
	}
	n, err := g.from.Read(p[:min(int64(len(p)), g.run)])
	g.run -= int64(n)
	return n, err
}

func (g *xzGuard) peek(n int) ([]byte, error) {
	head, err := g.from.Peek(n)
	if errors.Is(err, io.EOF) && len(head) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return head, err
}

// stream is at the header of a stream, or at the padding between two.
func (g *xzGuard) stream() (int64, error) {
	head, err := g.peek(4)
	if err != nil {
		return 0, err
	}
	if bytes.Equal(head, make([]byte, 4)) {
		return 4, nil
	}
	if head, err = g.peek(12); err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(head, xzMagic) {
		return 0, errXZ
	}
	// Check types 1–3 have 4 bytes, 4–6 8, and so on, doubling every three.
	if kind := head[7] & 0x0f; kind == 0 {
		g.check = 0
	} else {
		g.check = 4 << ((kind - 1) / 3)
	}
	g.next = g.block
	return 12, nil
}

// block is at a block's header, or at the index.
func (g *xzGuard) block() (int64, error) {
	head, err := g.peek(1)
	if err != nil {
		return 0, err
	}
	if head[0] == 0 {
		g.next, g.index = g.count, 1
		return 1, nil
	}
	size := (int(head[0]) + 1) * 4
	if head, err = g.peek(size); err != nil {
		return 0, err
	}
	if err := checkXZFilters(head); err != nil {
		return 0, err
	}
	g.next, g.packed = g.chunk, 0
	return int64(size), nil
}

// checkXZFilters reads a block's header for the size of its dictionary.
func checkXZFilters(header []byte) error {
	const lzma2 = 0x21
	rest := header[2:]
	take := func() uint64 {
		value, n := binary.Uvarint(rest)
		if n <= 0 {
			rest = nil
			return 0
		}
		rest = rest[n:]
		return value
	}
	for _, flag := range []byte{0x40, 0x80} {
		if header[1]&flag != 0 {
			take() // a size
		}
	}
	for range header[1]&3 + 1 {
		id, size := take(), take()
		if size > uint64(len(rest)) {
			return errXZ
		}
		if id == lzma2 && size == 1 {
			bits := rest[0] & 0x3f
			if bits > 40 || int64(2|bits&1)<<(bits/2+11) > maxWindow {
				return fmt.Errorf("the xz file asks for a dictionary of more than %d bytes", maxWindow)
			}
		} else if id == lzma2 {
			return errXZ
		}
		rest = rest[size:]
	}
	return nil
}

// chunk is at an LZMA2 chunk.
func (g *xzGuard) chunk() (int64, error) {
	head, err := g.peek(1)
	if err != nil {
		return 0, err
	}
	var run int64
	control := head[0]
	switch {
	case control == 0:
		g.packed++
		g.next = g.block
		return 1 + (4-g.packed%4)%4 + g.check, nil
	case control >= 0x80:
		if head, err = g.peek(5); err != nil {
			return 0, err
		}
		run = 5 + int64(binary.BigEndian.Uint16(head[3:])) + 1
		if control >= 0xc0 {
			run++ // properties
		}
	case control <= 2:
		if head, err = g.peek(3); err != nil {
			return 0, err
		}
		run = 3 + int64(binary.BigEndian.Uint16(head[1:])) + 1
	default:
		return 0, errXZ
	}
	g.packed += run
	return run, nil
}

// count is at the number of an index's records, record at one of their numbers.
func (g *xzGuard) count() (int64, error) {
	value, n, err := g.varint()
	if err != nil {
		return 0, err
	}
	if value > 1<<40 {
		return 0, errXZ
	}
	g.varints = 2 * value
	g.next = g.record
	return n, nil
}

func (g *xzGuard) record() (int64, error) {
	if g.varints == 0 {
		g.next = g.stream
		return (4-g.index%4)%4 + 4 + 12, nil // padding, checksum, footer
	}
	g.varints--
	_, n, err := g.varint()
	return n, err
}

func (g *xzGuard) varint() (uint64, int64, error) {
	head, err := g.from.Peek(binary.MaxVarintLen64)
	value, n := binary.Uvarint(head)
	if n <= 0 {
		return 0, 0, errors.Join(errXZ, err)
	}
	g.index += int64(n)
	return value, int64(n), nil
}
