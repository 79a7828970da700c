package rollout

import (
	"maps"
	"slices"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/health"
)

// Limits of the outbox.
const (
	MaxOutbox = 100
	// MaxOutboxAge is how long a transition waits for someone who can't be told.
	MaxOutboxAge  = 24 * time.Hour
	maxTransition = 500 // bytes of its text
)

// Transition is one move of a rollout, to be told to those who asked for it.
type Transition struct {
	// Sequence counts the transitions of the application, from 1.
	Sequence int64     `json:"sequence"`
	Revision int       `json:"revision"`
	From     State     `json:"from,omitempty"` // empty when the rollout was accepted
	To       State     `json:"to"`
	Step     int       `json:"step,omitempty"`
	At       time.Time `json:"at"`
	// Text is the rollout's sentence at that moment, Reason why it failed.
	Text   string        `json:"text"`
	Reason health.Reason `json:"reason,omitempty"`
}

// Outbox holds the transitions that not everybody has been told, oldest first.
// It is part of the record, so that a crash loses none: what was told is
// recorded afterwards, and may be told again after a crash.
type Outbox struct {
	// ID tells this record's transitions from those of one that was forgotten.
	ID string `json:"id"`
	// Sequence is that of the last transition.
	Sequence    int64        `json:"sequence"`
	Transitions []Transition `json:"transitions,omitempty"`
	// Told is the last transition that each receiver has been told, by its name.
	Told map[string]int64 `json:"told"`
}

// subscribe makes the names the receivers from now on. New ones are not told
// what happened before.
func (r *Record) subscribe(names []string, id func() string) {
	if len(names) == 0 {
		r.Outbox = nil
		return
	}
	if r.Outbox == nil {
		r.Outbox = &Outbox{ID: id()}
	}
	told := make(map[string]int64, len(names))
	for _, name := range names {
		last, known := r.Outbox.Told[name]
		if !known {
			last = r.Outbox.Sequence
		}
		told[name] = last
	}
	r.Outbox.Told = told
	r.Outbox.tidy()
}

// subscribed tells whether exactly these are the receivers.
func (r *Record) subscribed(names []string) bool {
	if r.Outbox == nil {
		return len(names) == 0
	}
	if len(names) != len(r.Outbox.Told) {
		return false
	}
	return !slices.ContainsFunc(names, func(name string) bool { _, known := r.Outbox.Told[name]; return !known })
}

// note writes the move of the current rollout from a state into the outbox, if
// there is anyone to be told. The oldest make way when it is full.
func (r *Record) note(from State, now time.Time) {
	if r.Outbox == nil {
		return
	}
	c := r.Current
	t := Transition{Revision: c.Revision, From: from, To: c.State, Step: c.Step, At: now, Text: clipTo(c.Sentence(), maxTransition)}
	if c.Failure != nil {
		t.Reason = c.Failure.Reason
	}
	r.Outbox.Sequence++
	t.Sequence = r.Outbox.Sequence
	r.Outbox.Transitions = append(r.Outbox.Transitions, t)
	if extra := len(r.Outbox.Transitions) - MaxOutbox; extra > 0 {
		r.Outbox.Transitions = slices.Delete(r.Outbox.Transitions, 0, extra)
	}
}

// mark records what a receiver has been told, and tells whether that is news.
func (o *Outbox) mark(name string, sequence int64) bool {
	if last, known := o.Told[name]; !known || sequence <= last {
		return false
	}
	o.Told[name] = min(sequence, o.Sequence)
	o.tidy()
	return true
}

// tidy forgets what everybody has been told.
func (o *Outbox) tidy() {
	least := o.Sequence
	for told := range maps.Values(o.Told) {
		least = min(least, told)
	}
	o.Transitions = slices.DeleteFunc(o.Transitions, func(t Transition) bool { return t.Sequence <= least })
	if len(o.Transitions) == 0 {
		o.Transitions = nil
	}
}

// untold lists what a receiver has not been told, oldest first.
func (o *Outbox) untold(name string) []Transition {
	if o == nil {
		return nil
	}
	told, known := o.Told[name]
	if !known {
		return nil
	}
	i := slices.IndexFunc(o.Transitions, func(t Transition) bool { return t.Sequence > told })
	if i < 0 {
		return nil
	}
	return o.Transitions[i:]
}
