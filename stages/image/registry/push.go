package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

// What goes up at once. A small blob takes its time on the way, not on the line:
// many of them together take hardly longer than one.
const (
	uploadRoom  = 16 // as many connections are kept open
	smallBlob   = 256 << 10
	largeWeight = 4
	manifests   = 4
)

// weight is a blob's part of uploadRoom.
func weight(size int64) int64 {
	if size <= smallBlob {
		return 1
	}
	return largeWeight
}

// Upload is a blob to push.
type Upload struct {
	v1.Descriptor
	// Open gives the content from an offset.
	Open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	// Found is where the blob is known to be; on the same registry it is mounted
	// from there. The zero value means nowhere.
	Found name.Repository
}

// Manifest is a manifest with what it refers to.
type Manifest struct {
	Raw       []byte
	MediaType types.MediaType
	// Blobs are the configuration and the layers.
	Blobs []Upload
	// Manifests are those of an index.
	Manifests []Manifest
}

// Push is an image or an index to push.
type Push struct {
	Repository name.Repository
	// Tags are set to the manifest; without any it is pushed by digest alone.
	Tags []string
	Manifest
	// Progress is told what happens to a blob: how many bytes went up since the
	// last call; nil is fine. It is called by several goroutines.
	Progress func(digest v1.Hash, bytes int64)
}

// Pushed is what a push did.
type Pushed struct {
	Digest v1.Hash
	// Uploaded, Mounted and Present count blobs.
	Uploaded, Mounted, Present int64
	// Bytes went up.
	Bytes int64
}

// Push puts an image or an index into a repository, with the least that has to
// be sent: blobs go first, then the manifests that need them.
func (c *Client) Push(ctx context.Context, push Push) (Pushed, error) {
	p := &pusher{client: c, push: push}
	digest, err := p.manifest(ctx, &push.Manifest, push.Tags)
	if err != nil {
		return Pushed{}, fmt.Errorf("push to %s: %w", push.Repository, err)
	}
	return Pushed{
		Digest: digest, Uploaded: p.uploaded.Load(), Mounted: p.mounted.Load(), Present: p.present.Load(), Bytes: p.bytes.Load(),
	}, nil
}

type pusher struct {
	client                     *Client
	push                       Push
	uploaded, mounted, present atomic.Int64
	bytes                      atomic.Int64
	// sent are the blobs that were dealt with: images of an index share some.
	sent sync.Map
}

// manifest puts a manifest under its tags, or else its digest, after what it
// refers to. What is there is left as it is.
func (p *pusher) manifest(ctx context.Context, m *Manifest, tags []string) (v1.Hash, error) {
	digest, _, err := v1.SHA256(bytes.NewReader(m.Raw))
	if err != nil {
		return digest, err
	}
	targets := tags
	if len(targets) == 0 {
		targets = []string{digest.String()}
	}
	missing, err := p.missing(ctx, digest, targets)
	if err != nil || len(missing) == 0 {
		return digest, err
	}
	if err := p.blobs(ctx, m.Blobs); err != nil {
		return digest, err
	}
	group, below := errgroup.WithContext(ctx)
	group.SetLimit(manifests)
	for i := range m.Manifests {
		group.Go(func() error {
			_, err := p.manifest(below, &m.Manifests[i], nil)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return digest, err
	}
	for _, target := range missing {
		if err := p.client.do(ctx, func() error { return p.putManifest(ctx, m, digest, target) }); err != nil {
			return digest, err
		}
	}
	return digest, nil
}

func (p *pusher) session(ctx context.Context) (*session, error) {
	var mounts []name.Repository
	seen := map[string]bool{p.push.Repository.Name(): true}
	var visit func(m *Manifest)
	visit = func(m *Manifest) {
		for _, blob := range m.Blobs {
			if p.mountable(blob) && !seen[blob.Found.Name()] {
				seen[blob.Found.Name()] = true
				mounts = append(mounts, blob.Found)
			}
		}
		for i := range m.Manifests {
			visit(&m.Manifests[i])
		}
	}
	visit(&p.push.Manifest)
	return p.client.pusher(ctx, p.push.Repository, mounts)
}

func (p *pusher) mountable(blob Upload) bool {
	return blob.Found.RepositoryStr() != "" && blob.Found.RegistryStr() == p.push.Repository.RegistryStr()
}

// missing gives the tags that do not mean this manifest yet.
func (p *pusher) missing(ctx context.Context, digest v1.Hash, targets []string) ([]string, error) {
	var missing []string
	for _, target := range targets {
		err := p.client.do(ctx, func() error {
			s, err := p.session(ctx)
			if err != nil {
				return err
			}
			found, err := s.head(ctx, target, p.client)
			if NotFound(err) || (err == nil && found != digest) {
				missing = append(missing, target)
				return nil
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return missing, nil
}

func (p *pusher) blobs(ctx context.Context, blobs []Upload) error {
	group, below := errgroup.WithContext(ctx)
	room := semaphore.NewWeighted(uploadRoom)
	for _, blob := range blobs {
		weight := weight(blob.Size)
		if room.Acquire(below, weight) != nil {
			break // one of those before failed, and Wait says why
		}
		group.Go(func() error {
			defer room.Release(weight)
			// Of several manifests with the blob the first sends it, the others wait.
			once, _ := p.sent.LoadOrStore(blob.Digest, &sending{})
			return once.(*sending).do(func() error { //nolint:errcheck,forcetypeassert // nothing else is stored
				if err := p.blob(below, blob); err != nil {
					return fmt.Errorf("blob %s: %w", blob.Digest, err)
				}
				return nil
			})
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx) // cancelled between two blobs
}

// sending is a blob that is being sent for all manifests that have it.
type sending struct {
	once sync.Once
	err  error
}

func (s *sending) do(send func() error) error {
	s.once.Do(func() { s.err = send() })
	return s.err
}

// transfer is one blob on its way up.
type transfer struct {
	*pusher
	blob     Upload
	location string // of the upload session; empty when there is none
	offset   int64  // how much the registry has
	tries    attempts
}

func (p *pusher) blob(ctx context.Context, blob Upload) error {
	t := &transfer{pusher: p, blob: blob, tries: attempts{retry: p.client.options.Retry}}
	for {
		done, err := t.step(ctx)
		if done {
			return nil
		}
		if err == nil {
			continue
		}
		if err := t.tries.next(ctx, err); err != nil {
			return err
		}
		t.resume(ctx)
	}
}

// step asks whether the blob is there, or opens an upload, or sends it.
func (t *transfer) step(ctx context.Context) (done bool, err error) {
	s, err := t.session(ctx)
	if err != nil {
		return false, err
	}
	if t.location != "" {
		return t.send(ctx, s)
	}
	found, err := t.exists(ctx, s)
	if err != nil {
		return false, err
	}
	if found {
		t.present.Add(1)
		return true, nil
	}
	mounted, err := t.begin(ctx, s)
	if mounted {
		t.mounted.Add(1)
	}
	return mounted, err
}

func (t *transfer) exists(ctx context.Context, s *session) (bool, error) {
	response, err := t.request(ctx, s, http.MethodHead, s.url("blobs/%s", t.blob.Digest), nil, -1, "")
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return true, nil
	case http.StatusNotFound:
		return false, nil
	}
	return false, statusError(response, t.client.options.Retry.Now())
}

func (t *transfer) begin(ctx context.Context, s *session) (mounted bool, err error) {
	at := s.url("blobs/uploads/")
	if t.mountable(t.blob) && t.blob.Found.Name() != t.push.Repository.Name() {
		at += "?" + url.Values{"mount": {t.blob.Digest.String()}, "from": {t.blob.Found.RepositoryStr()}}.Encode()
	}
	response, err := t.request(ctx, s, http.MethodPost, at, nil, 0, "")
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusCreated:
		return true, nil
	case http.StatusAccepted:
		t.offset = 0
		return false, t.follow(response)
	}
	return false, statusError(response, t.client.options.Retry.Now())
}

// follow takes the upload's next address from an answer.
func (t *transfer) follow(response *http.Response) error {
	location, err := response.Location()
	if err != nil {
		return &permanentError{fmt.Errorf("%s %s: the answer has no Location: %w", response.Request.Method, response.Request.URL.Path, err)}
	}
	t.location = location.String()
	return nil
}

func (t *transfer) send(ctx context.Context, s *session) (done bool, err error) {
	if t.offset > 0 {
		// The rest of an upload that broke: appended, then finished.
		if t.offset < t.blob.Size {
			if err := t.append(ctx, s); err != nil {
				return false, err
			}
		}
		return t.finish(ctx, s, nil, 0)
	}
	content, err := t.open(ctx)
	if err != nil {
		return false, err
	}
	defer content.Close()
	return t.finish(ctx, s, content, t.blob.Size)
}

func (t *transfer) open(ctx context.Context) (*counted, error) {
	content, err := t.blob.Open(ctx, t.offset)
	if err != nil {
		return nil, &permanentError{err}
	}
	return &counted{ReadCloser: content, transfer: t}, nil
}

type counted struct {
	io.ReadCloser
	transfer *transfer
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.transfer.bytes.Add(int64(n))
	if n > 0 && c.transfer.push.Progress != nil {
		c.transfer.push.Progress(c.transfer.blob.Digest, int64(n))
	}
	return n, err
}

func (t *transfer) append(ctx context.Context, s *session) error {
	content, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer content.Close()
	window := fmt.Sprintf("%d-%d", t.offset, t.blob.Size-1)
	response, err := t.request(ctx, s, http.MethodPatch, t.location, content, t.blob.Size-t.offset, window)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		return statusError(response, t.client.options.Retry.Now())
	}
	t.offset = t.blob.Size
	return t.follow(response)
}

func (t *transfer) finish(ctx context.Context, s *session, content io.Reader, size int64) (bool, error) {
	u, err := url.Parse(t.location)
	if err != nil {
		return false, &permanentError{fmt.Errorf("upload address: %w", err)}
	}
	query := u.Query()
	query.Set("digest", t.blob.Digest.String())
	u.RawQuery = query.Encode()
	response, err := t.request(ctx, s, http.MethodPut, u.String(), content, size, "")
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated && response.StatusCode != http.StatusNoContent {
		return false, statusError(response, t.client.options.Retry.Now())
	}
	t.uploaded.Add(1)
	return true, nil
}

// resume asks how much of a broken upload the registry has. When it does not
// say, the next step starts from the beginning.
func (t *transfer) resume(ctx context.Context) {
	if t.location == "" {
		return
	}
	at := t.location
	t.location = ""
	s, err := t.session(ctx)
	if err != nil {
		return
	}
	response, err := t.request(ctx, s, http.MethodGet, at, nil, -1, "")
	if err != nil {
		return
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNoContent && response.StatusCode != http.StatusOK && response.StatusCode != http.StatusAccepted {
		return
	}
	_, last, ok := strings.Cut(response.Header.Get("Range"), "-")
	end, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || end < 1 || end >= t.blob.Size {
		// 0-0 is what registries say for nothing as well as for one byte.
		return
	}
	if end+1 > t.offset {
		t.tries.progressed()
	}
	t.offset = end + 1
	if t.follow(response) != nil {
		t.location = at
	}
}

func (t *transfer) request(ctx context.Context, s *session, method, at string, body io.Reader, size int64, window string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, at, body)
	if err != nil {
		return nil, &permanentError{err}
	}
	if size >= 0 {
		request.ContentLength = size
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/octet-stream")
	}
	if window != "" {
		request.Header.Set("Content-Range", window)
	}
	return s.client.Do(request)
}

func (p *pusher) putManifest(ctx context.Context, m *Manifest, digest v1.Hash, target string) error {
	s, err := p.session(ctx)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, s.url("manifests/%s", target), bytes.NewReader(m.Raw))
	if err != nil {
		return &permanentError{err}
	}
	request.Header.Set("Content-Type", string(m.MediaType))
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated && response.StatusCode != http.StatusOK && response.StatusCode != http.StatusAccepted {
		return statusError(response, p.client.options.Retry.Now())
	}
	if got := response.Header.Get("Docker-Content-Digest"); got != "" && got != digest.String() {
		return &permanentError{fmt.Errorf("the registry stored the manifest as %s instead of %s", printable(got), digest)}
	}
	return nil
}
