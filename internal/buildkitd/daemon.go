// Package buildkitd runs BuildKit's own daemon, the reference that Tidegate's
// image builder is compared with, on this machine: its binaries come from
// internal/peers, its state lies in a directory that Close removes.
package buildkitd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how to run the daemon.
type Options struct {
	// Binaries is the directory with buildkitd and buildctl.
	Binaries string
	// Dir is where the daemon's directory is made; empty means the system's for
	// temporary files.
	Dir string
	// Registry is the host and port of a registry without TLS, which stands in
	// for Docker Hub too.
	Registry string
}

// Daemon is a running buildkitd.
type Daemon struct {
	options Options
	dir     string
	command *exec.Cmd
	log     *os.File
	ended   chan struct{} // closed when the process has ended
	exit    error         // how, once ended is closed
}

const (
	startTimeout = 30 * time.Second
	startPoll    = 10 * time.Millisecond
	stopTimeout  = 10 * time.Second
)

// configuration keeps garbage collection out of measurements.
var configuration = template.Must(template.New("buildkitd.toml").Parse(`
root = "{{.Root}}"
[grpc]
  address = ["{{.Address}}"]
[otel]
  socketPath = "{{.Dir}}/otel.sock"
[cdi]
  disabled = true
[worker.oci]
  enabled = true
  snapshotter = "overlayfs"
  gc = false
  networkMode = "host"
  binary = "runc"
[worker.containerd]
  enabled = false
[registry."{{.Registry}}"]
  http = true
  insecure = true
[registry."docker.io"]
  mirrors = ["{{.Registry}}"]
`))

// Start runs the daemon and returns when it answers. The error tells what its
// log ends with.
func Start(ctx context.Context, options Options) (_ *Daemon, err error) {
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, fmt.Errorf("buildkitd needs runc (Debian: apt-get install runc): %w", err)
	}
	for _, name := range []string{"buildkitd", "buildctl"} {
		if _, err := os.Stat(filepath.Join(options.Binaries, name)); err != nil {
			return nil, fmt.Errorf("%w: run `make peers`", err)
		}
	}
	d := &Daemon{options: options, ended: make(chan struct{})}
	if d.dir, err = os.MkdirTemp(options.Dir, "buildkitd-"); err != nil {
		return nil, err
	}
	if err := d.configure(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(d.dir))
	}
	if d.log, err = os.Create(filepath.Join(d.dir, "log")); err != nil {
		return nil, errors.Join(err, os.RemoveAll(d.dir))
	}
	//nolint:noctx // it lives until Close, not as long as the start
	d.command = exec.Command(filepath.Join(options.Binaries, "buildkitd"), "--config", filepath.Join(d.dir, "buildkitd.toml"))
	d.command.Stdout, d.command.Stderr = d.log, d.log
	d.command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "TMPDIR=" + d.dir, "XDG_RUNTIME_DIR=" + d.dir}
	d.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel ends the daemon with the thread that started it, and threads
		// end: those that a RUN in this process has put into another namespace.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := d.command.Start()
		started <- err
		if err == nil {
			d.exit = d.command.Wait()
			close(d.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, d.log.Close(), os.RemoveAll(d.dir))
	}
	if err := d.ready(ctx); err != nil {
		tail := d.logTail()
		return nil, errors.Join(fmt.Errorf("buildkitd: %w; its log ends with:\n%s", err, tail), d.Close())
	}
	return d, nil
}

func (d *Daemon) configure() error {
	var text bytes.Buffer
	if err := configuration.Execute(&text, map[string]string{
		"Dir": d.dir, "Root": filepath.Join(d.dir, "root"), "Address": d.Address(), "Registry": d.options.Registry,
	}); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.dir, "buildkitd.toml"), text.Bytes(), 0o600)
}

// Address is what clients connect to.
func (d *Daemon) Address() string { return "unix://" + filepath.Join(d.dir, "buildkitd.sock") }

// PID is of the daemon's process.
func (d *Daemon) PID() int { return d.command.Process.Pid }

// Dir is the daemon's directory.
func (d *Daemon) Dir() string { return d.dir }

func (d *Daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it does not answer within %s", startTimeout))
	defer cancel()
	for {
		if _, err := d.control(ctx, "debug", "workers"); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.ended:
			return fmt.Errorf("it ended: %w", d.exit)
		case <-time.After(startPoll):
		}
	}
}

// control runs buildctl and returns what it printed.
func (d *Daemon) control(ctx context.Context, args ...string) (string, error) {
	command := d.Command(ctx, args...)
	output, err := command.CombinedOutput()
	return string(output), err
}

// Command is buildctl with arguments, connected to this daemon, not started yet.
func (d *Daemon) Command(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, filepath.Join(d.options.Binaries, "buildctl"), append([]string{"--addr", d.Address()}, args...)...)
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir}
	return command
}

const logTail = 8 << 10

func (d *Daemon) logTail() string {
	data, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-logTail):])
}

// Close stops the daemon and removes its directory, and with it all it kept.
func (d *Daemon) Close() error {
	_ = d.command.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-d.ended:
	case <-time.After(stopTimeout):
	}
	// Whatever it left in its group: commands of a build that was cut off.
	_ = unix.Kill(-d.command.Process.Pid, unix.SIGKILL)
	<-d.ended
	return errors.Join(unmountBelow(d.dir), d.log.Close(), os.RemoveAll(d.dir))
}

func unmountBelow(dir string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var all []error
	lines := strings.Split(strings.TrimSpace(string(table)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			all = append(all, unix.Unmount(fields[4], unix.MNT_DETACH))
		}
	}
	return errors.Join(all...)
}
