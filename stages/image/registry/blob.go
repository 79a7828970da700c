package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Blob opens a blob at an offset. A connection that breaks is taken up again
// where it stopped. Read from 0, the reader fails at the end unless size and
// digest are what the descriptor says; more than its size is never read.
func (c *Client) Blob(ctx context.Context, repo name.Repository, descriptor v1.Descriptor, offset int64) (io.ReadCloser, error) {
	if descriptor.Digest.Algorithm != "sha256" {
		return nil, &permanentError{fmt.Errorf("blob %s: only sha256 digests are supported", descriptor.Digest)}
	}
	b := &blob{ctx: ctx, client: c, repo: repo, descriptor: descriptor, at: offset, tries: attempts{retry: c.options.Retry}}
	if offset == 0 {
		b.hash = sha256.New()
	}
	for {
		err := b.open()
		if err == nil {
			return b, nil
		}
		if err := b.tries.next(ctx, err); err != nil {
			return nil, fmt.Errorf("fetch %s from %s: %w", descriptor.Digest, repo, err)
		}
	}
}

type blob struct {
	ctx        context.Context //nolint:containedctx // a reader has no other place for it
	client     *Client
	repo       name.Repository
	descriptor v1.Descriptor
	hash       hash.Hash
	at         int64
	body       io.ReadCloser
	tries      attempts
}

func (b *blob) open() error {
	s, err := b.client.puller(b.ctx, b.repo)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(b.ctx, http.MethodGet, s.url("blobs/%s", b.descriptor.Digest), nil)
	if err != nil {
		return &permanentError{err}
	}
	if b.at > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.at, b.descriptor.Size-1))
	}
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	if err := b.checkAnswer(response); err != nil {
		_ = response.Body.Close() // err matters more
		return err
	}
	switch {
	case response.StatusCode == http.StatusOK:
		// The registry may not know ranges: skip what we have.
		if _, err := io.CopyN(io.Discard, response.Body, b.at); err != nil {
			_ = response.Body.Close() // err matters more
			return err
		}
	case response.StatusCode == http.StatusPartialContent && b.at > 0:
	default:
		defer response.Body.Close()
		return statusError(response, b.client.options.Retry.Now())
	}
	b.body = response.Body
	return nil
}

// checkAnswer finds answers that cannot be the blob before it is read.
func (b *blob) checkAnswer(response *http.Response) error {
	switch {
	case response.StatusCode == http.StatusOK && response.ContentLength >= 0 && response.ContentLength != b.descriptor.Size:
		return &permanentError{&SizeError{Digest: b.descriptor.Digest, Want: b.descriptor.Size, Got: response.ContentLength}}
	case response.StatusCode == http.StatusPartialContent && b.at > 0:
		text := response.Header.Get("Content-Range")
		if text != "" && !strings.HasPrefix(text, fmt.Sprintf("bytes %d-", b.at)) {
			return &permanentError{fmt.Errorf("asked for the blob from byte %d on, the registry sent %q", b.at, printable(text))}
		}
	}
	return nil
}

// SizeError says that a registry gives a blob another size than its manifest.
type SizeError struct {
	Digest    v1.Hash
	Want, Got int64
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("the registry has %d bytes for %s, whose manifest says %d", e.Got, e.Digest, e.Want)
}

func (b *blob) Read(p []byte) (int, error) {
	for {
		left := b.descriptor.Size - b.at
		if left <= 0 {
			return 0, b.finish()
		}
		if b.body == nil {
			if err := b.open(); err != nil {
				if err := b.tries.next(b.ctx, err); err != nil {
					return 0, fmt.Errorf("fetch %s from %s: %w", b.descriptor.Digest, b.repo, err)
				}
				continue
			}
		}
		n, err := b.body.Read(p[:min(int64(len(p)), left)])
		b.at += int64(n)
		if b.hash != nil {
			b.hash.Write(p[:n])
		}
		if n > 0 {
			b.tries.progressed()
		}
		if err != nil {
			_ = b.body.Close() // it failed or ended
			b.body = nil
			if n == 0 && b.at < b.descriptor.Size {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				if err := b.tries.next(b.ctx, err); err != nil {
					return 0, fmt.Errorf("fetch %s from %s: %w", b.descriptor.Digest, b.repo, err)
				}
				continue
			}
		}
		if n > 0 {
			return n, nil
		}
	}
}

func (b *blob) finish() error {
	if b.hash != nil {
		got := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(b.hash.Sum(nil))}
		if got != b.descriptor.Digest {
			return fmt.Errorf("fetch from %s: %w", b.repo, &DigestError{Want: b.descriptor.Digest, Got: got})
		}
	}
	return io.EOF
}

func (b *blob) Close() error {
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}
