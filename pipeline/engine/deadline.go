package engine

import (
	"context"
	"sync"
	"time"
)

// deadline ends a context with a cause when a time has passed, without the time
// for which it was paused.
type deadline struct {
	end context.CancelCauseFunc
	why error

	mu     sync.Mutex
	left   time.Duration
	since  time.Time // when it last began to run
	paused bool
	timer  *time.Timer
}

// withDeadline begins at once. The function gives back what it holds.
func withDeadline(parent context.Context, left time.Duration, why error) (context.Context, *deadline, func()) {
	ctx, end := context.WithCancelCause(parent)
	d := &deadline{end: end, why: why, left: left, since: time.Now()}
	d.timer = time.AfterFunc(left, d.pass)
	return ctx, d, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.timer.Stop()
		end(nil)
	}
}

// pass ends the context, unless the timer fired as it was being paused.
func (d *deadline) pass() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.paused {
		d.end(d.why)
	}
}

// pause stops the time, or lets it run on.
func (d *deadline) pause(paused bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if paused == d.paused {
		return
	}
	d.paused = paused
	if paused {
		d.timer.Stop()
		d.left -= time.Since(d.since)
		return
	}
	d.since = time.Now()
	d.timer.Reset(max(d.left, 0))
}
