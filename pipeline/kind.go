package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// KindName names a stage kind.
type KindName string

// The kinds of stage.
const (
	KindRun     KindName = "run"
	KindBuild   KindName = "build"
	KindDeploy  KindName = "deploy"
	KindApprove KindName = "approve"
)

// Outputs are the named values a stage hands on. A build stage gives OutputName
// and OutputImage; a run stage what its script wrote to $TIDEGATE_OUTPUT.
type Outputs map[string]string

const (
	// OutputName is the image's repository as the pipeline file wrote it,
	// without tag ("shop"): manifests may use it in place of the full name.
	OutputName = "name"
	// OutputImage is the full reference with digest ("host/shop@sha256:…").
	OutputImage = "image"
	// OutputDigest is the digest alone.
	OutputDigest = "digest"
)

// Takeover says what becomes of an attempt whose worker died.
type Takeover int

const (
	// TakeoverRetry counts the attempt as an infrastructure failure; it is
	// repeated, a few times without counting against the stage's own retries.
	TakeoverRetry Takeover = iota
	// TakeoverContinue runs the same attempt again: the kind finds what is
	// done already (by content, or by looking at the cluster) and goes on.
	TakeoverContinue
)

// ErrHandover is the context.Cause of an attempt whose worker stops or lost
// its lease while the run goes on elsewhere or later. A kind that sees it lets
// go of what it holds and leaves the outside world as it is: no rollback, no
// clean-up of remote state. Every other cause of a cancelled attempt is an
// *Error that says why (cancelled, superseded, timeout).
var ErrHandover = errors.New("the worker hands the run over")

// Kind is what a stage kind implements. Implementations are safe for use by
// several attempts at once.
type Kind interface {
	// Run carries out one attempt and returns when it has ended. A nil error
	// means the stage succeeded. An *Error says why it did not; any other
	// error counts as CauseInfrastructure, except that a cancelled ctx makes it
	// CauseCancelled and a passed deadline CauseTimeout. Run releases all that
	// it started before it returns, also when ctx is cancelled.
	Run(ctx context.Context, attempt Attempt) (Outputs, error)
	// Takeover says what to do with an attempt that a dead worker left.
	Takeover() Takeover
}

// Attempt is one try of a stage, with all that the kind may use.
type Attempt struct {
	RunID    string
	Pipeline string
	// Number counts from 1. Continued is true when a dead worker began it.
	Number    int
	Continued bool
	Event     event.Event
	// Stage is resolved: no `${{ }}` is left in it.
	Stage PlannedStage
	// Workspace is a directory that holds the commit's files. The attempt may
	// change it; no other attempt sees that. (Run locally, it is the working
	// tree itself.)
	Workspace string
	// Env is what the command sees beside the stage's own Env: CI, TIDEGATE_*,
	// event values (TIDEGATE_BRANCH, …) and, for trusted runs, secrets.
	Env map[string]string
	// Needs holds the outputs of every stage this one needs, directly or not, by stage ID.
	Needs map[string]Outputs
	// Stdout and Stderr go to the run's log, masked, line by line.
	Stdout, Stderr io.Writer
	// Progress reports what the attempt is doing, one short sentence at a time
	// ("canary 50 %: 3 of 5 pods ready"). Never nil; cheap to call.
	Progress func(message string)
	// Waiting says whether people or a planned window are waited for now: that
	// time does not count against the stage's timeout. Nil where nothing counts.
	Waiting func(waiting bool)
	// Decisions delivers approvals and rejections for this stage, those
	// recorded before the attempt began included. Nil unless the kind is approve.
	Decisions <-chan Decision
}

// Decision is a person's answer to an approval.
type Decision struct {
	Approved bool   `json:"approved"`
	By       string `json:"by"`
	Comment  string `json:"comment,omitempty"`
}

// Cause says why an attempt, a stage or a run did not succeed; code branches on it.
type Cause string

// The causes.
const (
	CauseNone           Cause = ""               // nothing went wrong
	CauseFailed         Cause = "failed"         // the work itself failed
	CauseInfrastructure Cause = "infrastructure" // what carries the work failed
	CauseTimeout        Cause = "timeout"
	CauseCancelled      Cause = "cancelled"
	CauseSuperseded     Cause = "superseded" // newer work took its place
	CauseRefused        Cause = "refused"    // policy or a person said no
	CauseInvalid        Cause = "invalid"    // what was asked for makes no sense
)

// Error is a failure with its cause.
type Error struct {
	Cause Cause
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Fail returns an *Error with a formatted message, which may use %w.
func Fail(cause Cause, format string, args ...any) error {
	return &Error{Cause: cause, Err: fmt.Errorf(format, args...)}
}

// CauseOf tells the cause of an error as Kind.Run documents it.
func CauseOf(err error) Cause {
	var e *Error
	switch {
	case err == nil:
		return CauseNone
	case errors.As(err, &e):
		return e.Cause
	case errors.Is(err, context.DeadlineExceeded):
		return CauseTimeout
	case errors.Is(err, context.Canceled):
		return CauseCancelled
	}
	return CauseInfrastructure
}
