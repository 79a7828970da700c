package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	// progressEvery bounds how often a run's progress is recorded; what comes
	// in between is replaced by what is newest.
	progressEvery = 500 * time.Millisecond
	// storageRetry is the wait before an append is tried again.
	storageRetry = 250 * time.Millisecond
	// handOverTimeout bounds the last writes of a run that is handed over.
	handOverTimeout = 10 * time.Second
)

// onStop is what the end of the driving context means for the run.
type onStop int

const (
	handOver  onStop = iota // the run goes on elsewhere or later
	cancelRun               // the run is cancelled
)

// runner drives one run. All its fields belong to the goroutine in drive,
// except where noted.
type runner struct {
	e     *Engine
	id    string
	lease journal.Lease
	state *journal.State
	live  map[string]*attempt // by stage
	// noted holds stages whose wait for an environment is recorded.
	noted    map[string]bool
	draining bool
	nextWake time.Time // decide again then; zero for never
	lastNote time.Time // of progress

	poke    chan struct{}
	foreign atomic.Bool // people may have added entries; set by any goroutine
	owned   sync.WaitGroup

	mu       sync.Mutex
	progress map[string]journal.Entry // newest not recorded, by stage
	ended    []result                 // not recorded
}

func newRunner(e *Engine, id string) *runner {
	return &runner{e: e, id: id, live: map[string]*attempt{}, noted: map[string]bool{}, poke: make(chan struct{}, 1), progress: map[string]journal.Entry{}}
}

// nudge makes the runner look again. Any goroutine may call it.
func (r *runner) nudge() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

// tell is nudge after somebody added to the run's journal.
func (r *runner) tell() {
	r.foreign.Store(true)
	r.nudge()
}

// drive runs the run until it is final, handed over, or lost. The journal is
// the truth: on any error the run is left for a worker that takes it later.
func (r *runner) drive(ctx context.Context, stop onStop) (err error) {
	defer r.e.forget(r)
	writes := context.WithoutCancel(ctx)
	base, abandon := context.WithCancelCause(writes)
	defer func() {
		// Without the right to record, nothing may go on. After a regular end
		// nothing is left to stop.
		abandon(pipeline.ErrHandover)
		r.owned.Wait()
		if r.draining {
			// Others may not have heard yet that the worker stops.
			r.e.slots.leaveRun(r.id)
		} else {
			r.e.slots.releaseRun(r.id)
		}
		if !errors.Is(err, journal.ErrFenced) {
			last, cancel := context.WithTimeout(writes, handOverTimeout)
			defer cancel()
			if releaseErr := r.e.o.Journal.Release(last, r.lease); err == nil && releaseErr != nil {
				// It expires by itself.
				r.e.o.Log.Warn("release the lease", zap.String("run", r.id), zap.Error(releaseErr))
			}
		}
	}()
	state, err := r.e.State(writes, r.id)
	if err != nil {
		return err
	}
	r.state = &state
	if err := r.record(writes, []journal.Entry{{Type: journal.RunStarted, Actor: r.e.o.Worker}}, r.apply); err != nil {
		return err
	}
	r.noted = map[string]bool{}

	renew := time.NewTicker(r.e.o.LeaseTTL / 3)
	defer renew.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stopped := ctx.Done()
	for {
		if err := r.step(writes, base); err != nil {
			return err
		}
		if len(r.live) == 0 && (r.draining || r.state.Status.Final()) {
			return nil
		}
		if !r.nextWake.IsZero() {
			timer.Reset(max(r.nextWake.Sub(r.e.o.Now()), 0))
		}
		select {
		case <-r.poke:
		case <-timer.C:
		case <-renew.C:
			if err := r.renew(writes); err != nil {
				return err
			}
			r.foreign.Store(true) // other processes cannot nudge
		case <-stopped:
			stopped = nil
			if err := r.stop(ctx, writes, stop); err != nil {
				return err
			}
		}
	}
}

func (r *runner) stop(ctx, writes context.Context, stop onStop) error {
	if stop == handOver {
		r.draining = true
		for _, a := range r.live {
			a.cancel(pipeline.ErrHandover)
		}
		return nil
	}
	cause, message := pipeline.CauseCancelled, "cancelled"
	var why *pipeline.Error
	if errors.As(context.Cause(ctx), &why) {
		cause, message = why.Cause, why.Error()
	}
	err := r.e.o.Journal.Append(writes, r.id, nil, journal.Entry{
		Type: journal.CancelRequested, Time: r.e.o.Now(), Actor: r.e.o.Worker, Cause: cause, Message: message,
	})
	r.foreign.Store(true)
	if errors.Is(err, journal.ErrFinished) {
		return nil
	}
	return err
}

// renew extends the lease. Trouble with the storage is tolerated while the
// lease lasts; after it another worker may act, so this one must not.
func (r *runner) renew(ctx context.Context) error {
	now := r.e.o.Now()
	lease, err := r.e.o.Journal.Renew(ctx, r.lease, now, r.e.o.LeaseTTL)
	switch {
	case err == nil:
		r.lease = lease
	case errors.Is(err, journal.ErrFenced) || !now.Before(r.lease.Expires):
		return err
	default:
		r.e.o.Log.Warn("renew the lease", zap.String("run", r.id), zap.Error(err))
	}
	return nil
}

// step brings the run as far as it goes now: it folds in what happened, asks
// decide until nothing new comes, records all of it at once, and then acts.
func (r *runner) step(ctx, base context.Context) error {
	if r.foreign.Swap(false) {
		entries, err := r.e.o.Journal.Entries(ctx, r.id, r.state.Seq)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			r.state.Apply(entry)
		}
	}
	before := r.state.Status
	entries := r.collect()
	var effects []action
	if !r.draining {
		var more []journal.Entry
		more, effects = r.plan()
		entries = append(entries, more...)
	}
	entries = append(entries, r.takeProgress()...)
	if err := r.record(ctx, entries, nil); err != nil {
		return err
	}
	for _, a := range effects {
		r.act(base, a)
	}
	for _, a := range r.live {
		a.deliver(r.state.Stage(a.stage).Decisions)
	}
	if r.state.Status != before {
		r.e.nudge() // a waiting run takes no place among the running
	}
	return nil
}

func (r *runner) apply(entry *journal.Entry) {
	entry.RunID, entry.Time = r.id, r.e.o.Now().UTC().Round(0) // as it will be read
	r.state.Apply(*entry)
}

// end hands an attempt's result to the runner. Any goroutine may call it.
func (r *runner) end(res result) {
	r.mu.Lock()
	r.ended = append(r.ended, res)
	delete(r.progress, res.stage)
	r.mu.Unlock()
	r.nudge()
}

// collect folds in the attempts that ended.
func (r *runner) collect() []journal.Entry {
	r.mu.Lock()
	ended := r.ended
	r.ended = nil
	r.mu.Unlock()
	entries := make([]journal.Entry, 0, len(ended))
	for _, res := range ended {
		delete(r.live, res.stage)
		r.e.slots.yield(holder{r.id, res.stage})
		entry := journal.Entry{Type: journal.AttemptFinished, Stage: res.stage, Attempt: res.attempt, Cause: res.cause, Message: res.message, Outputs: res.outputs}
		if res.interrupted {
			entry = journal.Entry{Type: journal.AttemptInterrupted, Stage: res.stage, Attempt: res.attempt, Message: "the worker stopped; the run goes on when one takes it up"}
		}
		r.apply(&entry)
		entries = append(entries, entry)
	}
	return entries
}

// plan asks decide until it has nothing new to record. Effects are what to do
// once the entries are stored.
func (r *runner) plan() (entries []journal.Entry, effects []action) {
	add := func(entry journal.Entry) {
		r.apply(&entry)
		entries = append(entries, entry)
	}
	for changed := true; changed; {
		changed = false
		r.nextWake = time.Time{}
		for _, a := range decide(r.state, r.e.o.Now(), r.e.rules) {
			switch a.kind {
			case actLose:
				add(journal.Entry{Type: journal.AttemptFinished, Stage: a.stage, Attempt: a.attempt, Cause: a.cause, Message: a.message})
			case actFinish:
				r.e.slots.release(holder{r.id, a.stage})
				add(journal.Entry{Type: journal.StageFinished, Stage: a.stage, Status: a.status, Cause: a.cause, Message: a.message, Outputs: a.outputs})
			case actEnd:
				add(journal.Entry{Type: journal.RunFinished, Status: a.status, Cause: a.cause, Message: a.message})
			case actStart:
				ok, busy := r.slot(a.stage)
				if !ok {
					if busy != "" && a.attempt == 1 && !r.noted[a.stage] {
						r.noted[a.stage] = true
						add(journal.Entry{Type: journal.StageProgress, Stage: a.stage, Message: fmt.Sprintf("waits for run %s, which deploys to the same environment", busy)})
					}
					continue
				}
				add(journal.Entry{Type: journal.AttemptStarted, Stage: a.stage, Attempt: a.attempt})
				effects = append(effects, a)
			case actCancel:
				effects = append(effects, a)
				continue
			case actWait:
				if r.nextWake.IsZero() || a.at.Before(r.nextWake) {
					r.nextWake = a.at
				}
				continue
			}
			changed = true
		}
	}
	return entries, effects
}

// slot asks for the right to run a stage; approvals need none.
func (r *runner) slot(id string) (ok bool, busy string) {
	stage := r.state.Stage(id)
	if stage.Kind == pipeline.KindApprove {
		return true, ""
	}
	c := claim{repository: r.state.Plan.Event.Repository.FullName, environment: r.e.environment(r.state, *r.state.Planned(id))}
	return r.e.slots.acquire(holder{r.id, id}, c, r.nudge)
}

func (r *runner) act(base context.Context, a action) {
	switch a.kind {
	case actStart:
		r.launch(base, a)
	case actCancel:
		if live := r.live[a.stage]; live != nil {
			message := a.message
			if message == "" {
				message = string(a.cause)
			}
			live.cancel(pipeline.Fail(a.cause, "%s", message))
		}
	}
}

// takeProgress returns what stages reported since the last time, if that is
// long enough ago, and otherwise makes sure to be asked again.
func (r *runner) takeProgress() []journal.Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.progress) == 0 {
		return nil
	}
	now := r.e.o.Now()
	if next := r.lastNote.Add(progressEvery); now.Before(next) && !r.draining {
		if r.nextWake.IsZero() || next.Before(r.nextWake) {
			r.nextWake = next
		}
		return nil
	}
	r.lastNote = now
	var entries []journal.Entry
	for stage, entry := range r.progress {
		r.apply(&entry)
		entries = append(entries, entry)
		delete(r.progress, stage)
	}
	return entries
}

// report is an attempt's progress. Any goroutine may call it.
func (r *runner) report(stage string, attempt int, message string) {
	r.mu.Lock()
	r.progress[stage] = journal.Entry{Type: journal.StageProgress, Stage: stage, Attempt: attempt, Message: message}
	r.mu.Unlock()
	r.nudge()
}

// record stores entries. It waits out trouble of the storage while the lease
// lasts: attempts go on meanwhile and their ends are not lost. prepare, if not
// nil, folds each entry in first; otherwise that was done.
func (r *runner) record(ctx context.Context, entries []journal.Entry, prepare func(*journal.Entry)) error {
	if len(entries) == 0 {
		return nil
	}
	if prepare != nil {
		for i := range entries {
			prepare(&entries[i])
		}
	}
	for {
		err := r.e.o.Journal.Append(ctx, r.id, &r.lease, entries...)
		if err == nil {
			break
		}
		if errors.Is(err, journal.ErrFenced) || errors.Is(err, journal.ErrFinished) || !r.e.o.Now().Before(r.lease.Expires) {
			return err
		}
		r.e.o.Log.Error("record the run; trying again", zap.String("run", r.id), zap.Error(err))
		select {
		case <-time.After(storageRetry):
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := r.renew(ctx); err != nil {
			return err
		}
	}
	// The state counted on in its own; if people added entries in between,
	// fold the true order.
	if last := entries[len(entries)-1].Seq; last != r.state.Seq {
		entries, err := r.e.o.Journal.Entries(ctx, r.id, 0)
		if err != nil {
			return err
		}
		state := journal.Fold(entries)
		r.state = &state
		r.nudge()
	}
	return nil
}
