// Package registry is an OCI registry inside the process: distribution's
// handlers on its filesystem driver, so that what was pushed survives a restart.
// It listens on the loopback interface, unless users are configured.
package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // registers the driver
	"go.uber.org/zap"
)

// DefaultAddress is where Listen listens when nothing is set.
const DefaultAddress = "127.0.0.1:5000"

const (
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
	// shutdownTimeout is how long pushes and pulls may still take after Serve's context ended.
	shutdownTimeout = 10 * time.Second
	// uploadAge is how long an upload that nobody finishes is kept.
	uploadAge = "24h"
)

// Config of a Registry.
type Config struct {
	// Dir holds what is pushed. It belongs to the registry alone.
	Dir string
	// Users maps names to passwords (or tokens). When it is empty, anyone who
	// can connect may push and pull.
	Users map[string]string
	// AnonymousPull lets anyone pull although Users is set.
	AnonymousPull bool
	Log           *zap.Logger // nil means none
}

// Registry serves the OCI distribution API. It is an http.Handler.
type Registry struct {
	config  Config
	app     *handlers.App
	handler http.Handler
}

// New opens the registry in a directory. Close it when no request is under way.
func New(config Config) (_ *Registry, err error) {
	if config.Dir == "" {
		return nil, errors.New("registry: no directory is set")
	}
	for name, password := range config.Users {
		if name == "" || strings.Contains(name, ":") || password == "" {
			return nil, fmt.Errorf("registry: user %q: a name without colon and a password are needed", name)
		}
	}
	if config.Log == nil {
		config.Log = zap.NewNop()
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	secret, err := uploadSecret(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	bridgeLogs(config.Log)

	settings := &configuration.Configuration{
		Version: configuration.MajorMinorVersion(0, 1),
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": config.Dir},
			"delete":     configuration.Parameters{"enabled": true},
			"cache":      configuration.Parameters{"blobdescriptor": "inmemory"},
			"maintenance": configuration.Parameters{"uploadpurging": map[any]any{
				"enabled": true, "age": uploadAge, "interval": uploadAge, "dryrun": false,
			}},
		},
	}
	settings.HTTP.Secret = secret
	// An index may be pushed before, or without, the images of every platform.
	settings.Validation.Manifests.Indexes.Platforms = "none"
	settings.Catalog.MaxEntries = 1000

	// distribution panics where it cannot be configured.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("registry in %s: %v", config.Dir, r)
		}
	}()
	r := &Registry{config: config, app: handlers.NewApp(context.Background(), settings)}
	r.handler = r.authenticated(r.app)
	return r, nil
}

// uploadSecret signs the state of uploads under way. It is kept, so that a
// client may go on with an upload after a restart.
func uploadSecret(dir string) (string, error) {
	path := filepath.Join(dir, "upload-secret")
	switch data, err := os.ReadFile(path); {
	case err == nil && len(data) >= 32:
		return string(data), nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	var random [32]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	secret := hex.EncodeToString(random[:])
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(secret), 0o600); err != nil {
		return "", err
	}
	return secret, os.Rename(temporary, path)
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.handler.ServeHTTP(w, req) }

// Close ends the registry's own work.
func (r *Registry) Close() error { return r.app.Shutdown() }

// Server is a Registry that listens.
type Server struct {
	registry *Registry
	listener net.Listener
	server   *http.Server
}

// Listen binds an address, DefaultAddress when empty. An address beyond the
// loopback interface is refused unless the registry has users.
func (r *Registry) Listen(ctx context.Context, address string) (*Server, error) {
	if address == "" {
		address = DefaultAddress
	}
	if len(r.config.Users) == 0 {
		if err := checkLoopback(address); err != nil {
			return nil, err
		}
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("registry: listen on %s: %w", address, err)
	}
	return &Server{registry: r, listener: listener, server: &http.Server{
		Handler: r, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: zap.NewStdLog(r.config.Log),
	}}, nil
}

func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("registry: address %q: write host:port, such as %s", address, DefaultAddress)
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	return fmt.Errorf("registry: %s can be reached from outside: anyone could replace images; set users, or listen on %s", address, DefaultAddress)
}

// Address is the host and port that image references start with.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Serve serves until ctx ends, then lets requests under way finish for a while.
func (s *Server) Serve(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.server.Serve(s.listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("registry on %s: %w", s.Address(), err)
	case <-ctx.Done():
	}
	graceful, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := s.server.Shutdown(graceful)
	if err != nil {
		err = errors.Join(fmt.Errorf("registry on %s: stop: %w", s.Address(), err), s.server.Close())
	}
	<-ended //nolint:errcheck // it says that it was closed
	return err
}
