package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// Serve leases unfinished runs and drives them, takes over those whose worker
// is gone, and goes on until ctx ends. Then it hands over: attempts are
// cancelled with pipeline.ErrHandover, which the journal records, leases are
// given back, and a later Serve goes on with the runs. It returns when all is
// given back.
func (e *Engine) Serve(ctx context.Context) error {
	var runners sync.WaitGroup
	defer runners.Wait()
	rescan := time.NewTicker(e.o.LeaseTTL / 3)
	defer rescan.Stop()
	s := &server{e: e, runners: &runners, elsewhere: map[string]bool{}}
	for ctx.Err() == nil {
		if err := s.dispatch(ctx); err != nil && ctx.Err() == nil {
			// The storage may come back; runs in hand go on meanwhile.
			e.o.Log.Error("look for runs", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-e.wake:
		case <-rescan.C:
			s.mu.Lock()
			clear(s.elsewhere)
			s.mu.Unlock()
		}
	}
	return nil
}

// server is the state of one Serve.
type server struct {
	e       *Engine
	runners *sync.WaitGroup
	// elsewhere holds runs that another worker had when last asked, and those
	// that this one had to give up: they are tried again at the next rescan.
	elsewhere map[string]bool
	mu        sync.Mutex // guards elsewhere
}

func (s *server) rest(runID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.elsewhere[runID] = true
}

func (s *server) resting(runID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.elsewhere[runID]
}

func (s *server) dispatch(ctx context.Context) error {
	runs, err := s.e.o.Journal.Unfinished(ctx)
	if err != nil {
		return err
	}
	candidates, err := s.observe(ctx, runs)
	if err != nil {
		return err
	}
	start, supersede := admit(candidates, s.e.o.Limits)
	var errs []error
	for _, x := range supersede {
		err := s.e.cancel(ctx, x.id, s.e.o.Worker, pipeline.CauseSuperseded, fmt.Sprintf("superseded by the newer run %s", x.by))
		if err != nil && !errors.Is(err, journal.ErrFinished) {
			errs = append(errs, err)
		}
	}
	for _, id := range start {
		r, err := s.e.lease(ctx, id)
		switch {
		case errors.Is(err, journal.ErrFinished), errors.Is(err, errHeldHere):
		case errors.Is(err, errHeldElsewhere):
			s.rest(id)
		case err != nil:
			errs = append(errs, err)
		default:
			s.runners.Go(func() {
				defer s.e.nudge()
				if err := r.drive(ctx, handOver); err != nil {
					s.rest(id)
					s.e.o.Log.Error("run given up until the next look for runs", zap.String("run", id), zap.Error(err))
				}
			})
		}
	}
	return errors.Join(errs...)
}

// observe tells how unfinished runs stand. What a run's plan says is read
// once. At first sight, environments that a deploy was in the middle of are
// kept for it.
func (s *server) observe(ctx context.Context, runs []journal.Summary) ([]candidate, error) {
	e := s.e
	unfinished := make(map[string]bool, len(runs))
	out := make([]candidate, 0, len(runs))
	for _, run := range runs {
		unfinished[run.ID] = true
		e.mu.Lock()
		t, known := e.traits[run.ID]
		r := e.runners[run.ID]
		e.mu.Unlock()
		if !known {
			state, err := e.State(ctx, run.ID)
			if err != nil {
				return nil, err
			}
			t = traitsOf(&state)
			e.reserve(&state)
			e.mu.Lock()
			t.cancelled = t.cancelled || e.cancelled[run.ID]
			e.traits[run.ID] = t
			e.mu.Unlock()
		}
		out = append(out, candidate{
			id: run.ID, traits: t, started: !run.Started.IsZero(), active: r != nil,
			waiting: r != nil && run.Status == journal.Waiting, elsewhere: s.resting(run.ID),
		})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.traits {
		if !unfinished[id] {
			delete(e.traits, id)
			delete(e.cancelled, id)
			e.slots.releaseRun(id)
		}
	}
	return out, nil
}

func traitsOf(state *journal.State) traits {
	return traits{
		repository: state.Plan.Event.Repository.FullName, group: state.Plan.ConcurrencyGroup,
		cancelInProgress: state.Plan.CancelInProgress, cancelled: state.Cancel != nil,
	}
}

func (e *Engine) noteCancelled(runID string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t, known := e.traits[runID]
	if !known {
		// Whoever reads its traits now may have read before the request.
		e.cancelled[runID] = true
		return
	}
	t.cancelled = true
	e.traits[runID] = t
}

func (e *Engine) reserve(state *journal.State) {
	for i := range state.Stages {
		stage := &state.Stages[i]
		if stage.Kind != pipeline.KindDeploy || !stage.Open() {
			continue
		}
		if environment := e.environment(state, state.Plan.Stages[i]); environment != "" {
			e.slots.reserve(holder{state.RunID, stage.ID}, environment)
		}
	}
}

// environment is the one a deploy stage goes to; empty for other kinds.
func (e *Engine) environment(state *journal.State, planned pipeline.PlannedStage) string {
	if planned.Kind != pipeline.KindDeploy || planned.Deploy == nil {
		return ""
	}
	if resolved, err := e.resolve(planned, state.Plan, resultsOf(state)); err == nil && resolved.Deploy != nil {
		return resolved.Deploy.Environment
	}
	return planned.Deploy.Environment // its attempt will tell what is wrong
}

var (
	errHeldHere      = errors.New("this engine drives the run already")
	errHeldElsewhere = errors.New("another worker drives the run")
)

// lease takes the run for this engine and registers its runner, which the
// caller drives.
func (e *Engine) lease(ctx context.Context, runID string) (*runner, error) {
	r := newRunner(e, runID)
	e.mu.Lock()
	if e.runners[runID] != nil {
		e.mu.Unlock()
		return nil, fmt.Errorf("run %q: %w", runID, errHeldHere)
	}
	e.runners[runID] = r
	e.mu.Unlock()
	lease, ok, err := e.o.Journal.Acquire(ctx, runID, e.o.Worker, e.o.Now(), e.o.LeaseTTL)
	if err == nil && !ok {
		err = fmt.Errorf("run %q: %w", runID, errHeldElsewhere)
	}
	if err != nil {
		e.forget(r)
		return nil, err
	}
	r.lease = lease
	return r, nil
}

func (e *Engine) forget(r *runner) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.runners[r.id] == r {
		delete(e.runners, r.id)
	}
}

// Execute drives one submitted run here and now, outside of queue and
// concurrency group, and returns how it ended. When ctx ends the run is
// cancelled, with context.Cause's cause if it is a *pipeline.Error: attempts
// are cancelled, finally stages run, and the state returned is final.
func (e *Engine) Execute(ctx context.Context, runID string) (journal.State, error) {
	r, err := e.lease(ctx, runID)
	if errors.Is(err, journal.ErrFinished) {
		return e.State(ctx, runID)
	}
	if err != nil {
		return journal.State{}, err
	}
	if err := r.drive(ctx, cancelRun); err != nil {
		return journal.State{}, err
	}
	return *r.state, nil
}
