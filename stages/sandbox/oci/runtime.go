// Package oci runs commands in containers on this machine, through an OCI
// runtime (runc or crun), with no daemon between.
package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/tidegate-ci/tidegate/stages/sandbox/userns"
)

// ErrNoRuntime is returned by Find when no OCI runtime works here.
var ErrNoRuntime = errors.New("no OCI runtime works on this machine")

// candidates are the runtimes that Find tries, in this order.
var candidates = []string{"runc", "crun"}

// Options say how to find a runtime.
type Options struct {
	// Dir keeps the state of containers; it belongs to Tidegate alone. Several
	// processes may share it.
	Dir string
	// Command is the runtime to use; empty means the first of runc and crun on
	// PATH that proves to work.
	Command string
	// Grace is how long a cancelled command may take to end by itself; 0 means
	// DefaultGrace.
	Grace time.Duration
	Log   *zap.Logger // nil: none
}

// DefaultGrace lies between the request to end and the kill.
const DefaultGrace = 3 * time.Second

// Runtime runs containers. It is safe for concurrent use.
type Runtime struct {
	command     string
	dir         string
	grace       time.Duration
	log         *zap.Logger
	controllers controllers
	// users are those of the user namespace this process is in.
	users userns.Mapping
	// adjust, if set, changes the specification: tests take a defence away with it.
	adjust func(*specs.Spec)
}

// Find returns a runtime that has run a container on this machine, now or since
// it started, after clearing the containers that killed processes left in options.Dir. The
// error (ErrNoRuntime) tells what each runtime answered and what to do.
func Find(ctx context.Context, options Options) (*Runtime, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: containers need root, or a user namespace: run as root, or let users make namespaces (sysctl user.max_user_namespaces; on Debian kernel.unprivileged_userns_clone=1, on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0)", ErrNoRuntime)
	}
	dir, err := filepath.Abs(options.Dir)
	if err != nil {
		return nil, fmt.Errorf("container state: %w", err)
	}
	for _, name := range []string{"containers", "state"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("container state: %w", err)
		}
	}
	log := options.Log
	if log == nil {
		log = zap.NewNop()
	}
	grace := options.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	tried := candidates
	if options.Command != "" {
		tried = []string{options.Command}
	}
	failures := []error{ErrNoRuntime}
	for _, name := range tried {
		command, err := exec.LookPath(name)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
			continue
		}
		r := &Runtime{command: command, dir: dir, grace: grace, log: log, users: userns.Current(), controllers: findControllers()}
		if !r.users.Initial {
			r.controllers = controllers{} // none is the user's
		}
		if err := r.clearLeftovers(ctx); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", command, err))
			continue
		}
		if err := r.proven(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			failures = append(failures, fmt.Errorf("%s: %w", command, err))
			continue
		}
		log.Debug("found an OCI runtime", zap.String("command", command))
		return r, nil
	}
	return nil, fmt.Errorf("%w\ninstall one that does (Debian: apt-get install runc), or use stages without an image", errors.Join(failures...))
}

// Command is the path of the runtime in use.
func (r *Runtime) Command() string { return r.command }

const proveTimeout = 30 * time.Second

// invoke runs a short command of the runtime and returns its output in the error.
func (r *Runtime) invoke(ctx context.Context, args ...string) error {
	var output boundedBuffer
	cmd := exec.CommandContext(ctx, r.command, append([]string{"--root", r.stateDir()}, args...)...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Env = runtimeEnv()
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(r.command), args[0], err, strings.TrimSpace(output.String()))
	}
	return nil
}

// runtimeEnv is all that the runtime itself sees of the server's environment.
func runtimeEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
}

func (r *Runtime) stateDir() string { return filepath.Join(r.dir, "state") }

// boundedBuffer keeps the first bytes of what a runtime says.
type boundedBuffer struct{ bytes.Buffer }

const maxRuntimeOutput = 16 << 10

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), maxRuntimeOutput-b.Len())])
	return len(p), nil
}
