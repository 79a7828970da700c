package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/tidegate-ci/tidegate/internal/settings"
)

// secretVariable carries the forge's webhook secret to the server process.
const secretVariable = "TIDEGATE_DEMO_WEBHOOK_SECRET" //nolint:gosec // the name of a variable, not a secret

// Server is a real `tidegate serve` process of this machine with a data
// directory that outlives it, so that it can be killed and started again.
type Server struct {
	// URL is the base of hooks and API; Registry the embedded registry's host.
	URL, Registry string
	// LogPath is where the process's output goes, across restarts.
	LogPath string

	binary, dir, data string
	environment       []string
	outlive           bool
	process           *exec.Cmd
	exited            chan struct{}
	exitErr           error
}

// ServerOptions say what the server is to know.
type ServerOptions struct {
	Binary     string // the tidegate binary
	Dir        string // settings, data and log
	Forge      *Forge
	Kubeconfig string
	Namespace  string
	// Outlive lets the process go on when its parent ends.
	Outlive bool
	// Change may edit the settings before they are written.
	Change func(*settings.Settings)
}

// NewServer writes the settings of a server; Start starts it.
func NewServer(ctx context.Context, options ServerOptions) (*Server, error) {
	api, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	registry, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	file := settings.Settings{
		Listen: api,
		Data:   filepath.Join(options.Dir, "data"),
		GitHub: settings.GitHub{API: options.Forge.API},
		Registry: settings.Registry{
			Listen:  registry,
			Mirrors: map[string][]string{"docker.io": {registry}},
		},
		Repositories: []settings.Repository{{
			Name:          options.Forge.FullName,
			Clone:         options.Forge.CloneURL(),
			WebhookSecret: settings.Secret{Env: secretVariable},
			Token:         settings.Secret{Env: secretVariable},
		}},
		Environments: map[string]settings.Environment{
			"production": {Kubeconfig: options.Kubeconfig, Namespace: options.Namespace},
		},
	}
	if options.Change != nil {
		options.Change(&file)
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		return nil, fmt.Errorf("write server settings: %w", err)
	}
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("write server settings: %w", err)
	}
	if err := os.WriteFile(filepath.Join(options.Dir, "server.yaml"), text, 0o600); err != nil {
		return nil, fmt.Errorf("write server settings: %w", err)
	}
	return &Server{
		URL:         "http://" + api,
		Registry:    registry,
		LogPath:     filepath.Join(options.Dir, "server.log"),
		binary:      options.Binary,
		dir:         options.Dir,
		data:        file.Data,
		outlive:     options.Outlive,
		environment: append(os.Environ(), secretVariable+"="+options.Forge.Secret),
	}, nil
}

// Start starts the process and returns when it is ready.
func (s *Server) Start(ctx context.Context) error {
	log, err := os.OpenFile(s.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the server's log: %w", err)
	}
	defer log.Close()
	// Not bound to ctx: the process ends by Stop or Kill, in the way they say.
	s.process = exec.CommandContext(context.WithoutCancel(ctx), s.binary, "serve", "--config", filepath.Join(s.dir, "server.yaml"))
	s.process.Env = s.environment
	s.process.Stdout, s.process.Stderr = log, log
	s.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if !s.outlive {
		s.process.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := s.process.Start(); err != nil {
		return fmt.Errorf("start %s serve: %w", s.binary, err)
	}
	s.exited = make(chan struct{})
	go func(process *exec.Cmd, exited chan struct{}) {
		defer close(exited)
		s.exitErr = process.Wait()
	}(s.process, s.exited)
	return s.waitReady(ctx)
}

func (s *Server) waitReady(ctx context.Context) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/readyz", nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ticker.C:
		case <-s.exited:
			return fmt.Errorf("tidegate serve ended early (%w); its log ends with:\n%s", errors.Join(s.exitErr, errors.New("not ready")), s.LogTail(20))
		case <-ctx.Done():
			return fmt.Errorf("wait for tidegate serve to be ready: %w; its log ends with:\n%s", context.Cause(ctx), s.LogTail(20))
		}
	}
}

// Kill ends the process as a power cut would, with SIGKILL.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGKILL)
	<-s.exited
}

// Stop asks the process to end and waits for it.
func (s *Server) Stop() error {
	if s.process == nil {
		return nil
	}
	select {
	case <-s.exited:
		return nil
	default:
	}
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop tidegate serve: %w", err)
	}
	<-s.exited
	if s.exitErr != nil {
		return fmt.Errorf("tidegate serve did not end well: %w; its log ends with:\n%s", s.exitErr, s.LogTail(20))
	}
	return nil
}

// Token is the administrator's API token, which the server wrote at its first start.
func (s *Server) Token() (string, error) {
	data, err := os.ReadFile(filepath.Join(s.data, "admin-token"))
	return strings.TrimSpace(string(data)), err
}

// Pid is the running process's id.
func (s *Server) Pid() int { return s.process.Process.Pid }

// LogTail returns the last lines of the server's log.
func (s *Server) LogTail(lines int) string {
	file, err := os.Open(s.LogPath)
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	const window = 64 << 10
	if size, err := file.Seek(0, io.SeekEnd); err == nil {
		_, _ = file.Seek(max(0, size-window), io.SeekStart)
	}
	data, _ := io.ReadAll(io.LimitReader(file, window))
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// freeAddress finds a loopback port that nobody listens on now.
func freeAddress(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
