// Package rollout moves an application in a cluster from one release to the
// next, promotes only through passing gates and goes back by itself.
//
// It is level-triggered: observe the cluster, decide (a pure function), act
// (one write), record. The record lives in the cluster, so any process may go
// on where another stopped. See README.md for states, gates and reasons.
package rollout

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// Defaults of a rollout that sets nothing.
const (
	// DefaultBake is how long new pods must stay good before they count. It is
	// longer than most versions need to crash after they turned ready; zero is
	// faster and means a version may replace everything before it crashes.
	DefaultBake = 10 * time.Second
	// DefaultDeadline bounds the time without progress.
	DefaultDeadline = 5 * time.Minute
)

// Limits.
const (
	MaxHistory    = 10 // revisions whose manifests are kept
	MaxSteps      = 50
	MaxBake       = time.Hour
	MaxHold       = 7 * 24 * time.Hour
	MaxDeadline   = 24 * time.Hour
	maxAppLength  = 40
	maxGates      = 2 * MaxSteps
	maxPath       = 2 * MaxSteps
	maxLogLines   = 20
	maxLogBytes   = 4 << 10
	maxRecordText = 1 << 10
)

// StrategyKind names a strategy.
type StrategyKind string

// The strategies.
const (
	RollingStrategy StrategyKind = "rolling" // the workload's own controller updates it in place
	CanaryStrategy  StrategyKind = "canary"  // a second workload beside the untouched stable one
	// BlueGreenStrategy runs the whole new version beside the old one and then
	// switches the live Services over, at once.
	BlueGreenStrategy StrategyKind = "blue-green"
	// RecreateStrategy removes the old pods of a Deployment before the new ones
	// come: for versions that must not run side by side. It has an outage.
	RecreateStrategy StrategyKind = "recreate"
)

// Strategy says how the move is made; the zero value is rolling.
type Strategy struct {
	Kind  StrategyKind `json:"kind,omitempty"`
	Steps []Step       `json:"steps,omitempty"` // of a canary
	// Batch is how many pods of a StatefulSet a rolling update replaces between two
	// gates, such as "2" or "25%"; "" means DefaultBatch.
	Batch string `json:"batch,omitempty"`
	// Traffic names routes by which a canary gets exactly its share; none means by
	// the number of its pods.
	Traffic []TrafficRoute `json:"traffic,omitempty"`
	// BlueGreen holds the settings of that strategy.
	BlueGreen *BlueGreen `json:"blueGreen,omitempty"`
	// Metrics are gates of every canary step, and of blue-green before and after
	// the switch, beside the health of its pods.
	Metrics []MetricGate `json:"metrics,omitempty"`
	// Checks are gates that a job, a webhook, a person or an expression answers.
	Checks []CheckGate `json:"checks,omitempty"`
}

// inPlace tells whether the stable workload is written to from the start.
func (s Strategy) inPlace() bool {
	return s.Kind != CanaryStrategy && s.Kind != BlueGreenStrategy
}

// Step of a canary: Weight percent of the stable workload's replicas, rounded
// up, run the new version, for at least Hold once they are healthy. With a
// router they get Weight percent of the requests, and those that Match picks.
type Step struct {
	Weight int            `json:"weight"`
	Hold   time.Duration  `json:"hold,omitempty"`
	Match  *traffic.Match `json:"match,omitempty"`
}

// Request asks for a release to be rolled out.
type Request struct {
	App       string // names the record; a DNS label of at most 40 characters
	Namespace string
	Release   *manifest.Release
	Strategy  Strategy
	// Bake is how long new pods must stay good; nil means DefaultBake.
	Bake *time.Duration
	// Deadline bounds the time without progress; 0 means DefaultDeadline.
	Deadline time.Duration
	// Force takes over fields that others changed since Tidegate's last apply.
	Force bool
	// Freeze are the windows of the environment in which no release is begun; nil
	// means those that the last request had. Override begins it all the same, and says why.
	Freeze   []Window
	Override string
	// Window bounds rollbacks from now on; nil leaves what the last request said.
	Window *RollbackWindow
	// Hooks are Jobs that run around the release.
	Hooks []Hook
	// Entry is an approval that it waits for before it begins, for EntryTimeout at
	// the longest (0 means DefaultApprovalTimeout); nil means none.
	Entry        *ApprovalGate
	EntryTimeout time.Duration
	// Readiness says when custom resources are ready; without a rule for a kind
	// its conditions tell.
	Readiness []Readiness
	// By, Commit and RunID say who asked, for which commit, in which run. The
	// same Release with the same RunID continues a rollout that a dead process left.
	By, Commit, RunID string
	// From says where its images were proven; nil when nowhere.
	From *Provenance
	// Source is the repository that it came from; nil when that is not known.
	Source *Source
	// OnRollback is what is asked for when it is taken back by itself; empty: nothing.
	OnRollback OnRollback
}

// check fills in defaults and refuses what makes no sense.
func (r *Request) check() error {
	if errs := validation.IsDNS1123Label(r.App); len(errs) > 0 || len(r.App) > maxAppLength {
		return fmt.Errorf("%w: application name %q: use at most %d lower-case letters, digits and dashes", ErrInvalid, r.App, maxAppLength)
	}
	if r.Namespace == "" {
		return fmt.Errorf("%w: no namespace given", ErrInvalid)
	}
	if r.Release == nil || len(r.Release.Objects) == 0 {
		return fmt.Errorf("%w: the release holds no objects", ErrInvalid)
	}
	if r.Deadline == 0 {
		r.Deadline = DefaultDeadline
	}
	if r.Deadline < time.Second || r.Deadline > MaxDeadline {
		return fmt.Errorf("%w: deadline %s: use 1s to %s", ErrInvalid, r.Deadline, MaxDeadline)
	}
	if r.Bake == nil {
		bake := DefaultBake
		r.Bake = &bake
	}
	if *r.Bake < 0 || *r.Bake > MaxBake {
		return fmt.Errorf("%w: bake time %s: use 0s to %s", ErrInvalid, *r.Bake, MaxBake)
	}
	if len(r.Strategy.Metrics) > 0 && r.Strategy.inPlace() {
		return fmt.Errorf("%w: metric gates need the strategy canary or blue-green", ErrInvalid)
	}
	if err := checkMetrics(&r.Strategy); err != nil {
		return err
	}
	if err := checkChecks(&r.Strategy); err != nil {
		return err
	}
	if err := checkWindows(r.Freeze); err != nil {
		return err
	}
	if err := r.Window.check(); err != nil {
		return err
	}
	if err := checkHooks(r.Hooks); err != nil {
		return err
	}
	if entry := entryGate(r.Entry, r.EntryTimeout); entry != nil {
		if err := entry.check(0); err != nil {
			return fmt.Errorf("%w: the approval to begin: %w", ErrInvalid, err)
		}
	}
	if err := checkReadiness(r.Readiness); err != nil {
		return err
	}
	for _, job := range r.jobs() {
		if err := checkSelected(job, r.Release); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	if err := r.Strategy.checkBatch(); err != nil {
		return err
	}
	if err := r.Strategy.checkTraffic(); err != nil {
		return err
	}
	switch r.Strategy.Kind {
	case "":
		r.Strategy.Kind = RollingStrategy
	case RollingStrategy, RecreateStrategy:
	case CanaryStrategy:
		if len(r.Strategy.Steps) == 0 || len(r.Strategy.Steps) > MaxSteps {
			return fmt.Errorf("%w: a canary needs 1 to %d steps", ErrInvalid, MaxSteps)
		}
		for i, step := range r.Strategy.Steps {
			if step.Weight < 0 || step.Weight > 100 || step.Weight == 0 && step.Match == nil {
				return fmt.Errorf("%w: canary step %d: weight %d: use 1 to 100, or 0 beside a match", ErrInvalid, i+1, step.Weight)
			}
			if step.Hold < 0 || step.Hold > MaxHold {
				return fmt.Errorf("%w: canary step %d: hold %s: use 0s to %s", ErrInvalid, i+1, step.Hold, MaxHold)
			}
		}
	case BlueGreenStrategy:
		return r.Strategy.checkBlueGreen()
	default:
		return fmt.Errorf("%w: unknown strategy %q: use rolling, canary, blue-green or recreate", ErrInvalid, r.Strategy.Kind)
	}
	return nil
}

// Gate is what was judged before the rollout advanced. Without one that passed
// there is no way forward; see transitions.
type Gate struct {
	// Step of the canary, from 1; in blue-green 1 is before the switch and 2
	// after it; of Kind "batch" it counts batches; 0 is the workload itself.
	Step int `json:"step"`
	// Kind is "health" or "batch"; "metric", "job", "webhook", "approval" or "cel"
	// with the gate's name; or "manual" when a person promoted.
	Kind     string    `json:"kind"`
	Passed   bool      `json:"passed"`
	Evidence string    `json:"evidence"`
	By       string    `json:"by,omitempty"`
	At       time.Time `json:"at"`
	// Wave that it ended, from 1; 0 when the release has but one.
	Wave int `json:"wave,omitempty"`
}

// Failure is why a release was not kept.
type Failure struct {
	Reason    health.Reason     `json:"reason"`
	Message   string            `json:"message"`
	Workload  string            `json:"workload,omitempty"`
	Container *health.Container `json:"container,omitempty"`
	// Log holds the last lines of the failing container.
	Log []string `json:"log,omitempty"`
}

// Ending says why a rollout did not go to its end; empty while it may.
type Ending string

// The endings.
const (
	EndedByFailure  Ending = "failed"
	EndedByAbort    Ending = "aborted"
	EndedBySuperior Ending = "superseded"
)

// Rollout is the move to one revision, live or past.
type Rollout struct {
	Revision int           `json:"revision"`
	Digest   string        `json:"digest"`
	Strategy Strategy      `json:"strategy"`
	Bake     time.Duration `json:"bake"`
	Deadline time.Duration `json:"deadline"`
	By       string        `json:"by,omitempty"`
	Commit   string        `json:"commit,omitempty"`
	RunID    string        `json:"runID,omitempty"`
	Images   []string      `json:"images,omitempty"`
	// From says where its images were proven; nil when nowhere.
	From   *Provenance `json:"from,omitempty"`
	Source *Source     `json:"source,omitempty"`
	// OnRollback is what is asked for when it is taken back by itself.
	OnRollback OnRollback `json:"onRollback,omitempty"`
	// RollbackTo is the revision whose content a manual rollback puts back.
	RollbackTo int `json:"rollbackTo,omitempty"`
	// RestartedAt is in the pod templates since someone restarted this release;
	// zero when nobody has.
	RestartedAt time.Time `json:"restartedAt,omitzero"`
	// Note tells what a person should know: objects taken over, a strategy that could not be used.
	Note string `json:"note,omitempty"`

	State State `json:"state"`
	// Base is the verified revision to go back to; 0 when there is none.
	Base int `json:"base,omitempty"`
	// Step counts from 1 in state canary. Canaries are the workloads that have one.
	Step     int            `json:"step,omitempty"`
	Canaries []manifest.Ref `json:"canaries,omitempty"`
	// Partitioned are StatefulSets that are moved in batches.
	Partitioned []manifest.Ref `json:"partitioned,omitempty"`
	// Previews are the workloads of blue-green that run twice, Services those
	// that are switched, or narrowed while routes give the canary its share.
	Previews []manifest.Ref `json:"previews,omitempty"`
	Services []LiveService  `json:"services,omitempty"`
	// Waves are what is waited for in each wave, nil when everything is written at
	// once; Wave is the present one, from 0, CanaryWave that of the canary.
	Waves [][]manifest.Ref `json:"waves,omitempty"`
	Wave  int              `json:"wave,omitempty"`
	// Reversed tells that the waves are in the opposite order: of a rollback.
	Reversed   bool `json:"reversed,omitempty"`
	CanaryWave int  `json:"canaryWave,omitempty"`
	// Readiness are the rules for custom resources.
	Readiness []Readiness `json:"readiness,omitempty"`
	Routes    []LiveRoute `json:"routes,omitempty"`
	// TakenOver are objects that others made and this release takes over.
	TakenOver []manifest.Ref `json:"takenOver,omitempty"`
	// StableTouched is set before the first write to a stable workload.
	StableTouched bool `json:"stableTouched,omitempty"`
	// Restored is set when the base has been applied again.
	Restored bool `json:"restored,omitempty"`

	Started time.Time `json:"started"`
	// StateSince is when the state or step began, StepReadyAt when its pods were
	// first all ready, LastProgress when Peak, the most pods available at once,
	// last rose. None is moved by pods that go and come back.
	StateSince   time.Time `json:"stateSince"`
	StepReadyAt  time.Time `json:"stepReadyAt,omitzero"`
	LastProgress time.Time `json:"lastProgress,omitzero"`
	Peak         int32     `json:"peak,omitempty"`
	Finished     time.Time `json:"finished,omitzero"`

	// Path is the states and steps that it entered after it was accepted, and when.
	Path []Passage `json:"path,omitempty"`

	Paused   bool      `json:"paused,omitempty"`
	PausedBy string    `json:"pausedBy,omitempty"`
	PausedAt time.Time `json:"pausedAt,omitzero"`

	Ending  Ending   `json:"ending,omitempty"`
	EndedBy string   `json:"endedBy,omitempty"`
	Failure *Failure `json:"failure,omitempty"`
	Gates   []Gate   `json:"gates,omitempty"`
	// Said are the commands that were given to it, oldest first, the newest kept.
	Said []Said `json:"said,omitempty"`
	// Analyses are what metric gates have seen, by step.
	Analyses []Analysis `json:"analyses,omitempty"`
	// Freeze are the windows that may hold it before it begins, Override who said
	// that they do not, and why.
	Freeze   []Window `json:"freeze,omitempty"`
	Override string   `json:"override,omitempty"`
	// Entry is the approval that it waits for before it begins.
	Entry *CheckGate `json:"entry,omitempty"`
	// Hooks are Jobs around the release, HookRuns how they went.
	Hooks    []Hook    `json:"hooks,omitempty"`
	HookRuns []HookRun `json:"hookRuns,omitempty"`
	// Checks are what the other gates have answered, by step.
	Checks []Check `json:"checks,omitempty"`
}

// Passage is when a rollout entered a state, or a step of it.
type Passage struct {
	State State     `json:"state"`
	Step  int       `json:"step,omitempty"`
	At    time.Time `json:"at"`
}

// Verified tells whether the revision passed its gates and is fit to be gone back to.
func (r *Rollout) Verified() bool { return r.State == Verified }

// Sentence tells in one line how the rollout stands, for people.
func (r *Rollout) Sentence() string {
	why := ""
	if r.Failure != nil {
		why = ": " + r.Failure.Message
	}
	switch r.State {
	case Verified:
		return fmt.Sprintf("revision %d is verified", r.Revision)
	case RolledBack:
		if r.Ending == EndedByAbort {
			return fmt.Sprintf("revision %d was aborted by %s; revision %d serves", r.Revision, orUnknown(r.EndedBy), r.Base)
		}
		return fmt.Sprintf("revision %d was rolled back to revision %d%s", r.Revision, r.Base, why)
	case Failed:
		return fmt.Sprintf("revision %d failed%s", r.Revision, why)
	case Superseded:
		return fmt.Sprintf("revision %d was superseded by %s", r.Revision, orUnknown(r.EndedBy))
	case RollingBack:
		if r.Ending == EndedByAbort {
			return fmt.Sprintf("revision %d is being taken back, asked for by %s", r.Revision, orUnknown(r.EndedBy))
		}
		return fmt.Sprintf("revision %d is being rolled back%s", r.Revision, why)
	case Canary:
		s := r.Strategy.Steps[r.Step-1]
		return fmt.Sprintf("revision %d: canary step %d of %d, %s", r.Revision, r.Step, len(r.Strategy.Steps), r.Strategy.split(s))
	case Preview, Switched:
		return r.blueGreenSentence()
	case Rolling:
		switch {
		case r.Strategy.Kind == RecreateStrategy:
			return fmt.Sprintf("revision %d is being recreated: the old pods go before the new ones come, and nothing serves between", r.Revision)
		case len(r.Partitioned) > 0:
			return fmt.Sprintf("revision %d is rolling, batch %d%s", r.Revision, max(r.Step, 1), r.waveText())
		}
	}
	return fmt.Sprintf("revision %d is %s%s", r.Revision, r.State, r.waveText())
}

func orUnknown(by string) string {
	if by == "" {
		return "unknown"
	}
	return by
}

// Record is all that Tidegate knows about an application in a namespace. It is
// kept there, in the ConfigMap tidegate-<app>; the manifests of each revision
// are in the Secret tidegate-<app>-r<revision>.
type Record struct {
	App       string `json:"app"`
	Namespace string `json:"namespace"`
	// Fence is the number of ownerships so far; a writer that carries an older
	// one has lost the application.
	Fence int64 `json:"fence"`
	// Owner is who may write; nil when nobody drives. Driven is when the last owner
	// wrote, by its clock.
	Owner  *Owner    `json:"owner,omitempty"`
	Driven time.Time `json:"driven,omitzero"`
	// Revisions counts revisions ever made; Verified is the last verified one,
	// Stable the one last written to the stable workloads.
	Revisions int `json:"revisions"`
	Verified  int `json:"verified,omitempty"`
	Stable    int `json:"stable,omitempty"`
	// Current is the live rollout or the last one; History holds finished ones, newest first.
	Current *Rollout  `json:"current,omitempty"`
	History []Rollout `json:"history,omitempty"`
	// Freeze are the environment's windows, as the last request that knew them had them.
	Freeze []Window `json:"freeze,omitempty"`
	// Window is the environment's for rollbacks, as the last request that knew it had it.
	Window *RollbackWindow `json:"window,omitempty"`
	// Outbox holds transitions that are to be told; nil when nobody wants them.
	Outbox *Outbox `json:"outbox,omitempty"`
	// Inventory lists objects that were applied and not pruned.
	Inventory []manifest.Ref `json:"inventory,omitempty"`
	// Command waits for the owner; Reply answers the last one.
	Command *Command `json:"command,omitempty"`
	Reply   *Reply   `json:"reply,omitempty"`
}

// empty tells that nothing has come of the record yet: its first owner was
// refused, or is about to begin.
func (r *Record) empty() bool { return r.Revisions == 0 && r.Current == nil }

// Live tells whether a rollout is under way.
func (r *Record) Live() bool { return r.Current != nil && !r.Current.State.Final() }

// digest is that of a revision's release; empty when the record has forgotten it.
func (r *Record) digest(revision int) string {
	if known := r.Revision(revision); known != nil {
		return known.Digest
	}
	return ""
}

// Revision finds a revision in current and history; nil when it is gone.
func (r *Record) Revision(number int) *Rollout {
	if r.Current != nil && r.Current.Revision == number {
		return r.Current
	}
	for i := range r.History {
		if r.History[i].Revision == number {
			return &r.History[i]
		}
	}
	return nil
}

// Errors that callers branch on.
var (
	ErrInvalid    = errors.New("invalid")    // what was asked for makes no sense
	ErrRefused    = errors.New("refused")    // a command or release that cannot be accepted now
	ErrRejected   = errors.New("rejected")   // the API server does not accept the manifests; nothing was changed
	ErrFailed     = errors.New("failed")     // the release did not become healthy
	ErrAborted    = errors.New("aborted")    // taken back because someone asked for it
	ErrSuperseded = errors.New("superseded") // a newer release took over
	ErrNotFound   = errors.New("no such application or revision")
	ErrLost       = errors.New("another process owns this rollout now")
)
