// Package engine runs plans. Each run is driven by one runner that observes
// the run's state, lets decide (a pure function) say what is next, records it
// in the journal and only then acts. What the journal holds is what happened;
// a worker that dies leaves a run that any other can go on with.
package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"runtime"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// Workspaces gives attempts a directory with the commit's files.
type Workspaces interface {
	// Workspace returns a directory that holds the files of the plan's commit
	// and that no other attempt sees, and a function that gives it back, which
	// is called once. Its error counts as infrastructure failure unless it is
	// a *pipeline.Error. Safe for concurrent use.
	Workspace(ctx context.Context, runID string, plan *pipeline.Plan, stage pipeline.PlannedStage) (directory string, release func(), err error)
}

// Limits bound what runs at once in this worker. Approvals that wait take
// none of them.
type Limits struct {
	// Stages bounds attempts at once; 0 means twice the processors, at least 4.
	Stages int
	// Runs bounds runs at once; 0 means 100.
	Runs int
	// PerRepository bounds runs of one repository at once; 0 means Runs.
	PerRepository int
}

// Backoff is the wait before a retry: Base after the first failure, doubled
// after each further one up to Max, of which a random half is taken off.
type Backoff struct {
	Base time.Duration // 0 means one second
	Max  time.Duration // 0 means one minute
}

// Options is what an engine works with. Journal, Kinds and Worker are required.
type Options struct {
	Journal    journal.Journal
	Kinds      map[pipeline.KindName]pipeline.Kind
	Workspaces Workspaces // nil gives attempts no directory
	// Secrets returns the secrets that a stage's attempts see as environment
	// variables, by name. It is asked only for events of trust event.Own. All
	// values are masked in whatever is recorded. Nil means none.
	Secrets func(ctx context.Context, runID string, plan *pipeline.Plan, stage pipeline.PlannedStage) (map[string]string, error)
	// Env returns further environment variables, which are not masked. Nil means none.
	Env func(runID string, plan *pipeline.Plan, stage pipeline.PlannedStage) map[string]string
	// When decides a stage's condition once its needs ended; it is asked only
	// for stages that have one. Errors name the place in the file. Nil knows
	// only "true" and "false".
	When func(stage pipeline.PlannedStage, plan *pipeline.Plan, states map[string]pipeline.StageResult) (bool, error)
	// Resolve fills `${{ }}` of a stage in. Errors name the place in the file.
	// Nil leaves the stage as it is.
	Resolve func(stage pipeline.PlannedStage, plan *pipeline.Plan, states map[string]pipeline.StageResult) (pipeline.PlannedStage, error)

	// Worker names this engine in leases. It is unique among live processes
	// and the same after a restart of this one, which then takes its runs up at once.
	Worker   string
	Limits   Limits
	LeaseTTL time.Duration // 0 means 15 seconds
	Backoff  Backoff
	// CleanUpTimeout bounds each finally stage of a cancelled run; 0 means 5 minutes.
	CleanUpTimeout time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Jitter returns a number in [0, 1) for a retry's wait; nil derives it
	// from its arguments, which spreads runs and stages.
	Jitter func(runID, stage string, failure int) float64
	Log    *zap.Logger // nil discards
}

const (
	defaultRuns           = 100
	defaultLeaseTTL       = 15 * time.Second
	defaultBackoffBase    = time.Second
	defaultBackoffMax     = time.Minute
	defaultCleanUpTimeout = 5 * time.Minute
)

// Engine runs plans. Make one with New.
type Engine struct {
	o     Options
	rules rules
	slots *slots
	wake  chan struct{} // Serve is to look for work

	mu      sync.Mutex
	runners map[string]*runner
	traits  map[string]traits // of unfinished runs
	// cancelled holds runs with a request to cancel whose traits were not known.
	cancelled map[string]bool
}

// New returns an engine; it does nothing until Serve or Execute.
func New(o Options) (*Engine, error) {
	if o.Journal == nil || o.Worker == "" || len(o.Kinds) == 0 {
		return nil, errors.New("engine: Journal, Worker and Kinds are required")
	}
	if o.Limits.Stages <= 0 {
		o.Limits.Stages = max(2*runtime.NumCPU(), 4)
	}
	if o.Limits.Runs <= 0 {
		o.Limits.Runs = defaultRuns
	}
	if o.Limits.PerRepository <= 0 {
		o.Limits.PerRepository = o.Limits.Runs
	}
	setDefault(&o.LeaseTTL, defaultLeaseTTL)
	setDefault(&o.Backoff.Base, defaultBackoffBase)
	setDefault(&o.Backoff.Max, defaultBackoffMax)
	setDefault(&o.CleanUpTimeout, defaultCleanUpTimeout)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Jitter == nil {
		o.Jitter = spread
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	e := &Engine{
		o: o, slots: newSlots(o.Limits.Stages), wake: make(chan struct{}, 1),
		runners: map[string]*runner{}, traits: map[string]traits{}, cancelled: map[string]bool{},
	}
	e.rules = rules{when: o.When, takeover: e.takeover, backoff: e.backoff}
	return e, nil
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d <= 0 {
		*d = value
	}
}

func (e *Engine) takeover(kind pipeline.KindName) pipeline.Takeover {
	if k := e.o.Kinds[kind]; k != nil {
		return k.Takeover()
	}
	return pipeline.TakeoverRetry
}

func (e *Engine) backoff(runID, stage string, failure int) time.Duration {
	return e.o.Backoff.after(failure, e.o.Jitter(runID, stage, failure))
}

func (b Backoff) after(failure int, jitter float64) time.Duration {
	wait := b.Base
	for i := 1; i < failure && wait < b.Max; i++ {
		wait *= 2
	}
	wait = min(wait, b.Max)
	return wait - time.Duration(jitter*float64(wait)/2)
}

// spread is a jitter that needs no state: it differs between runs, stages and
// failures, and is the same when asked again.
func spread(runID, stage string, failure int) float64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(runID + "\x00" + stage + "\x00" + strconv.Itoa(failure)))
	return float64(h.Sum32()) / (1 << 32)
}

// Submit records a run of the plan and lets Serve know. It is idempotent by
// id: a run that exists is left as it is and created is false. When it has
// returned without error the run survives a crash.
func (e *Engine) Submit(ctx context.Context, runID string, plan *pipeline.Plan) (created bool, err error) {
	if err := e.check(plan); err != nil {
		return false, fmt.Errorf("submit run %q: %w", runID, err)
	}
	created, err = e.o.Journal.Create(ctx, runID, plan, e.o.Now())
	if err != nil {
		return false, err
	}
	e.nudge()
	return created, nil
}

// check refuses plans that could not end: they come from the planner, so this
// guards against other writers, not users.
func (e *Engine) check(plan *pipeline.Plan) error {
	if plan == nil {
		return pipeline.Fail(pipeline.CauseInvalid, "there is no plan")
	}
	seen := map[string]bool{}
	for _, stage := range plan.Stages {
		if stage.ID == "" || seen[stage.ID] {
			return pipeline.Fail(pipeline.CauseInvalid, "%s: stage id %q is empty or used twice", stage.Pos, stage.ID)
		}
		if e.o.Kinds[stage.Kind] == nil {
			return pipeline.Fail(pipeline.CauseInvalid, "%s: stage %q: this engine has no stage kind %q", stage.Pos, stage.ID, stage.Kind)
		}
		for _, need := range stage.Needs {
			if !seen[need] {
				return pipeline.Fail(pipeline.CauseInvalid, "%s: stage %q needs %q, which is not before it in the plan", stage.Pos, stage.ID, need)
			}
		}
		seen[stage.ID] = true
	}
	return nil
}

// Cancel asks for the end of a run: attempts are cancelled, stages that did
// not begin never will, finally stages still run. cause is CauseCancelled when
// empty. A finished run gives journal.ErrFinished.
func (e *Engine) Cancel(ctx context.Context, runID, by string, cause pipeline.Cause) error {
	if cause == pipeline.CauseNone {
		cause = pipeline.CauseCancelled
	}
	return e.cancel(ctx, runID, by, cause, string(cause)+" by "+by)
}

func (e *Engine) cancel(ctx context.Context, runID, by string, cause pipeline.Cause, message string) error {
	err := e.o.Journal.Append(ctx, runID, nil, journal.Entry{
		Type: journal.CancelRequested, Time: e.o.Now(), Actor: by, Cause: cause, Message: message,
	})
	if err != nil {
		return fmt.Errorf("cancel run %q: %w", runID, err)
	}
	e.noteCancelled(runID)
	e.tell(runID)
	return nil
}

// Decide records a person's answer to an approval stage, which may not have
// begun to wait yet. Who may answer is the caller's to check.
func (e *Engine) Decide(ctx context.Context, runID, stageID string, decision pipeline.Decision) error {
	state, err := e.State(ctx, runID)
	if err != nil {
		return err
	}
	stage := state.Stage(stageID)
	switch {
	case stage == nil:
		return pipeline.Fail(pipeline.CauseInvalid, "run %q has no stage %q", runID, stageID)
	case stage.Kind != pipeline.KindApprove:
		return pipeline.Fail(pipeline.CauseInvalid, "stage %q of run %q is of kind %s and waits for nobody", stageID, runID, stage.Kind)
	case stage.Status.Final():
		return fmt.Errorf("decide stage %q of run %q: it is %s already: %w", stageID, runID, stage.Status, journal.ErrFinished)
	}
	err = e.o.Journal.Append(ctx, runID, nil, journal.Entry{
		Type: journal.DecisionMade, Time: e.o.Now(), Stage: stageID, Actor: decision.By, Decision: &decision,
	})
	if err != nil {
		return fmt.Errorf("decide stage %q of run %q: %w", stageID, runID, err)
	}
	e.tell(runID)
	return nil
}

// State reads where a run stands.
func (e *Engine) State(ctx context.Context, runID string) (journal.State, error) {
	entries, err := e.o.Journal.Entries(ctx, runID, 0)
	if err != nil {
		return journal.State{}, err
	}
	return journal.Fold(entries), nil
}

// tell lets whoever drives the run know that people added to its journal.
func (e *Engine) tell(runID string) {
	e.mu.Lock()
	r := e.runners[runID]
	e.mu.Unlock()
	if r != nil {
		r.tell()
		return
	}
	e.nudge()
}

func (e *Engine) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}
