package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// images serves versions of the end-to-end tests' server, whose failures its
// environment chooses, from a registry on loopback.
type images struct {
	host   string
	layer  v1.Layer
	server *http.Server
	done   chan struct{}
}

func serveImages(ctx context.Context, dir string) (*images, error) {
	binary := filepath.Join(dir, "server")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./rollout/e2e/testserver")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the test server (run this at the root of the repository): %w: %s", err, out)
	}
	layer, err := binaryLayer(binary)
	if err != nil {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i := &images{host: listener.Addr().String(), layer: layer, done: make(chan struct{}),
		server: &http.Server{ReadHeaderTimeout: time.Minute, Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}}
	go func() {
		defer close(i.done)
		_ = i.server.Serve(listener) // ends with close
	}()
	return i, nil
}

func (i *images) close() error {
	err := i.server.Close()
	<-i.done
	return err
}

func binaryLayer(path string) (v1.Layer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	header := w.WriteHeader(&tar.Header{Name: "server", Mode: 0o755, Size: int64(len(content))})
	_, body := w.Write(content)
	if err := errors.Join(header, body, w.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil })
}

// push makes a version with the environment and returns it by digest.
func (i *images) push(ctx context.Context, env ...string) (string, error) {
	img, err := mutate.AppendLayers(empty.Image, i.layer)
	if err != nil {
		return "", err
	}
	diff, err := i.layer.DiffID()
	if err != nil {
		return "", err
	}
	if img, err = mutate.ConfigFile(img, &v1.ConfigFile{Architecture: runtime.GOARCH, OS: "linux",
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{diff}}, Config: v1.Config{Entrypoint: []string{"/server"}, Env: env}}); err != nil {
		return "", err
	}
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	ref, err := name.NewDigest(i.host + "/shop@" + digest.String())
	if err != nil {
		return "", err
	}
	return ref.String(), remote.Write(ref, img, remote.WithContext(ctx))
}

// missing is an image that the registry does not have.
func (i *images) missing() string {
	return i.host + "/shop@sha256:" + strings.Repeat("0", 64)
}
