// Package host runs commands as processes of this machine, with no isolation:
// they see what Tidegate's own user sees.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// DefaultGrace is how long a cancelled command may take to end by itself.
const DefaultGrace = 3 * time.Second

// Sandbox runs commands. The zero value is ready to use; it implements
// sandbox.Sandbox and is safe for concurrent use. Whatever a command started and
// left running is killed when the command ends, for whatever reason.
type Sandbox struct {
	// Grace lies between the request to end and the kill; 0 means DefaultGrace.
	Grace time.Duration
	// ungrouped goes without a cgroup, as on machines that give none.
	ungrouped bool
}

// outputDelay bounds the wait for output after everything the command started
// was killed. It only passes when something escaped with the pipe in its hands.
const outputDelay = 2 * time.Second

// Run implements sandbox.Sandbox. Command.Dir empty means the server's own
// directory, which is rarely right.
func (s *Sandbox) Run(ctx context.Context, command sandbox.Command) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if len(command.Args) == 0 {
		return errors.New("run a command: no command given")
	}
	program, err := lookPath(command.Args[0], command.Dir, command.Env["PATH"])
	if err != nil {
		return fmt.Errorf("run a command: %w", err)
	}
	members := newFamily(s.ungrouped)
	defer members.close()

	cmd := &exec.Cmd{Path: program, Args: command.Args, Dir: command.Dir, Stdin: command.Stdin, WaitDelay: outputDelay}
	cmd.Env = members.mark(environment(command.Env))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	members.adopt(cmd.SysProcAttr)
	var output pumps
	if err := output.connect(cmd, command.Stdout, command.Stderr); err != nil {
		return fmt.Errorf("run %s: %w", command.Args[0], err)
	}
	err = cmd.Start()
	output.started()
	if err != nil {
		_ = output.finish()
		return fmt.Errorf("run %s: %w", command.Args[0], err)
	}
	members.leader = cmd.Process.Pid

	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = s.stop(members, ended)
	}
	killErr := members.kill()
	copyErr := output.finish()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return outcome(command.Args[0], err)
	case killErr != nil:
		return fmt.Errorf("run %s: end what it left running: %w", command.Args[0], killErr)
	case copyErr != nil:
		return fmt.Errorf("run %s: pass on its output: %w", command.Args[0], copyErr)
	}
	return nil
}

// stop asks the command to end, waits for the grace, and kills.
func (s *Sandbox) stop(members *family, ended <-chan error) error {
	grace := s.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	members.signal(unix.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
	}
	// Its leader at least is certain to go; kill sees to the others.
	_ = unix.Kill(members.leader, unix.SIGKILL)
	return <-ended
}

func outcome(name string, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("run %s: %w", name, err)
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	if ok && status.Signaled() {
		return &sandbox.ExitError{Code: 128 + int(status.Signal()), Signal: status.Signal().String()}
	}
	return &sandbox.ExitError{Code: exit.ExitCode()}
}

func environment(env map[string]string) []string {
	list := make([]string, 0, len(env)+1)
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	return list
}

// lookPath finds a program as execvp(3) would in the command's own PATH and
// directory. The server's PATH has no say.
func lookPath(name, dir, path string) (string, error) {
	if strings.Contains(name, "/") {
		at := name
		if !filepath.IsAbs(at) {
			at = filepath.Join(dir, at)
		}
		if err := executable(at); err != nil {
			return "", err
		}
		return at, nil
	}
	for _, entry := range filepath.SplitList(path) {
		if !filepath.IsAbs(entry) {
			continue // a program out of the checkout must be asked for by its path
		}
		if at := filepath.Join(entry, name); executable(at) == nil {
			return at, nil
		}
	}
	return "", fmt.Errorf("%s: %w (PATH is %q)", name, exec.ErrNotFound, path)
}

func executable(file string) error {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case info.IsDir() || info.Mode()&0o111 == 0:
		return &os.PathError{Op: "execute", Path: file, Err: os.ErrPermission}
	}
	return nil
}

// pumps carry output from pipes to writers that are no files.
type pumps struct {
	group    sync.WaitGroup
	readers  []*os.File
	children []*os.File // the command's ends
	mutex    sync.Mutex
	err      error
}

func (p *pumps) connect(cmd *exec.Cmd, stdout, stderr io.Writer) error {
	out, err := p.end(stdout)
	if err != nil {
		return err
	}
	if out != nil {
		cmd.Stdout = out
	}
	if same(stdout, stderr) {
		cmd.Stderr = cmd.Stdout
		return nil
	}
	if out, err = p.end(stderr); err != nil {
		p.started()
		_ = p.finish()
		return err
	}
	if out != nil {
		cmd.Stderr = out
	}
	return nil
}

// same tells whether both streams go to one writer: then one pipe keeps their order.
func same(a, b io.Writer) (equal bool) {
	defer func() { _ = recover() }() // writers of an incomparable type are not the same
	return a == b
}

// end returns the command's end of a stream to w; nil discards.
func (p *pumps) end(w io.Writer) (*os.File, error) {
	if w == nil {
		return nil, nil
	}
	if file, ok := w.(*os.File); ok {
		return file, nil
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.readers, p.children = append(p.readers, reader), append(p.children, writer)
	p.group.Go(func() {
		_, err := io.Copy(w, reader)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			// The command must not block on a pipe that nobody reads.
			_, _ = io.Copy(io.Discard, reader)
			p.mutex.Lock()
			p.err = errors.Join(p.err, err)
			p.mutex.Unlock()
		}
	})
	return writer, nil
}

// started closes this process's copies of the command's ends.
func (p *pumps) started() {
	for _, file := range p.children {
		_ = file.Close()
	}
	p.children = nil
}

// finish waits for the rest of the output.
func (p *pumps) finish() error {
	for _, reader := range p.readers {
		_ = reader.SetReadDeadline(time.Now().Add(outputDelay))
	}
	p.group.Wait()
	for _, reader := range p.readers {
		_ = reader.Close()
	}
	return p.err
}
