package inbox

import (
	"errors"
	"io"
	"net/http"

	"golang.org/x/sync/semaphore"
)

// firstRead is what a body may take before it has shown that it is longer:
// most deliveries fit, and a sender that only promises bytes holds no more.
const firstRead = 32 << 10

// errOverloaded: the bodies in flight already use the memory set aside for them.
var errOverloaded = errors.New("too many deliveries at once")

// bodies bounds the memory that request bodies use together.
type bodies struct {
	memory *semaphore.Weighted
	max    int64 // of one body
}

// read returns the whole body and a function that gives its memory back. Memory
// is taken as bytes arrive, never on the word of a Content-Length.
func (b *bodies) read(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	if r.ContentLength > b.max {
		return nil, nil, b.tooLarge()
	}
	var held int64
	release = func() { b.memory.Release(held) }
	defer func() {
		if err != nil {
			release()
		}
	}()
	src := http.MaxBytesReader(w, r.Body, b.max)
	size := int64(firstRead)
	if r.ContentLength >= 0 && r.ContentLength < size {
		size = r.ContentLength + 1 // one more, so that the end is seen without growing
	}
	for {
		if !b.memory.TryAcquire(size - held) {
			return nil, nil, errOverloaded
		}
		held = size
		grown := make([]byte, len(body), size)
		copy(grown, body)
		body = grown
		n, err := io.ReadFull(src, body[len(body):cap(body)])
		body = body[:len(body)+n]
		var tooLong *http.MaxBytesError
		switch {
		case err == io.EOF, errors.Is(err, io.ErrUnexpectedEOF):
			if r.ContentLength >= 0 && int64(len(body)) != r.ContentLength {
				return nil, nil, Refusef(http.StatusBadRequest, "the body ended after %d of %d bytes", len(body), r.ContentLength)
			}
			return body, release, nil
		case errors.As(err, &tooLong):
			return nil, nil, b.tooLarge()
		case err != nil:
			return nil, nil, Refusef(http.StatusBadRequest, "the body could not be read to its end")
		}
		size = min(2*size, b.max+1)
	}
}

func (b *bodies) tooLarge() error {
	return Refusef(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes", b.max)
}
