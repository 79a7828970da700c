package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/internal/baseimage"
	localregistry "github.com/tidegate-ci/tidegate/internal/registry"
)

// baseRepository is the image with a shell.
const baseRepository = "library/busybox"

// registry is one on loopback, in a process of its own so that its work is
// nobody's.
type registry struct {
	address string
	command *exec.Cmd
	stdin   io.Closer
}

func startRegistry(ctx context.Context, dir string) (*registry, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, self, "-registry", dir)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	command.Stderr = os.Stderr
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the registry does not start: %w", err), stdin.Close(), command.Wait())
	}
	return &registry{strings.TrimSpace(address), command, stdin}, nil
}

func (r *registry) stop() error { return errors.Join(r.stdin.Close(), r.command.Wait()) }

// serveRegistry is that process: it prints its address and ends with its input.
func serveRegistry(ctx context.Context, s settings) error {
	r, err := localregistry.New(localregistry.Config{Dir: s.registryDirectory})
	if err != nil {
		return err
	}
	server, err := r.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	base, err := baseimage.Busybox(ctx, filepath.Join(s.registryDirectory, "base"))
	if err != nil {
		return err
	}
	reference, err := name.ParseReference(server.Address() + "/" + baseRepository)
	if err != nil {
		return err
	}
	if err := remote.Write(reference, base, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push the base image: %w", err)
	}
	fmt.Println(server.Address())
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	stop()
	return errors.Join(<-ended, r.Close())
}

func syncDisks() { unix.Sync() }
