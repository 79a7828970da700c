package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
	"github.com/tidegate-ci/tidegate/stages/sandbox/filelock"
)

// ErrNotExecutable is in the chain of Run's error when the root filesystem has
// no such command.
var ErrNotExecutable = errors.New("the command can't be executed in the image")

// Run runs the command in a container over the root filesystem at root, which
// nothing else may use meanwhile, and returns as sandbox.Sandbox says. What the
// command changed in root stays; mount points made for the container do not.
// When ctx ends, the command gets SIGTERM, and after the grace everything in the
// container is killed.
func (r *Runtime) Run(ctx context.Context, root string, command sandbox.Command, limits Limits) (err error) {
	if len(command.Args) == 0 {
		return errors.New("run a container: no command")
	}
	if err := checkText(command); err != nil {
		return fmt.Errorf("run a container: %w", err)
	}
	who, err := lookUpUser(root, command.User)
	if err != nil {
		return fmt.Errorf("run a container: %w", err)
	}
	bundle, err := r.newBundle()
	if err != nil {
		return fmt.Errorf("run a container: %w", err)
	}
	defer func() {
		if left := bundle.remove(); left != nil && err == nil {
			err = left
		}
	}()

	points, err := openStubs(root)
	if err != nil {
		return fmt.Errorf("run a container: %w", err)
	}
	defer points.remove()
	for _, mount := range baseMounts() {
		// What lies below another of these is made in memory, not in the root.
		if strings.Count(mount.Destination, "/") > 1 {
			continue
		}
		if _, err := points.ensure(mount.Destination, true); err != nil {
			return fmt.Errorf("run a container: %w", err)
		}
	}
	mounts, err := bundle.mounts(points, command, who.home)
	if err != nil {
		return fmt.Errorf("run a container: %w", err)
	}
	if command.Dir, err = bundle.workingDirectory(points, command.Dir); err != nil {
		return fmt.Errorf("run a container: %w", err)
	}
	spec, err := containerSpec(root, bundle.id, command, who, mounts, r.controllers, limits)
	if err != nil {
		return fmt.Errorf("run a container: %w", err)
	}
	if !r.users.Initial {
		if err := ordinary(spec, r.users, command, limits); err != nil {
			return fmt.Errorf("run a container: %w", err)
		}
	}
	if r.adjust != nil {
		r.adjust(spec)
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("run a container: %w", err)
	}
	if err := bundle.configure(raw); err != nil {
		return fmt.Errorf("run a container: %w", err)
	}
	return r.execute(ctx, bundle, command, limits.MemoryBytes > 0 && r.controllers.memory)
}

// execute runs the prepared bundle. keep leaves the container's cgroup for a
// look at why it died.
func (r *Runtime) execute(ctx context.Context, bundle *bundle, command sandbox.Command, keep bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	args := []string{"--root", r.stateDir(), "--log", bundle.logFile(), "--log-format", "json", "run", "--bundle", bundle.dir, "--pid-file", bundle.pidFile()}
	if keep {
		args = append(args, "--keep")
	}
	// Ended by stop, politely first.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), r.command, append(args, bundle.id)...)
	cmd.Env = runtimeEnv()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = command.Stdin, command.Stdout, command.Stderr
	// Its own session: a terminal's Ctrl-C reaches Tidegate, which decides.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Pipes end with the container; this bounds the wait for a reader that does not.
	cmd.WaitDelay = waitDelay

	if command.Terminal != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = command.Terminal, command.Terminal, command.Terminal
	}
	if err := bundle.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", r.command, err)
	}
	if command.Terminal != nil {
		defer passSizes(cmd.Process)()
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = r.stop(bundle, cmd, ended)
	}
	oom := keep && r.controllers.killedForMemory(bundle.id)
	if keep || ctx.Err() != nil {
		r.delete(bundle.id)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return bundle.outcome(err, oom)
}

const (
	waitDelay     = 5 * time.Second
	deleteTimeout = 20 * time.Second
)

// stop ends a container: politely, then not.
func (r *Runtime) stop(bundle *bundle, cmd *exec.Cmd, ended <-chan error) error {
	background, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	if err := r.invoke(background, "kill", "--all", bundle.id, "TERM"); err == nil {
		timer := time.NewTimer(r.grace)
		defer timer.Stop()
		select {
		case err := <-ended:
			return err
		case <-timer.C:
		}
	}
	r.delete(bundle.id)
	// If the container was still being made, there was nothing to delete yet:
	// the runtime itself has to go, and its half-made child with it.
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
	return <-ended
}

// delete kills and removes a container; one that is gone already is fine.
func (r *Runtime) delete(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	err := r.invoke(ctx, "delete", "--force", id)
	if err = errors.Join(err, removeCgroups(ctx, id)); err != nil {
		r.log.Warn("remove a container", zap.String("container", id), zap.Error(err))
	}
}

// outcome says what the end of the runtime means for the command.
func (b *bundle) outcome(err error, oom bool) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("run a container: %w", err)
	}
	if _, statErr := os.Stat(b.pidFile()); statErr != nil && !oom {
		return b.failure(err)
	}
	code := exit.ExitCode()
	end := &sandbox.ExitError{Code: code, OutOfMemory: oom}
	if code > 128 && code <= 128+64 {
		end.Signal = syscall.Signal(code - 128).String()
	}
	if code < 0 { // the runtime itself was killed
		return fmt.Errorf("run a container: %w", err)
	}
	return end
}

// failure is the error of a container that never ran its command.
func (b *bundle) failure(err error) error {
	messages := b.loggedErrors()
	if messages == "" {
		return fmt.Errorf("run a container: %w", err)
	}
	for _, sign := range []string{"executable file not found", "no such file or directory: unknown", "exec format error"} {
		if strings.Contains(messages, sign) {
			return fmt.Errorf("run a container: %w: %s", ErrNotExecutable, messages)
		}
	}
	return fmt.Errorf("run a container: %s", messages)
}

func (b *bundle) loggedErrors() string {
	file, err := os.Open(b.logFile())
	if err != nil {
		return ""
	}
	defer file.Close()
	var messages []string
	decoder := json.NewDecoder(io.LimitReader(file, maxRuntimeOutput))
	for {
		var line struct{ Level, Msg string }
		if decoder.Decode(&line) != nil {
			return strings.Join(messages, "; ")
		}
		if line.Level == "error" || line.Level == "fatal" {
			messages = append(messages, line.Msg)
		}
	}
}

// bundle is what the runtime is given for one container.
type bundle struct {
	id   string
	dir  string
	lock *filelock.Lock
	// staged are the sources of the mounts, points where each is seen.
	staged []*staged
	points []string
	// config holds the container's specification.
	config *os.File
}

func (b *bundle) logFile() string { return filepath.Join(b.dir, "log") }
func (b *bundle) pidFile() string { return filepath.Join(b.dir, "pid") }

func (r *Runtime) newBundle() (*bundle, error) {
	id := uuid.NewString()
	dir := filepath.Join(r.dir, "containers", id)
	lock, err := filelock.Try(dir+".lock", filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		lock.Remove()
		return nil, err
	}
	return &bundle{id: id, dir: dir, lock: lock}, nil
}

func (b *bundle) remove() error {
	for _, s := range b.staged {
		if s.fd >= 0 {
			unix.Close(s.fd)
		}
	}
	if b.config != nil {
		_ = b.config.Close()
	}
	err := os.RemoveAll(b.dir)
	b.lock.Remove()
	if err != nil {
		return fmt.Errorf("remove container files: %w", err)
	}
	return nil
}
