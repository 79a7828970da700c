package inbox

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// Defaults of Processor.
const (
	DefaultConcurrency = 4
	// DefaultMaxAttempts with the back-off below gives a forge or a disk about
	// half an hour to come back.
	DefaultMaxAttempts = 12
	DefaultFirstDelay  = time.Second
	DefaultMaxDelay    = 5 * time.Minute
	// maxNote bounds the text kept with an event, in bytes.
	maxNote = 2 << 10
	// storeTimeout bounds the recording of a result when the work has ended.
	storeTimeout = 10 * time.Second
	// storeRetry is the pause after the store itself failed.
	storeRetry = time.Second
)

// HandleFunc deals with one event. A nil error ends the event; note is for people ("run
// 01J… created", "no pipeline matches"). An error makes it due again later,
// unless it is Permanent. It may see the same event again after a crash and
// must then come to the same end.
type HandleFunc func(ctx context.Context, ev event.Event) (note string, err error)

// permanent marks an error that trying again cannot cure.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent says that trying again is of no use: the event is given up at once.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// Processor hands pending events to a handler: those of one repository and ref
// in the order they came, others at the same time. A failing event holds back
// its own repository and ref until it succeeds or is given up, so that an older
// commit is never handled after a newer one. Zero numbers mean the defaults.
type Processor struct {
	Store       Store
	Handle      HandleFunc
	Concurrency int
	MaxAttempts int
	FirstDelay  time.Duration
	MaxDelay    time.Duration
	Now         func() time.Time // nil means time.Now
	Log         *zap.Logger      // nil means none
}

// Run processes until ctx ends, then waits for the handlers under way. Their
// events stay pending if they did not succeed.
func (p Processor) Run(ctx context.Context) error {
	setDefault(&p.Concurrency, DefaultConcurrency)
	setDefault(&p.MaxAttempts, DefaultMaxAttempts)
	setDefault(&p.FirstDelay, DefaultFirstDelay)
	setDefault(&p.MaxDelay, DefaultMaxDelay)
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.Log == nil {
		p.Log = zap.NewNop()
	}
	running := map[string]bool{}
	finished := make(chan string)
	defer func() {
		for range running {
			<-finished
		}
	}()
	for {
		var wake *time.Timer
		if len(running) < p.Concurrency {
			// Heads that run already are still pending: ask for that many more.
			due, next, err := p.Store.Due(ctx, p.Now(), p.Concurrency+len(running))
			if err != nil {
				if ctx.Err() != nil {
					return nil
				}
				p.Log.Error("read due events", zap.Error(err))
				next = p.Now().Add(storeRetry)
			}
			for _, record := range due {
				if running[record.Event.ID] || len(running) >= p.Concurrency {
					continue
				}
				running[record.Event.ID] = true
				go func() {
					p.one(ctx, record)
					finished <- record.Event.ID
				}()
			}
			if !next.IsZero() {
				wake = time.NewTimer(max(next.Sub(p.Now()), time.Millisecond))
			}
		}
		if done := p.wait(ctx, running, finished, wake); done {
			return nil
		}
	}
}

// wait returns when there may be something to do, true when ctx has ended.
func (p Processor) wait(ctx context.Context, running map[string]bool, finished <-chan string, wake *time.Timer) bool {
	var due <-chan time.Time
	if wake != nil {
		due = wake.C
		defer wake.Stop()
	}
	select {
	case <-ctx.Done():
		return true
	case id := <-finished:
		delete(running, id)
	case <-p.Store.Changed():
	case <-due:
	}
	return false
}

// one carries an event through one attempt and records how it ended.
func (p Processor) one(ctx context.Context, record Record) {
	ev := record.Event
	log := p.Log.With(zap.String("event", ev.ID), zap.String("repository", ev.Repository.FullName))
	note, err := p.call(ctx, ev)
	// A result is recorded even while the server stops.
	recordCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	var next Outcome
	switch {
	case err == nil:
		err = p.Store.Done(recordCtx, ev.ID, clip(note), p.Now())
	case ctx.Err() != nil:
		return // the server stops: still pending, and not the event's fault
	default:
		next = Decide(err, record.Attempts+1, p.MaxAttempts, p.FirstDelay, p.MaxDelay)
		if next.GiveUp {
			log.Error("event given up", zap.Int("attempts", record.Attempts+1), zap.Error(err))
			err = p.Store.Bury(recordCtx, ev.ID, clip(err.Error()), p.Now())
		} else {
			log.Warn("event failed, will be tried again", zap.Int("attempt", record.Attempts+1), zap.Duration("in", next.Delay), zap.Error(err))
			err = p.Store.Retry(recordCtx, ev.ID, clip(err.Error()), p.Now().Add(next.Delay))
		}
	}
	if err == nil {
		return
	}
	// The event is still pending and will be handled again: slow down, so that
	// a store that cannot write does not make it spin.
	log.Error("record the result of an event", zap.Error(err))
	select {
	case <-ctx.Done():
	case <-time.After(storeRetry):
	}
}

func (p Processor) call(ctx context.Context, ev event.Event) (note string, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.Log.Error("event handler panicked", zap.String("event", ev.ID), zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("the handler of event %s panicked: %v", ev.ID, r)
		}
	}()
	return p.Handle(ctx, ev)
}

// Outcome is what becomes of an event that failed.
type Outcome struct {
	GiveUp bool
	Delay  time.Duration // until the next attempt
}

// Decide says what becomes of an event whose attempt'th try failed with err: the
// delay doubles from first to at most longest.
func Decide(err error, attempt, maxAttempts int, first, longest time.Duration) Outcome {
	var p permanent
	if errors.As(err, &p) || attempt >= maxAttempts {
		return Outcome{GiveUp: true}
	}
	delay := first
	for i := 1; i < attempt && delay < longest; i++ {
		delay *= 2
	}
	return Outcome{Delay: min(delay, longest)}
}

func clip(s string) string {
	if len(s) <= maxNote {
		return s
	}
	s = s[:maxNote]
	for len(s) > 0 {
		if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size > 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s + "…"
}
