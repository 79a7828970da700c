// Package process runs another program beside a test or a measurement, until that
// is over.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// logTail is how much of a log an error tells, in bytes.
const logTail = 2000

// Process is a program that runs. It dies with the process that started it.
type Process struct {
	command *exec.Cmd
	log     string
	exited  chan struct{}
}

// Start starts a program whose output goes into the file log, which is emptied
// first. It lives until Stop: of ctx only the values matter.
func Start(ctx context.Context, log, program string, arguments ...string) (*Process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &Process{log: log, exited: make(chan struct{})}
	p.command = exec.CommandContext(context.WithoutCancel(ctx), program, arguments...)
	p.command.Stdout, p.command.Stderr = file, file
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		defer close(p.exited)
		defer file.Close()
		// The kernel ends the program with the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.command.Start()
		started <- err
		if err == nil {
			_ = p.command.Wait() // how it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", program, err)
	}
	return p, nil
}

// PID is the number of the process.
func (p *Process) PID() int { return p.command.Process.Pid }

// Stop kills the process and waits for its end.
func (p *Process) Stop() {
	_ = p.command.Process.Kill()
	<-p.exited
}

// With adds to an error what the log ends with, if the process has ended: then
// that is why.
func (p *Process) With(err error) error {
	select {
	case <-p.exited:
		data, readErr := os.ReadFile(p.log)
		return errors.Join(err, readErr, fmt.Errorf("%s has ended: …%s", p.command.Path, data[max(0, len(data)-logTail):]))
	default:
		return err
	}
}
