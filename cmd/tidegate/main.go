// Command tidegate is a CI/CD engine in one binary: server, pipeline runner,
// image builder and rollout tool. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/tidegate-ci/tidegate/pipeline"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once: give it back to the runtime.
	context.AfterFunc(ctx, stop)
	err := newRootCommand().ExecuteContext(ctx)
	if err == nil {
		return exitSuccess
	}
	var silent *exitError
	if !errors.As(err, &silent) || silent.err != nil {
		fmt.Fprintln(os.Stderr, "tidegate: "+err.Error())
	}
	return exitCode(err)
}

// Exit codes of every command; part of the interface.
const (
	exitSuccess   = 0
	exitFailed    = 1 // the work failed
	exitUsage     = 2 // wrong use
	exitRefused   = 3 // policy or a person said no
	exitCancelled = 4 // cancelled or superseded
)

// exitError carries an exit code; a nil err prints nothing more.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

// usageErrorf is for arguments and flags that make no sense.
func usageErrorf(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

func exitCode(err error) int {
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	switch pipeline.CauseOf(err) {
	case pipeline.CauseNone:
		return exitSuccess
	case pipeline.CauseInvalid:
		return exitUsage
	case pipeline.CauseRefused:
		return exitRefused
	case pipeline.CauseCancelled, pipeline.CauseSuperseded:
		return exitCancelled
	}
	return exitFailed
}
