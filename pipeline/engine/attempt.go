package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/internal/mask"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	// decisionBuffer is how many decisions wait for an approval to read them;
	// further ones follow as it does.
	decisionBuffer = 64
	// maxMessage and maxOutputs bound what an attempt leaves in the journal, in bytes.
	maxMessage = 8 << 10
	maxOutputs = 1 << 20
)

// attempt is one that runs now.
type attempt struct {
	stage     string
	number    int
	cancel    context.CancelCauseFunc
	decisions chan pipeline.Decision
	delivered int
}

// deliver hands on decisions that the attempt has not had.
func (a *attempt) deliver(decisions []pipeline.Decision) {
	if a.decisions == nil {
		return
	}
	for ; a.delivered < len(decisions); a.delivered++ {
		select {
		case a.decisions <- decisions[a.delivered]:
		default:
			return
		}
	}
}

// result is how an attempt ended.
type result struct {
	stage       string
	attempt     int
	outputs     pipeline.Outputs
	cause       pipeline.Cause
	message     string
	interrupted bool
}

// work is an attempt's share of the run, copied so that the attempt shares no
// memory with the runner.
type work struct {
	run       string
	plan      *pipeline.Plan
	planned   pipeline.PlannedStage
	number    int
	continued bool
	needs     map[string]pipeline.Outputs
	states    map[string]pipeline.StageResult // only if there is something to resolve
	deadline  time.Duration                   // what is left
	timeout   time.Duration                   // what was given, for messages
	decisions <-chan pipeline.Decision
	report    func(stage string, attempt int, message string)
}

func (r *runner) launch(base context.Context, a action) {
	planned := *r.state.Planned(a.stage)
	ctx, cancel := context.WithCancelCause(base)
	live := &attempt{stage: a.stage, number: a.attempt, cancel: cancel}
	w := work{
		run: r.id, plan: r.state.Plan, planned: planned, number: a.attempt, continued: a.continued,
		needs: needs(r.state, planned.ID), deadline: planned.Timeout, report: r.report,
	}
	if r.e.o.Resolve != nil {
		w.states = resultsOf(r.state)
	}
	if w.deadline <= 0 {
		w.deadline = pipeline.DefaultTimeout
	}
	if planned.Kind == pipeline.KindApprove {
		live.decisions = make(chan pipeline.Decision, decisionBuffer)
		w.decisions = live.decisions
		w.deadline = pipeline.DefaultApprovalTimeout
		if planned.Approve != nil && planned.Approve.Timeout > 0 {
			w.deadline = planned.Approve.Timeout
		}
		// People were given a time; a restart does not give them more.
		w.timeout = w.deadline
		w.deadline -= r.e.o.Now().Sub(r.state.Stage(a.stage).Last().Started)
	}
	if planned.Finally && r.state.Cancel != nil {
		w.deadline = min(w.deadline, r.e.o.CleanUpTimeout)
	}
	if w.timeout == 0 {
		w.timeout = w.deadline
	}
	r.live[a.stage] = live
	r.owned.Go(func() {
		defer cancel(nil)
		r.end(r.e.attempt(ctx, w))
	})
}

// attempt runs one attempt from workspace to flushed log.
func (e *Engine) attempt(ctx context.Context, w work) result {
	log := newAttemptLog(e.o.Journal, w.run, w.planned.ID, w.number, e.o.Now, e.o.Log)
	timed, passes, cancel := withDeadline(ctx, w.deadline, pipeline.Fail(pipeline.CauseTimeout, "timed out after %s", w.timeout))
	defer cancel()
	masker, outputs, err := e.perform(timed, w, log, passes.pause)
	log.close()
	res := result{stage: w.planned.ID, attempt: w.number}
	res.cause, res.message = conclude(timed, err)
	// A kind that finished in spite of the hand-over did finish.
	res.interrupted = err != nil && errors.Is(context.Cause(ctx), pipeline.ErrHandover)
	res.message = clip(masker.String(res.message), maxMessage)
	if err != nil {
		return res
	}
	size := 0
	res.outputs = make(pipeline.Outputs, len(outputs))
	for name, value := range outputs {
		size += len(name) + len(value)
		res.outputs[name] = masker.String(value)
	}
	if size > maxOutputs {
		res.outputs, res.cause = nil, pipeline.CauseInvalid
		res.message = fmt.Sprintf("the stage's outputs are %d bytes in all, at most %d are allowed: hand large data on as files", size, maxOutputs)
	}
	return res
}

func (e *Engine) perform(ctx context.Context, w work, log *attemptLog, waiting func(bool)) (masker *mask.Masker, outputs pipeline.Outputs, err error) {
	kind := e.o.Kinds[w.planned.Kind]
	if kind == nil {
		return nil, nil, pipeline.Fail(pipeline.CauseInvalid, "this worker has no stage kind %q", w.planned.Kind)
	}
	stage, err := e.resolve(w.planned, w.plan, w.states)
	if err != nil {
		return nil, nil, pipeline.Fail(pipeline.CauseInvalid, "%w", err)
	}
	secrets, err := e.secrets(ctx, w, stage)
	if err != nil {
		return nil, nil, err
	}
	if masker, err = mask.New(secrets); err != nil {
		return nil, nil, pipeline.Fail(pipeline.CauseInvalid, "stage %q: %w", stage.ID, err)
	}
	a := pipeline.Attempt{
		RunID: w.run, Pipeline: w.plan.Pipeline, Number: w.number, Continued: w.continued,
		Event: w.plan.Event, Stage: stage, Needs: w.needs, Decisions: w.decisions, Waiting: waiting,
		Env: environmentOf(w, stage, e.o.Env, secrets),
	}
	if e.o.Workspaces != nil && stage.Kind != pipeline.KindApprove {
		directory, release, err := e.o.Workspaces.Workspace(ctx, w.run, w.plan, stage)
		if err != nil {
			return masker, nil, fmt.Errorf("prepare the workspace: %w", err)
		}
		defer release()
		a.Workspace = directory
	}
	stdout, stderr := log.stream("stdout", masker), log.stream("stderr", masker)
	a.Stdout, a.Stderr = stdout, stderr
	a.Progress = func(message string) {
		message = clip(masker.String(message), maxMessage)
		log.note(message)
		w.report(stage.ID, w.number, message)
	}
	defer func() {
		// What is held back at the end of a stream still counts.
		err = errors.Join(err, stdout.Close(), stderr.Close())
	}()
	outputs, err = runKind(ctx, kind, a, log, masker)
	return masker, outputs, err
}

// runKind turns a panic of a kind into a failed attempt.
func runKind(ctx context.Context, kind pipeline.Kind, a pipeline.Attempt, log *attemptLog, masker *mask.Masker) (outputs pipeline.Outputs, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			log.note(masker.String(fmt.Sprintf("panic: %v\n%s", reason, debug.Stack())))
			outputs, err = nil, pipeline.Fail(pipeline.CauseInfrastructure, "the %s stage kind panicked, which is a bug in Tidegate; the stack is in the log: %v", a.Stage.Kind, reason)
		}
	}()
	return kind.Run(ctx, a)
}

func (e *Engine) resolve(stage pipeline.PlannedStage, plan *pipeline.Plan, states map[string]pipeline.StageResult) (pipeline.PlannedStage, error) {
	if e.o.Resolve == nil {
		return stage, nil
	}
	return e.o.Resolve(stage, plan, states)
}

// secrets are for code of the repository itself only.
func (e *Engine) secrets(ctx context.Context, w work, stage pipeline.PlannedStage) (map[string]string, error) {
	if e.o.Secrets == nil || w.plan.Event.Trust != event.Own {
		return nil, nil
	}
	secrets, err := e.o.Secrets(ctx, w.run, w.plan, stage)
	if err != nil {
		return nil, fmt.Errorf("get the secrets of stage %q: %w", stage.ID, err)
	}
	return secrets, nil
}

// needs returns the outputs of every stage that the stage needs, directly or not.
func needs(state *journal.State, id string) map[string]pipeline.Outputs {
	seen := map[string]bool{}
	queue := slices.Clone(state.Planned(id).Needs)
	for i := 0; i < len(queue); i++ {
		if planned := state.Planned(queue[i]); planned != nil && !seen[queue[i]] {
			seen[queue[i]] = true
			queue = append(queue, planned.Needs...)
		}
	}
	out := make(map[string]pipeline.Outputs, len(seen))
	for id := range seen {
		out[id] = state.Stage(id).Outputs
	}
	return out
}

// conclude tells why an attempt did not succeed. An end of its context is the
// reason for what looks like a failure of the work, such as a killed command.
func conclude(ctx context.Context, err error) (pipeline.Cause, string) {
	if err == nil {
		return pipeline.CauseNone, ""
	}
	cause, message := pipeline.CauseOf(err), err.Error()
	var why *pipeline.Error
	if ctx.Err() == nil || !errors.As(context.Cause(ctx), &why) {
		return cause, message
	}
	switch cause {
	case pipeline.CauseFailed, pipeline.CauseInfrastructure, pipeline.CauseCancelled, pipeline.CauseTimeout:
		switch {
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			message = why.Error()
		case !strings.Contains(message, why.Error()):
			message = why.Error() + ": " + message
		}
		return why.Cause, message
	}
	return cause, message
}

// clip bounds a text without breaking a character.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + " …"
}
