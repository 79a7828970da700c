// Package journal is the durable record of runs. It is append-only: the state
// of a run is a fold over its entries, and nothing else is true.
package journal

import (
	"context"
	"errors"
	"time"

	"github.com/tidegate-ci/tidegate/pipeline"
)

// Type names what an entry records.
type Type string

// The entry types. Fields of Entry that a type uses are named beside it.
const (
	RunCreated      Type = "run_created"      // Plan
	RunStarted      Type = "run_started"      // Actor: the worker that took the run, again on each takeover
	AttemptStarted  Type = "attempt_started"  // Stage, Attempt
	AttemptFinished Type = "attempt_finished" // Stage, Attempt, Cause, Message, Outputs
	StageProgress   Type = "stage_progress"   // Stage, Attempt, Message; Attempt 0 tells what a stage waits for
	// AttemptInterrupted: the worker stopped in good order in the middle of an
	// attempt, which goes on as after a takeover but is not held against it.
	AttemptInterrupted Type = "attempt_interrupted" // Stage, Attempt, Message
	StageFinished      Type = "stage_finished"      // Stage, Status, Cause, Message, Outputs
	DecisionMade       Type = "decision_made"       // Stage, Decision
	CancelRequested    Type = "cancel_requested"    // Actor, Cause, Message
	RunFinished        Type = "run_finished"        // Status, Cause, Message
)

// Status is where a run or stage stands.
type Status string

// The statuses. The last five are final.
const (
	Pending   Status = "pending"
	Running   Status = "running"
	Waiting   Status = "waiting" // for a person or a concurrency group
	Succeeded Status = "succeeded"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
	Skipped   Status = "skipped"
	Refused   Status = "refused"
)

// Final tells whether nothing more will happen.
func (s Status) Final() bool {
	switch s {
	case Succeeded, Failed, Cancelled, Skipped, Refused:
		return true
	}
	return false
}

// Entry is one fact about a run.
type Entry struct {
	RunID string `json:"runID"`
	// Seq counts from 1 within the run, without gaps.
	Seq      int64              `json:"seq"`
	Time     time.Time          `json:"time"`
	Type     Type               `json:"type"`
	Stage    string             `json:"stage,omitempty"`
	Attempt  int                `json:"attempt,omitempty"`
	Status   Status             `json:"status,omitempty"`
	Cause    pipeline.Cause     `json:"cause,omitempty"`
	Message  string             `json:"message,omitempty"`
	Outputs  pipeline.Outputs   `json:"outputs,omitempty"`
	Actor    string             `json:"actor,omitempty"`
	Decision *pipeline.Decision `json:"decision,omitempty"`
	Plan     *pipeline.Plan     `json:"plan,omitempty"`
}

// Errors that callers branch on.
var (
	// ErrNotFound: there is no such run.
	ErrNotFound = errors.New("no such run")
	// ErrFenced: the lease token is no longer the newest; the caller lost the
	// run and must stop acting on it at once.
	ErrFenced = errors.New("the run belongs to another worker now")
	// ErrFinished: the run is final; nothing is added to it any more.
	ErrFinished = errors.New("the run has finished")
	// ErrFull: the storage has no room; nothing was written.
	ErrFull = errors.New("the journal's storage is full")
)

// Lease is the right to act on a run until Expires. Token grows with each
// lease of the run; an append that carries an older one fails with ErrFenced.
type Lease struct {
	RunID   string
	Worker  string
	Token   int64
	Expires time.Time
}

// Summary is a run in a list.
type Summary struct {
	ID         string    `json:"id"`
	Pipeline   string    `json:"pipeline"`
	Repository string    `json:"repository"`
	Ref        string    `json:"ref"`
	Commit     string    `json:"commit"`
	Event      string    `json:"event"`
	Actor      string    `json:"actor,omitempty"`
	Status     Status    `json:"status"`
	Cause      string    `json:"cause,omitempty"`
	Message    string    `json:"message,omitempty"`
	Created    time.Time `json:"created"`
	Started    time.Time `json:"started,omitzero"`
	Finished   time.Time `json:"finished,omitzero"`
}

// Filter narrows a list; zero fields do not.
type Filter struct {
	Repository string
	Pipeline   string
	Status     []Status
	Limit      int // 0 means 50; at most 1000
}

// Line is one line of a log.
type Line struct {
	Seq     int64     `json:"seq"` // within the run, from 1
	Time    time.Time `json:"time"`
	Stage   string    `json:"stage"`
	Attempt int       `json:"attempt"`
	Stream  string    `json:"stream"` // stdout, stderr, or tidegate
	Text    string    `json:"text"`
}

// Journal stores runs. Implementations are safe for concurrent use; what a
// method has returned for survives a kill of the process.
type Journal interface {
	// Create records a run with its plan as entry 1. The id is the caller's:
	// creating a run that exists already changes nothing and returns false.
	Create(ctx context.Context, runID string, plan *pipeline.Plan, now time.Time) (created bool, err error)
	// Append adds entries in order, all or none, and sets their Seq in the
	// caller's slice. A finished run takes no more (ErrFinished). With a lease, it
	// is fenced by the lease's token. Without (nil), only DecisionMade and
	// CancelRequested are accepted: what people ask for needs no lease.
	Append(ctx context.Context, runID string, lease *Lease, entries ...Entry) error
	// Entries returns the entries of a run with Seq > after.
	Entries(ctx context.Context, runID string, after int64) ([]Entry, error)
	// List returns summaries, newest first.
	List(ctx context.Context, filter Filter) ([]Summary, error)

	// Acquire leases the run to the worker unless another holds a live lease
	// (then ok is false). Renew extends; Release gives up early.
	Acquire(ctx context.Context, runID, worker string, now time.Time, ttl time.Duration) (lease Lease, ok bool, err error)
	Renew(ctx context.Context, lease Lease, now time.Time, ttl time.Duration) (Lease, error)
	Release(ctx context.Context, lease Lease) error
	// Unfinished lists runs that are not final, oldest first.
	Unfinished(ctx context.Context) ([]Summary, error)

	// AppendLog stores log lines (already masked) and gives them their Seq; Log
	// reads those of a stage ("" for all) with Seq > after, at most limit.
	AppendLog(ctx context.Context, runID string, lines ...Line) error
	Log(ctx context.Context, runID, stage string, after int64, limit int) ([]Line, error)

	// Watch returns a channel that receives, coalesced, after the run (or any
	// run, with "") got new entries or log lines, until ctx ends.
	Watch(ctx context.Context, runID string) <-chan struct{}

	Close() error
}
