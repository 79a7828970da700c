// Package inbox takes events in and keeps them until they are dealt with:
// verify → deduplicate → store → acknowledge, then hand each to a consumer at
// least once. Nothing is acknowledged before it is durable.
package inbox

import (
	"context"
	"errors"
	"time"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// Errors that callers branch on.
var (
	// ErrFull: the store has no room, on disk or by its own limit of pending
	// events. Nothing was written.
	ErrFull = errors.New("the inbox is full")
	// ErrBusy: the store could not write in time. Nothing was written.
	ErrBusy = errors.New("the inbox is busy")
	// ErrNotFound: no event has that id.
	ErrNotFound = errors.New("no such event")
)

// Status is where an event in the inbox stands.
type Status string

// The statuses: pending → done or dead; a redelivery makes it pending again.
const (
	Pending Status = "pending"
	Done    Status = "done"
	// Dead is an event that was given up: its attempts are used up or its
	// handler said that trying again is of no use.
	Dead Status = "dead"
)

// Record is an event in the inbox.
type Record struct {
	Event  event.Event `json:"event"`
	Status Status      `json:"status"`
	// Attempts counts how often the handler failed since the event became pending.
	Attempts int `json:"attempts"`
	// NextAttempt is when a pending event is due.
	NextAttempt time.Time `json:"nextAttempt,omitzero"`
	// Note is the result of a done event, the last error of any other.
	Note     string    `json:"note,omitempty"`
	Received time.Time `json:"received"`
	Finished time.Time `json:"finished,omitzero"`
}

// Filter narrows a list; zero fields do not.
type Filter struct {
	Status     Status
	Repository string
	Limit      int // 0 means 50; at most 1000
}

// Store keeps events. Implementations are safe for concurrent use; what a
// method has returned for survives a kill of the process.
type Store interface {
	// Put stores an event as pending. An event whose ID is known already
	// changes nothing and returns false. Fails with ErrFull or ErrBusy.
	Put(ctx context.Context, ev event.Event) (stored bool, err error)
	// Due returns pending events whose time has come, oldest first: of each
	// repository and ref only the oldest, so that order is kept. next is when
	// another becomes due, zero when none waits for a time.
	Due(ctx context.Context, now time.Time, limit int) (due []Record, next time.Time, err error)
	// Done ends a pending event with a note for people.
	Done(ctx context.Context, id, note string, now time.Time) error
	// Retry counts a failed attempt and makes the event due again at a time.
	Retry(ctx context.Context, id, note string, at time.Time) error
	// Bury gives a pending event up.
	Bury(ctx context.Context, id, note string, now time.Time) error
	// Get returns one event, List many, newest first.
	Get(ctx context.Context, id string) (Record, error)
	List(ctx context.Context, filter Filter) ([]Record, error)
	// Redeliver makes a done or dead event pending again, due at now.
	Redeliver(ctx context.Context, id string, now time.Time) error
	// Changed receives, coalesced, after an event became pending.
	Changed() <-chan struct{}
}
