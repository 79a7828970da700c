package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

// endless gives zeros for as long as anybody reads, and counts them.
type endless struct{ sent atomic.Int64 }

func (e *endless) serve(w http.ResponseWriter) {
	zeros := make([]byte, 64<<10)
	// Bounded so that a client that does read on fails the test and not the machine.
	for e.sent.Load() < 1<<30 {
		n, err := w.Write(zeros)
		e.sent.Add(int64(n))
		if err != nil {
			return
		}
	}
}

func TestARegistryThatLiesIsFoundOut(t *testing.T) {
	p := inMemory(t)
	c := New(Options{Default: p.host(), Retry: (&clock{now: time.Unix(0, 0)}).retry()})
	push := pushOf(t, c, "team/app:v1", []byte("the true content"))
	_, err := c.Push(context.Background(), push)
	require.NoError(t, err)
	layer := push.Blobs[1]
	platform := v1.Platform{OS: "linux", Architecture: "amd64"}
	var digest *DigestError
	var size *SizeError
	blob := func(offset int64) func() error {
		return func() error {
			reader, err := c.Blob(context.Background(), push.Repository, layer.Descriptor, offset)
			if err != nil {
				return err
			}
			_, err = io.ReadAll(reader)
			return errors.Join(err, reader.Close())
		}
	}
	manifest := func(reference string) func() error {
		return func() error {
			_, err := c.Resolve(context.Background(), p.host()+reference, platform, nil)
			return err
		}
	}
	byDigest := "/team/app@" + uploadOf(push.Raw).Digest.String()
	text := func(header map[string]string, flush bool, body string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for name, value := range header {
				w.Header().Set(name, value)
			}
			if flush {
				w.(http.Flusher).Flush() // no Content-Length
			}
			_, _ = io.WriteString(w, body)
		}
	}
	manifestType := map[string]string{"Content-Type": string(push.MediaType)}
	var flood endless
	for _, c := range []struct {
		name string
		path string
		lie  func(w http.ResponseWriter)
		do   func() error
		want any
		says string
	}{
		{"other content", "/blobs/", text(nil, true, "the lies content"), blob(0), &digest, ""},
		{"short content", "/blobs/", text(nil, true, "short"), blob(0), nil, "unexpected EOF"},
		{"wrong Content-Length", "/blobs/", text(nil, false, "the true content and much more"), blob(0), &size, ""},
		{"another range", "/blobs/", func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 0-15/16")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, "the true content")
		}, blob(4), nil, "asked for the blob from byte 4"},
		{"other manifest", "/manifests/", text(manifestType, true, strings.Replace(string(push.Raw), "2", "3", 1)), manifest(byDigest), &digest, ""},
		{"manifest of another type", "/manifests/", text(map[string]string{"Content-Type": "application/vnd.oci.image.index.v1+json"}, true, string(push.Raw)), manifest("/team/app:v1"), nil, "it calls itself"},
		{"image and index at once", "/manifests/", text(manifestType, true, `{"schemaVersion":2,"layers":[],"manifests":[]}`), manifest("/team/app:v1"), nil, "an image and an index at once"},
		{"index that is none", "/manifests/", text(map[string]string{"Content-Type": "application/vnd.oci.image.index.v1+json"}, true, `{"schemaVersion":2,"layers":[]}`), manifest("/team/app:v1"), nil, "it is none"},
		{"endless manifest", "/manifests/", flood.serve, manifest("/team/app:v1"), nil, "larger than"},
		{"endless refusal", "/manifests/", func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden); flood.serve(w) }, manifest("/team/app:v1"), nil, "403 Forbidden"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p.mu.Lock()
			p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, c.path) {
					return false
				}
				c.lie(w)
				return true
			}
			p.mu.Unlock()
			err := c.do()
			require.Error(t, err)
			if c.want != nil {
				require.ErrorAs(t, err, c.want)
			}
			require.ErrorContains(t, err, c.says)
		})
	}
	p.Close() // waits for the handlers
	require.Less(t, flood.sent.Load(), int64(64<<20), "reading ends early")
}

func TestContentBeyondItsSizeIsNotRead(t *testing.T) {
	p := inMemory(t)
	c := New(Options{Default: p.host(), Retry: (&clock{now: time.Unix(0, 0)}).retry()})
	push := pushOf(t, c, "team/app:v1", []byte("the true content"))
	_, err := c.Push(context.Background(), push)
	require.NoError(t, err)
	var flood endless
	p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet {
			return false
		}
		_, _ = io.WriteString(w, "the true content")
		w.(http.Flusher).Flush()
		flood.serve(w)
		return true
	}
	reader, err := c.Blob(context.Background(), push.Repository, push.Blobs[1].Descriptor, 0)
	require.NoError(t, err)
	got, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.Equal(t, "the true content", string(got))
	require.NoError(t, reader.Close())
	p.Close()
	require.Less(t, flood.sent.Load(), int64(64<<20))
}

func TestAnEndlessAnswerToTheFirstQuestionIsCut(t *testing.T) {
	p := inMemory(t)
	var flood endless
	p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v2/" {
			return false
		}
		flood.serve(w)
		return true
	}
	c := New(Options{Default: p.host(), Retry: (&clock{now: time.Unix(0, 0)}).retry()})
	_, err := c.Push(context.Background(), pushOf(t, c, "team/app:v1", []byte("content")))
	require.NoError(t, err)
	p.Close()
	require.Less(t, flood.sent.Load(), int64(64<<20))
}

func TestRedirectsInACircleEnd(t *testing.T) {
	p := inMemory(t)
	p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		return true
	}
	k := &clock{now: time.Unix(0, 0)}
	c := New(Options{Default: p.host(), Retry: k.retry()})
	ref, err := c.Destination("team/app:v1")
	require.NoError(t, err)
	_, err = c.Blob(context.Background(), ref.Context(), uploadOf([]byte("x")).Descriptor, 0)
	require.ErrorContains(t, err, "redirects in a circle")
	require.Empty(t, k.pauses, "it is not tried again")
	require.Equal(t, maxRedirects, p.count("GET", "/blobs/"))
}

func TestAnIndexIsPushedAfterItsImages(t *testing.T) {
	p := onDisk(t)
	c := New(Options{Default: p.host()})
	one, two := pushOf(t, c, "team/app:v1", []byte("one")), pushOf(t, c, "team/app:v1", []byte("two"))
	two.Blobs = append(two.Blobs, one.Blobs[1]) // shared by both
	entry := func(m Manifest) string {
		u := uploadOf(m.Raw)
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, m.MediaType, u.Digest, u.Size)
	}
	index := Push{Repository: one.Repository, Tags: []string{"v1", "v2"}, Manifest: Manifest{
		Raw:       []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` + entry(one.Manifest) + "," + entry(two.Manifest) + `]}`),
		MediaType: "application/vnd.oci.image.index.v1+json", Manifests: []Manifest{one.Manifest, two.Manifest},
	}}
	pushed, err := c.Push(context.Background(), index)
	require.NoError(t, err)
	require.EqualValues(t, 4, pushed.Uploaded, "what two images share goes up once")
	require.True(t, bytes.Contains(index.Raw, []byte(uploadOf(one.Raw).Digest.String())))
	puts := p.count("PUT")
	_, err = c.Push(context.Background(), index)
	require.NoError(t, err)
	require.Equal(t, puts, p.count("PUT"))
}
