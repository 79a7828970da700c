package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	serve "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard) // where the registry on disk logs
	m.Run()
}

// peer is a registry on loopback whose requests can be counted and broken.
type peer struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	meddle   func(w http.ResponseWriter, r *http.Request) bool
}

func start(t testing.TB, handler http.Handler) *peer {
	p := &peer{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.requests = append(p.requests, r.Method+" "+r.URL.Path)
		meddle := p.meddle
		p.mu.Unlock()
		if meddle == nil || !meddle(w, r) {
			handler.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func inMemory(t testing.TB) *peer {
	return start(t, serve.New(serve.Logger(log.New(io.Discard, "", 0))))
}

// onDisk is the reference implementation of a registry.
func onDisk(t testing.TB) *peer {
	config := &configuration.Configuration{
		Storage: configuration.Storage{"filesystem": configuration.Parameters{"rootdirectory": t.TempDir()}},
	}
	config.HTTP.Secret = "test"
	config.Log.AccessLog.Disabled = true
	return start(t, handlers.NewApp(context.Background(), config))
}

func (p *peer) host() string { return strings.TrimPrefix(p.URL, "http://") }

func (p *peer) count(texts ...string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, request := range p.requests {
		ok := true
		for _, text := range texts {
			ok = ok && strings.Contains(request, text)
		}
		if ok {
			n++
		}
	}
	return n
}

// clock makes pauses pass at once and remembers them.
type clock struct {
	mu     sync.Mutex
	now    time.Time
	pauses []time.Duration
}

func (c *clock) retry() Retry {
	return Retry{
		Now: func() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now },
		Sleep: func(ctx context.Context, d time.Duration) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.now = c.now.Add(d)
			c.pauses = append(c.pauses, d)
			return ctx.Err()
		},
	}
}

func uploadOf(content []byte) Upload {
	digest, size, _ := v1.SHA256(bytes.NewReader(content))
	return Upload{
		Descriptor: v1.Descriptor{Digest: digest, Size: size},
		Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(content[offset:])), nil
		},
	}
}

// pushOf is a small image with one layer of that content.
func pushOf(t testing.TB, c *Client, reference string, content []byte) Push {
	ref, err := c.Destination(reference)
	require.NoError(t, err)
	config := uploadOf([]byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + uploadOf(content).Digest.String() + `"]}}`))
	layer := uploadOf(content)
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		types.OCIManifestSchema1, types.OCIConfigJSON, config.Digest, config.Size, types.OCIUncompressedLayer, layer.Digest, layer.Size)
	return Push{
		Repository: ref.Context(), Tags: []string{ref.Identifier()},
		Manifest: Manifest{Raw: []byte(manifest), MediaType: types.OCIManifestSchema1, Blobs: []Upload{config, layer}},
	}
}

func TestPushIntoBothRegistries(t *testing.T) {
	for name, p := range map[string]*peer{"in memory": inMemory(t), "on disk": onDisk(t)} {
		t.Run(name, func(t *testing.T) {
			c := New(Options{Default: p.host()})
			push := pushOf(t, c, "team/app:v1", []byte("content"))
			pushed, err := c.Push(context.Background(), push)
			require.NoError(t, err)
			require.EqualValues(t, 2, pushed.Uploaded)
			image, err := c.Resolve(context.Background(), p.host()+"/team/app:v1", v1.Platform{OS: "linux", Architecture: "amd64"}, nil)
			require.NoError(t, err)
			require.Equal(t, pushed.Digest, image.Digest)

			uploads := p.count("POST")
			_, err = c.Push(context.Background(), push)
			require.NoError(t, err)
			require.Equal(t, uploads, p.count("POST"), "what is there is not sent again")
		})
	}
}

func TestBlobsAreMountedFromAnotherRepository(t *testing.T) {
	p := onDisk(t)
	c := New(Options{Default: p.host()})
	base := pushOf(t, c, "team/base:v1", []byte("shared layer"))
	_, err := c.Push(context.Background(), base)
	require.NoError(t, err)
	push := pushOf(t, c, "team/app:v1", []byte("shared layer"))
	push.Blobs[1].Found = base.Repository
	push.Blobs[1].Open = func(context.Context, int64) (io.ReadCloser, error) { return nil, fmt.Errorf("must not be read") }
	pushed, err := c.Push(context.Background(), push)
	require.NoError(t, err)
	require.EqualValues(t, 1, pushed.Mounted)
	require.EqualValues(t, 1, pushed.Uploaded)
}

func TestARegistryThatRefusesForAWhileIsWaitedFor(t *testing.T) {
	for _, code := range []int{http.StatusInternalServerError, http.StatusTooManyRequests, http.StatusServiceUnavailable} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			p := inMemory(t)
			left := map[string]int{}
			var mu sync.Mutex
			p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if left[r.Method] == 2 {
					return false
				}
				left[r.Method]++
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(code)
				return true
			}
			k := &clock{now: time.Unix(0, 0)}
			c := New(Options{Default: p.host(), Retry: k.retry()})
			_, err := c.Push(context.Background(), pushOf(t, c, "team/app:v1", []byte("content")))
			require.NoError(t, err)
			require.Contains(t, k.pauses, 7*time.Second, "Retry-After is honoured")
		})
	}
}

func TestARegistryThatKeepsFailingIsGivenUp(t *testing.T) {
	p := inMemory(t)
	p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	}
	k := &clock{now: time.Unix(0, 0)}
	c := New(Options{Default: p.host(), Retry: k.retry()})
	_, err := c.Push(context.Background(), pushOf(t, c, "team/app:v1", []byte("content")))
	var unavailable *UnavailableError
	require.ErrorAs(t, err, &unavailable)
	require.ErrorContains(t, err, "502 Bad Gateway")
}

func TestWhatCannotPassIsNotRepeated(t *testing.T) {
	p := inMemory(t)
	p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"no \u001b[31mway"}]}`)
			return true
		}
		return false
	}
	k := &clock{now: time.Unix(0, 0)}
	c := New(Options{Default: p.host(), Retry: k.retry()})
	_, err := c.Push(context.Background(), pushOf(t, c, "team/app:v1", []byte("content")))
	require.ErrorContains(t, err, "DENIED no  [31mway")
	require.ErrorContains(t, err, "docker login")
	require.Empty(t, k.pauses)
}

// breakBody lets n bytes of a request's body through and then resets the
// connection.
func breakBody(_ *testing.T, n int64, pass func(r *http.Request)) func(w http.ResponseWriter, r *http.Request) bool {
	broken := false
	var mu sync.Mutex
	return func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if broken || r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "uploads") || r.ContentLength < n {
			return false
		}
		broken = true
		short := r.Clone(r.Context())
		short.Method, short.ContentLength = http.MethodPatch, n
		short.Body = io.NopCloser(io.LimitReader(r.Body, n))
		short.URL.RawQuery = strings.ReplaceAll(r.URL.RawQuery, "digest", "ignored")
		pass(short)
		panic(http.ErrAbortHandler) // closes the connection
	}
}

func TestABrokenUploadGoesOnWhereItStopped(t *testing.T) {
	content := make([]byte, 3<<20)
	_, err := rand.Read(content)
	require.NoError(t, err)
	config := &configuration.Configuration{Storage: configuration.Storage{"filesystem": configuration.Parameters{"rootdirectory": t.TempDir()}}}
	config.HTTP.Secret = "test"
	config.Log.AccessLog.Disabled = true
	app := handlers.NewApp(context.Background(), config)
	p := start(t, app)
	p.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	const passed = 2 << 20
	p.meddle = breakBody(t, passed, func(r *http.Request) { app.ServeHTTP(httptest.NewRecorder(), r) })
	k := &clock{now: time.Unix(0, 0)}
	c := New(Options{Default: p.host(), Retry: k.retry()})
	push := pushOf(t, c, "team/app:v1", content)
	var mu sync.Mutex
	var offsets []int64
	open := push.Blobs[1].Open
	push.Blobs[1].Open = func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		offsets = append(offsets, offset)
		return open(ctx, offset)
	}
	_, err = c.Push(context.Background(), push)
	require.NoError(t, err)
	require.Equal(t, []int64{0, passed}, offsets)
	pulled, err := c.Blob(context.Background(), push.Repository, push.Blobs[1].Descriptor, 0)
	require.NoError(t, err)
	got, err := io.ReadAll(pulled)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
}

func TestABrokenDownloadGoesOnWhereItStopped(t *testing.T) {
	p := inMemory(t)
	p.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	image, err := random.Image(1<<20, 1)
	require.NoError(t, err)
	c := New(Options{Default: p.host(), Retry: (&clock{now: time.Unix(0, 0)}).retry()})
	ref, err := c.Destination("team/app:v1")
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, image))
	layers, err := image.Layers()
	require.NoError(t, err)
	digest, err := layers[0].Digest()
	require.NoError(t, err)
	size, err := layers[0].Size()
	require.NoError(t, err)
	times := 0
	p.meddle = cutDownloads(t, layers[0], digest, &times)
	reader, err := c.Blob(context.Background(), ref.Context(), v1.Descriptor{Digest: digest, Size: size}, 0)
	require.NoError(t, err)
	n, err := io.Copy(io.Discard, reader)
	require.NoError(t, err)
	require.Equal(t, size, n)
	require.Equal(t, 3, times)
}

// cutDownloads answers the first three requests for a blob with a piece of it
// and a closed connection.
func cutDownloads(t *testing.T, l v1.Layer, digest v1.Hash, times *int) func(http.ResponseWriter, *http.Request) bool {
	stream, err := l.Compressed()
	require.NoError(t, err)
	content, err := io.ReadAll(stream)
	require.NoError(t, err)
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, digest.String()) || *times == 3 {
			return false
		}
		*times++
		from := 0
		if text := r.Header.Get("Range"); text != "" {
			_, err := fmt.Sscanf(text, "bytes=%d-", &from)
			require.NoError(t, err)
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(content[from : from+100000])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestMirrorsAreAskedFirstAndMissed(t *testing.T) {
	hub, mirror := inMemory(t), inMemory(t)
	image, err := random.Image(100, 1)
	require.NoError(t, err)
	c := New(Options{Mirrors: map[string][]string{hub.host(): {mirror.host()}}, Retry: (&clock{now: time.Unix(0, 0)}).retry()})
	ref, err := c.Source(hub.host() + "/library/tool:1")
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, image))
	platform := v1.Platform{OS: "linux", Architecture: "amd64"}

	found, err := c.Resolve(context.Background(), hub.host()+"/library/tool:1", platform, nil)
	require.NoError(t, err)
	require.Equal(t, hub.host(), found.Repository.RegistryStr())

	at, err := c.Source(mirror.host() + "/library/tool:1")
	require.NoError(t, err)
	require.NoError(t, remote.Write(at, image))
	found, err = c.Resolve(context.Background(), hub.host()+"/library/tool:1", platform, nil)
	require.NoError(t, err)
	require.Equal(t, mirror.host(), found.Repository.RegistryStr())
	whole, err := found.V1(context.Background())
	require.NoError(t, err)
	require.NoError(t, validate.Image(whole))

	mirror.Close()
	found, err = c.Resolve(context.Background(), hub.host()+"/library/tool:1", platform, nil)
	require.NoError(t, err)
	require.Equal(t, hub.host(), found.Repository.RegistryStr())
}

func TestNames(t *testing.T) {
	c := New(Options{Default: "127.0.0.1:5000"})
	source, err := c.Source("golang:1.26")
	require.NoError(t, err)
	require.Equal(t, "index.docker.io/library/golang:1.26", source.Name())
	destination, err := c.Destination("shop")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:5000/shop:latest", destination.Name())
	destination, err = c.Destination("ghcr.io/octo/shop:1")
	require.NoError(t, err)
	require.Equal(t, "ghcr.io/octo/shop:1", destination.Name())
	_, err = c.Destination("Not Valid")
	require.ErrorContains(t, err, `image name "Not Valid"`)
	for reference, want := range map[string]bool{"a": false, "h:5000/a": false, "h:5000/a:v": true, "a@sha256:00": true, "a:v": true} {
		require.Equal(t, want, HasTag(reference), reference)
	}
}

func TestCancellationEndsWaiting(t *testing.T) {
	p := inMemory(t)
	p.meddle = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := New(Options{Default: p.host(), Retry: Retry{Sleep: func(ctx context.Context, d time.Duration) error {
		cancel()
		return sleep(ctx, d)
	}}})
	_, err := c.Push(ctx, pushOf(t, c, "team/app:v1", []byte("content")))
	require.ErrorIs(t, err, context.Canceled)
}
