package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	serve "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// peer is a registry on loopback that counts what it is asked.
type peer struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	// meddle, if set, may answer a request in the registry's place.
	meddle func(w http.ResponseWriter, r *http.Request) bool
}

func newPeer(t testing.TB) *peer {
	return peerOf(t, serve.New(serve.Logger(log.New(io.Discard, "", 0))))
}

func peerOf(t testing.TB, handler http.Handler) *peer {
	p := &peer{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.requests = append(p.requests, r.Method+" "+r.URL.Path)
		meddle := p.meddle
		p.mu.Unlock()
		if meddle != nil && meddle(w, r) {
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *peer) host() string { return strings.TrimPrefix(p.URL, "http://") }

// asked gives the requests since the last call that contain all the texts.
func (p *peer) asked(texts ...string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []string
	for _, request := range p.requests {
		ok := true
		for _, text := range texts {
			ok = ok && strings.Contains(request, text)
		}
		if ok {
			found = append(found, request)
		}
	}
	return found
}

func (p *peer) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests = nil
}

type bench struct {
	testing.TB
	peer    *peer
	builder *Builder
	mu      sync.Mutex
	events  []progress.Event
}

func newBench(t testing.TB) *bench {
	b := &bench{TB: t, peer: newPeer(t)}
	b.builder = b.newBuilder(t.TempDir())
	return b
}

func (b *bench) newBuilder(dir string) *Builder {
	kept, err := store.Open(dir, store.Options{})
	require.NoError(b, err)
	return &Builder{
		Store:    kept,
		Registry: registry.New(registry.Options{Default: b.peer.host(), Mirrors: map[string][]string{"docker.io": {b.peer.host()}}}),
	}
}

// context writes files; a name that ends in "/" is a directory, a content that
// starts with "-> " a symbolic link.
func (b *bench) context(files map[string]string) string {
	dir := b.TempDir()
	writeFiles(b, dir, files)
	return dir
}

func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch target, link := strings.CutPrefix(content, "-> "); {
		case strings.HasSuffix(name, "/"):
			require.NoError(t, os.MkdirAll(path, 0o755))
		case link:
			require.NoError(t, os.Symlink(target, path))
		default:
			require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		}
	}
}

func (b *bench) request(files map[string]string) Request {
	return Request{
		Context: b.context(files), Tags: []string{"test/app:v1"}, Push: true,
		Progress: func(e progress.Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.events = append(b.events, e)
		},
	}
}

func (b *bench) build(request Request) *Result {
	b.Helper()
	result, err := b.builder.Build(context.Background(), request)
	require.NoError(b, err)
	return result
}

// pulled is the image as the registry has it, validated.
func (b *bench) pulled(result *Result) v1.Image {
	b.Helper()
	require.NotEmpty(b, result.Pushed)
	ref, err := name.ParseReference(result.Pushed[0])
	require.NoError(b, err)
	image, err := remote.Image(ref)
	require.NoError(b, err)
	b.conforms(image)
	return image
}

// tree describes what the image's layers hold, one line a file, later layers
// over earlier ones, sorted.
func (b *bench) tree(result *Result) []string {
	b.Helper()
	image := b.pulled(result)
	layers, err := image.Layers()
	require.NoError(b, err)
	return b.files(layers)
}

func (b *bench) files(layers []v1.Layer) []string {
	b.Helper()
	files := map[string]string{}
	for _, l := range layers {
		stream, err := l.Uncompressed()
		require.NoError(b, err)
		reader := tar.NewReader(stream)
		for {
			header, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(b, err)
			content, err := io.ReadAll(reader)
			require.NoError(b, err)
			line := fmt.Sprintf("%s %04o %d:%d", header.Name, header.Mode, header.Uid, header.Gid)
			if header.Linkname != "" {
				line += " -> " + header.Linkname
			}
			if header.Typeflag == tar.TypeReg {
				line += " " + string(content)
			}
			files[header.Name] = line
		}
		require.NoError(b, stream.Close())
	}
	var lines []string
	for _, line := range files {
		lines = append(lines, line)
	}
	sort.Strings(lines)
	return lines
}

func TestScratchImageIsBuiltAndPushed(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{
		"Dockerfile": `FROM scratch
ENV GREETING=hello
LABEL who="tide gate"
COPY app /bin/
COPY conf/ /etc/app/
WORKDIR /srv
USER 1000
EXPOSE 8080
HEALTHCHECK --interval=5s CMD ["/bin/app", "check"]
ENTRYPOINT ["/bin/app"]
CMD ["serve"]
`,
		"app":         "binary",
		"conf/a.yaml": "a: 1", "conf/sub/b.yaml": "b: 2", "conf/link": "-> a.yaml",
	})
	result := b.build(request)
	require.Equal(t, []string{
		"bin/ 0755 0:0", "bin/app 0644 0:0 binary", "etc/ 0755 0:0", "etc/app/ 0755 0:0",
		"etc/app/a.yaml 0644 0:0 a: 1", "etc/app/link 0777 0:0 -> a.yaml", "etc/app/sub/ 0755 0:0",
		"etc/app/sub/b.yaml 0644 0:0 b: 2", "srv/ 0755 0:0",
	}, b.tree(result))
	config, err := b.pulled(result).ConfigFile()
	require.NoError(t, err)
	require.Equal(t, []string{"/bin/app"}, config.Config.Entrypoint)
	require.Equal(t, []string{"serve"}, config.Config.Cmd)
	require.Equal(t, "/srv", config.Config.WorkingDir)
	require.Equal(t, "1000", config.Config.User)
	require.Contains(t, config.Config.Env, "GREETING=hello")
	require.Equal(t, map[string]string{"who": "tide gate"}, config.Config.Labels)
	require.Contains(t, config.Config.ExposedPorts, "8080/tcp")
	require.Equal(t, []string{"CMD", "/bin/app", "check"}, config.Config.Healthcheck.Test)

	b.peer.forget()
	again := b.build(request)
	require.Equal(t, result.Digest, again.Digest)
	require.Empty(t, b.peer.asked("POST"), "nothing changed: nothing goes up")
	require.Empty(t, b.peer.asked("PUT"), "nothing changed: nothing goes up")
	require.Equal(t, 0, again.Stats.Made)
}
