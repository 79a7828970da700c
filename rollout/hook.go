package rollout

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/health"
)

// HookPhase is when a hook runs.
type HookPhase string

// The phases.
const (
	BeforeHook  HookPhase = "before"     // before anything is written; a failure leaves everything as it is
	AfterHook   HookPhase = "after"      // when all pods are good; a failure takes the release back
	FailureHook HookPhase = "on-failure" // when what failed has been taken back; its own end changes nothing
)

// MaxHooks of one release.
const MaxHooks = 20

// HookFailed says that a hook's Job failed, or did not end in time.
const HookFailed health.Reason = "HookFailed"

// Hook is a Job that runs once in a release.
type Hook struct {
	Name  string    `json:"name"`
	Phase HookPhase `json:"phase"`
	// Timeout bounds it; 0 means the rollout's deadline.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Manifest is the Job. It is kept with the revision's manifests, not in the record.
	Manifest *unstructured.Unstructured `json:"-"`
}

func (h *Hook) title() string { return "hook " + string(h.Phase) + " " + h.Name }

// key of its Job among those of the revision.
func (h *Hook) key() string { return "hook " + h.Name }

func checkHooks(hooks []Hook) error {
	if len(hooks) > MaxHooks {
		return fmt.Errorf("%w: %d hooks; at most %d", ErrInvalid, len(hooks), MaxHooks)
	}
	names := map[string]bool{}
	for i := range hooks {
		h := &hooks[i]
		switch {
		case !gateName().MatchString(h.Name):
			return fmt.Errorf("%w: hook %q: use letters, digits, - and _", ErrInvalid, h.Name)
		case names[h.Name]:
			return fmt.Errorf("%w: two hooks are named %s", ErrInvalid, h.Name)
		case h.Phase != BeforeHook && h.Phase != AfterHook && h.Phase != FailureHook:
			return fmt.Errorf("%w: hook %s: phase %q: use before, after or on-failure", ErrInvalid, h.Name, h.Phase)
		case h.Timeout < 0 || h.Timeout > MaxDeadline:
			return fmt.Errorf("%w: hook %s: timeout %s: use up to %s", ErrInvalid, h.Name, h.Timeout, MaxDeadline)
		case h.Manifest == nil:
			return fmt.Errorf("%w: hook %s: it has no Job", ErrInvalid, h.Name)
		}
		if err := checkJob(h.Manifest); err != nil {
			return fmt.Errorf("%w: hook %s: %w", ErrInvalid, h.Name, err)
		}
		names[h.Name] = true
	}
	return nil
}

// HookRun is how a hook went. At is when it was begun.
type HookRun struct {
	Hook    string           `json:"hook"`
	Outcome analysis.Outcome `json:"outcome"`
	Why     string           `json:"why"`
	At      time.Time        `json:"at"`
	Log     []string         `json:"log,omitempty"`
}

func (r *Rollout) hookRun(name string) *HookRun {
	for i := range r.HookRuns {
		if r.HookRuns[i].Hook == name {
			return &r.HookRuns[i]
		}
	}
	return nil
}

// hooksOf lists the hooks of a phase, in their order.
func (r *Rollout) hooksOf(phase HookPhase) []*Hook {
	var hooks []*Hook
	for i := range r.Hooks {
		if r.Hooks[i].Phase == phase {
			hooks = append(hooks, &r.Hooks[i])
		}
	}
	return hooks
}

// hookTime is how long the hooks of a phase may take together: a pod that goes
// away for a moment while they run is no failure.
func (r *Rollout) hookTime(phase HookPhase) time.Duration {
	var all time.Duration
	for _, h := range r.hooksOf(phase) {
		all += cmp.Or(h.Timeout, r.Deadline)
	}
	return all
}

// hooked sees the hooks of a phase through, one after another: the action that
// begins or waits for one, the failure of one, or neither when all have ended well.
func (r *Rollout) hooked(phase HookPhase, now time.Time) (_ Action, busy bool, _ *Failure) {
	for _, h := range r.hooksOf(phase) {
		timeout := cmp.Or(h.Timeout, r.Deadline)
		run := r.hookRun(h.Name)
		if run == nil {
			return Action{Kind: BeginHook, Hook: h.Name, Why: h.title() + " begins"}, true, nil
		}
		deadline := run.At.Add(timeout)
		switch {
		case run.Outcome == analysis.Pass:
		case run.Outcome == analysis.Fail:
			if phase != FailureHook {
				return Action{}, false, &Failure{Reason: HookFailed, Message: fmt.Sprintf("%s: %s", h.title(), run.Why), Log: run.Log}
			}
		case !now.Before(deadline):
			if phase != FailureHook {
				return Action{}, false, &Failure{Reason: HookFailed, Message: fmt.Sprintf("%s did not end within %s: %s", h.title(), timeout, run.Why), Log: run.Log}
			}
		default:
			return Action{Kind: Wait, Until: deadline, Why: fmt.Sprintf("%s: %s", h.title(), run.Why)}, true, nil
		}
	}
	return Action{}, false, nil
}

// withHooks puts the hooks of the present state before what next is about to
// do: those before it, those after it, and those of a failure.
func withHooks(r *Rollout, next Action, now time.Time) Action {
	if next.Move == nil {
		return next
	}
	var phase HookPhase
	switch {
	case r.State == Pending && next.Move.To == Applying:
		phase = BeforeHook
	case r.State == Rolling && next.Move.To == Finishing:
		phase = AfterHook
	case r.State == RollingBack && next.Move.To.Final() && r.Ending == EndedByFailure:
		phase = FailureHook
	default:
		return next
	}
	a, busy, failed := r.hooked(phase, now)
	switch {
	case busy:
		return a
	case failed != nil:
		return Action{Kind: Advance, Why: failed.Message, Move: &Move{To: RollingBack, Ending: EndedByFailure, Failure: failed}}
	}
	if next.Move.Proof != nil {
		for _, h := range r.hooksOf(phase) {
			run := r.hookRun(h.Name)
			next.Move.Proof.metrics = append(next.Move.Proof.metrics, Gate{Kind: h.title(), Passed: true, Evidence: run.Why, At: run.At})
		}
	}
	return next
}

// hookJobs are the Jobs of the hooks, by their keys.
func hookJobs(hooks []Hook) map[string]*unstructured.Unstructured {
	jobs := map[string]*unstructured.Unstructured{}
	for i := range hooks {
		jobs[hooks[i].key()] = hooks[i].Manifest
	}
	return jobs
}

// hookRunner sees the Job of the hook that runs to its end.
type hookRunner struct {
	revision int
	name     string
	stop     func()

	mu   sync.Mutex
	said []HookRun
}

// tendHooks keeps a runner going for the hook that the record says is running,
// and tells whether the record has become different.
func (d *driver) tendHooks(ctx context.Context) bool {
	r := d.record.Current
	var running *Hook
	for i := range r.Hooks {
		if run := r.hookRun(r.Hooks[i].Name); run != nil && run.Outcome == analysis.Inconclusive && slices.Contains(phasesIn(r.State), r.Hooks[i].Phase) {
			running = &r.Hooks[i]
		}
	}
	changed := false
	if h := d.hook; h != nil {
		h.mu.Lock()
		for _, said := range h.said {
			if known := r.hookRun(said.Hook); known != nil && h.revision == r.Revision && (known.Outcome != said.Outcome || known.Why != said.Why) {
				known.Outcome, known.Why, known.Log = said.Outcome, clipText(said.Why), said.Log
				changed = true
			}
		}
		h.said = nil
		h.mu.Unlock()
		if running == nil || h.revision != r.Revision || h.name != running.Name {
			h.stop()
			d.hook = nil
		}
	}
	if running != nil && d.hook == nil && r.hookRun(running.Name).Outcome == analysis.Inconclusive {
		d.hook = d.runHook(ctx, r, *running)
	}
	return changed
}

// phasesIn lists the hooks that may run in a state.
func phasesIn(state State) []HookPhase {
	switch state {
	case Pending:
		return []HookPhase{BeforeHook}
	case Rolling:
		return []HookPhase{AfterHook}
	case RollingBack:
		return []HookPhase{FailureHook}
	}
	return nil
}

func (d *driver) runHook(ctx context.Context, r *Rollout, h Hook) *hookRunner {
	ctx, cancel := context.WithCancel(ctx)
	runner := &hookRunner{revision: r.Revision, name: h.Name}
	env := d.question(r).environment(nil)
	env["TIDEGATE_HOOK"] = string(h.Phase)
	if r.Failure != nil {
		env["TIDEGATE_FAILURE"], env["TIDEGATE_FAILURE_MESSAGE"] = string(r.Failure.Reason), r.Failure.Message
	}
	timeout := cmp.Or(h.Timeout, r.Deadline)
	template := d.jobs[h.key()]
	var running sync.WaitGroup
	running.Go(func() {
		d.runTask(ctx, template, r.Revision, task{key: h.key(), purpose: hookPurpose, deadline: timeout, env: env},
			func(outcome analysis.Outcome, why, trouble string, log []string) {
				if trouble != "" {
					why += " (" + trouble + ")"
				}
				runner.mu.Lock()
				runner.said = append(runner.said, HookRun{Hook: h.Name, Outcome: outcome, Why: why, Log: log})
				runner.mu.Unlock()
				d.watch.notify()
			})
	})
	runner.stop = func() {
		cancel()
		running.Wait()
	}
	return runner
}
