// Package testserver holds images of a small server that fails as its environment
// says, served from loopback: what end-to-end tests and measurements roll out.
package testserver

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/tidegate-ci/tidegate/internal/baseimage"
)

// program is the server's package.
const program = "github.com/tidegate-ci/tidegate/internal/testserver/program"

// Images are in a registry of this process.
type Images struct {
	host   string
	dir    string
	server *http.Server
	done   chan struct{}
}

// Serve compiles the server and starts the registry; Close ends it. Called within
// this module; files go into dir.
func Serve(ctx context.Context, dir string) (*Images, error) {
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "server"), program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the test server: %w: %s", err, out)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i := &Images{host: listener.Addr().String(), dir: dir, done: make(chan struct{}),
		server: &http.Server{ReadHeaderTimeout: time.Minute, Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}}
	go func() {
		defer close(i.done)
		_ = i.server.Serve(listener) // ends with Close
	}()
	return i, nil
}

// Close ends the registry.
func (i *Images) Close() error {
	err := i.server.Close()
	<-i.done
	return err
}

// Push makes a version with the environment and returns it by digest.
func (i *Images) Push(ctx context.Context, env ...string) (string, error) {
	image, err := baseimage.Static(ctx, i.dir, filepath.Join(i.dir, "server"), baseimage.StaticOptions{Env: env})
	if err != nil {
		return "", err
	}
	digest, err := image.Digest()
	if err != nil {
		return "", err
	}
	ref, err := name.NewDigest(i.host + "/shop@" + digest.String())
	if err != nil {
		return "", err
	}
	return ref.String(), remote.Write(ref, image, remote.WithContext(ctx))
}

// Missing is an image that the registry does not have.
func (i *Images) Missing() string { return i.host + "/shop@sha256:" + strings.Repeat("0", 64) }

// Client asks on a connection for each request: kube-proxy balances connections.
func Client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
}

// Ask returns the version that answers at an address.
func Ask(ctx context.Context, client *http.Client, address string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", response.StatusCode)
	}
	version, _, _ := strings.Cut(string(body), " ")
	return version, nil
}
