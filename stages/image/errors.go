package image

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tidegate-ci/tidegate/internal/netguard"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

func invalid(err error) error { return &pipeline.Error{Cause: pipeline.CauseInvalid, Err: err} }

func failed(err error) error { return &pipeline.Error{Cause: pipeline.CauseFailed, Err: err} }

// StepError is the failure of an instruction.
type StepError struct {
	Pos plan.Position
	// Instruction is its text, Excerpt the lines of the Dockerfile around it.
	Instruction, Excerpt string
	// Output are the last lines the command printed.
	Output []string
	// Hint says what to try, empty if there is nothing to say.
	Hint string
	Err  error
}

func (e *StepError) Error() string {
	var b strings.Builder
	// What a command prints, and what a stranger's Dockerfile says, must not play
	// with the terminal that shows the failure.
	fmt.Fprintf(&b, "%s: %s: %v", e.Pos, progress.Printable(e.Instruction), e.Err)
	if e.Excerpt != "" {
		for line := range strings.SplitSeq(e.Excerpt, "\n") {
			b.WriteString("\n" + progress.Printable(line))
		}
	}
	if len(e.Output) > 0 {
		b.WriteString("\n  last output:")
		for _, line := range e.Output {
			b.WriteString("\n    " + progress.Printable(line))
		}
	}
	if e.Hint != "" {
		b.WriteString("\n  " + e.Hint)
	}
	return b.String()
}

func (e *StepError) Unwrap() error { return e.Err }

// classify gives an error its cause: what a person has to change is failed or
// invalid, what carries the build is infrastructure.
func classify(err error) error {
	var known *pipeline.Error
	if err == nil || errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var dockerfile *plan.Error
	var exit *sandbox.ExitError
	var step *StepError
	var full *store.FullError
	var refused *netguard.RefusedError
	switch {
	case errors.As(err, &refused):
		return &pipeline.Error{Cause: pipeline.CauseRefused, Err: fmt.Errorf("%w\nThe code of a fork reaches public registries, and those that the server's settings name", err)}
	case registryFailed(err):
		return &pipeline.Error{Cause: pipeline.CauseInfrastructure, Err: err}
	case errors.As(err, &exit), errors.As(err, &full):
		return failed(err)
	case errors.As(err, &dockerfile):
		return invalid(err)
	case errors.As(err, &step):
		return failed(err)
	}
	return err
}

// registryFailed tells whether the registry is to blame; that an image is not
// there or may not be read is the Dockerfile's or its owner's.
func registryFailed(err error) bool {
	var unavailable *registry.UnavailableError
	var digest *registry.DigestError
	var size *registry.SizeError
	return errors.As(err, &unavailable) || errors.As(err, &digest) || errors.As(err, &size)
}
