package rollout

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/health"
)

// Defaults and limits of checks.
const (
	DefaultApprovalTimeout = 24 * time.Hour
	DefaultWebhookInterval = 10 * time.Second
	MinWebhookInterval     = time.Second
	MaxChecks              = 10
	maxCheckText           = 2 << 10
	maxCheckBytes          = 16 << 10 // of all checks of a strategy in the record
	maxApprovers           = 50
)

// Reasons that checks give.
const (
	GateFailed       health.Reason = "GateFailed"       // a job failed, a webhook or an expression said no, a person rejected
	GateInconclusive health.Reason = "GateInconclusive" // no answer until the deadline
)

// CheckGate is a gate that something or someone outside answers while a step
// serves: exactly one of Job, Webhook, Approval and CEL is set.
type CheckGate struct {
	Name     string        `json:"name"`
	Job      *JobGate      `json:"job,omitempty"`
	Webhook  *WebhookGate  `json:"webhook,omitempty"`
	Approval *ApprovalGate `json:"approval,omitempty"`
	CEL      *CELGate      `json:"cel,omitempty"`
	// Steps are those that it holds for, from 1; empty means all.
	Steps []int `json:"steps,omitempty"`
	// Timeout is how long an answer is waited for once the step serves and its
	// hold is over; 0 means the rollout's deadline, for an approval
	// DefaultApprovalTimeout. No answer by then takes the release back.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Advisory gates neither pass nor fail a step: they are facts for CEL.
	Advisory bool `json:"advisory,omitempty"`
}

// JobGate runs a Job once a step and passes when it completes.
type JobGate struct {
	// Manifest is the Job. It is kept with the revision's manifests, not in the record.
	Manifest *unstructured.Unstructured `json:"-"`
}

// WebhookGate asks a URL until it says pass or fail.
type WebhookGate struct {
	URL string `json:"url"`
	// Secret names the key that requests are signed with; nil sends them unsigned.
	Secret *SecretKey `json:"secret,omitempty"`
	// Interval between questions; 0 means DefaultWebhookInterval.
	Interval time.Duration `json:"interval,omitempty"`
}

// ApprovalGate waits for a person.
type ApprovalGate struct {
	// From lists people and groups; empty means anyone.
	From    []string `json:"from,omitempty"`
	Message string   `json:"message,omitempty"`
}

// CELGate judges the facts of all other gates.
type CELGate struct {
	// Pass is true when the step may pass, Fail when the release is to be taken back at once.
	Pass string `json:"pass"`
	Fail string `json:"fail,omitempty"`
}

// Kind is the word for it in the record and in pipelines.
func (g *CheckGate) Kind() string {
	switch {
	case g.Job != nil:
		return "job"
	case g.Webhook != nil:
		return "webhook"
	case g.Approval != nil:
		return "approval"
	}
	return "cel"
}

func (g *CheckGate) title() string { return g.Kind() + " " + g.Name }

// describe says in a few words what the gate asks for.
func (g *CheckGate) describe() string {
	text := ""
	switch {
	case g.Job != nil:
		text = "it must complete"
	case g.Webhook != nil:
		text = "it must say pass"
	case g.Approval != nil && len(g.Approval.From) == 0:
		text = "someone must approve"
	case g.Approval != nil:
		text = strings.Join(g.Approval.From, " or ") + " must approve"
	case g.CEL != nil:
		text = g.CEL.Pass
	}
	if g.Timeout > 0 {
		text += ", within " + g.Timeout.String()
	}
	if g.Advisory {
		text += " (advisory)"
	}
	return text
}

// Check is what one gate has answered in one step.
type Check struct {
	Step    int              `json:"step"`
	Gate    string           `json:"gate"`
	Kind    string           `json:"kind"`
	Outcome analysis.Outcome `json:"outcome"`
	Why     string           `json:"why"`
	By      string           `json:"by,omitempty"`
	At      time.Time        `json:"at"`
	// Asked counts the questions of a webhook.
	Asked int `json:"asked,omitempty"`
	// Trouble is why the last question had no answer, if it had none.
	Trouble string `json:"trouble,omitempty"`
	// Log is the end of what a job wrote.
	Log []string `json:"log,omitempty"`
	// Facts are what a webhook says beside its answer, for CEL.
	Facts json.RawMessage `json:"facts,omitempty"`
}

// holds tells whether the gate holds for a step.
func (g *CheckGate) holds(step int) bool {
	return len(g.Steps) == 0 || slices.Contains(g.Steps, step)
}

// asking tells whether gates are asked now: a step serves.
func (r *Rollout) asking() bool { return r.State.measured() && !r.StepReadyAt.IsZero() }

// present lists the gates of the present step.
func (r *Rollout) present() []*CheckGate {
	if r.openEntry() {
		return []*CheckGate{r.Entry}
	}
	var gates []*CheckGate
	for i := range r.Strategy.Checks {
		if g := &r.Strategy.Checks[i]; g.holds(r.Step) {
			gates = append(gates, g)
		}
	}
	return gates
}

// checkOf finds what a gate has answered in the present step; nil before it has.
func (r *Rollout) checkOf(gate string) *Check {
	for i := range r.Checks {
		if r.Checks[i].Step == r.Step && r.Checks[i].Gate == gate {
			return &r.Checks[i]
		}
	}
	return nil
}

// put records an answer and tells whether it says anything new. What is
// decided stays, but for expressions, which are judged anew whenever a fact changes.
func (r *Rollout) put(c Check) bool {
	c.Why, c.Trouble = clipText(c.Why), clipText(c.Trouble)
	known := r.checkOf(c.Gate)
	switch {
	case c.Step != r.Step:
		return false
	case known == nil:
		r.Checks = append(r.Checks, c)
	case known.Outcome != analysis.Inconclusive && known.Kind != "cel",
		known.Outcome == c.Outcome && known.Why == c.Why && known.Trouble == c.Trouble && known.Asked == c.Asked:
		return false
	default:
		*known = c
	}
	return true
}

// failedCheck is the failure of a gate that was answered with no.
func (r *Rollout) failedCheck() *Failure {
	for _, g := range r.present() {
		if c := r.checkOf(g.Name); !g.Advisory && c != nil && c.Outcome == analysis.Fail {
			return &Failure{Reason: GateFailed, Message: fmt.Sprintf("%s at step %d: %s", g.title(), r.Step, c.Why), Log: c.Log}
		}
	}
	return nil
}

// openCheck finds a gate that has not passed; nil when all have.
func (r *Rollout) openCheck() *CheckGate {
	for _, g := range r.present() {
		if c := r.checkOf(g.Name); !g.Advisory && (c == nil || c.Outcome != analysis.Pass) {
			return g
		}
	}
	return nil
}

// awaitsPerson tells whether nothing but people's approvals is open.
func (r *Rollout) awaitsPerson() bool {
	g := r.openCheck()
	return g != nil && g.Approval != nil && r.openMetric() == ""
}

// failedGate is the failure of any gate of the present step that found against the release.
func (r *Rollout) failedGate() *Failure {
	if f := r.failedMetric(); f != nil {
		return f
	}
	return r.failedCheck()
}

// openGate says which gate of the present step has not passed yet, and why;
// empty when all have.
func (r *Rollout) openGate() string {
	if open := r.openMetric(); open != "" {
		return open
	}
	if g := r.openCheck(); g != nil {
		return r.waiting(g)
	}
	return ""
}

// waiting says what an open gate waits for.
func (r *Rollout) waiting(g *CheckGate) string {
	c := r.checkOf(g.Name)
	switch {
	case c == nil && g.Approval != nil:
		text := fmt.Sprintf("%s: waits for %s", g.title(), cmp.Or(strings.Join(g.Approval.From, " or "), "anyone"))
		if g.Approval.Message != "" {
			text += ": " + g.Approval.Message
		}
		return text
	case c == nil:
		return g.title() + ": not asked yet"
	case c.Trouble != "":
		return fmt.Sprintf("%s: %s (%s)", g.title(), c.Why, c.Trouble)
	}
	return fmt.Sprintf("%s: %s", g.title(), c.Why)
}

// timeout is how long the gate may take in this rollout.
func (r *Rollout) timeout(g *CheckGate) time.Duration {
	switch {
	case g.Timeout > 0:
		return g.Timeout
	case g.Approval != nil:
		return DefaultApprovalTimeout
	}
	return r.Deadline
}

// patience is how long the present step may take beyond its hold: its slowest
// gate decides. It does not depend on what was answered, so that no deadline moves.
func (r *Rollout) patience() time.Duration {
	longest := r.Deadline
	for _, g := range r.present() {
		if !g.Advisory {
			longest = max(longest, r.timeout(g))
		}
	}
	return longest
}

// unanswered is the failure of a gate that is open past its own deadline, or
// else when that is; live is how long the step's pods must serve.
func (r *Rollout) unanswered(live time.Duration, now time.Time) (*Failure, time.Time) {
	var next time.Time
	if open := r.openMetric(); open != "" {
		next = r.StepReadyAt.Add(live + r.Deadline)
		if !now.Before(next) {
			return &Failure{Reason: MetricInconclusive, Message: fmt.Sprintf("no answer within %s: %s", r.Deadline, open)}, next
		}
	}
	for _, g := range r.present() {
		if c := r.checkOf(g.Name); g.Advisory || c != nil && c.Outcome == analysis.Pass {
			continue
		}
		at := r.StepReadyAt.Add(live + r.timeout(g))
		if !now.Before(at) {
			f := &Failure{Reason: GateInconclusive, Message: fmt.Sprintf("no answer within %s: %s", r.timeout(g), r.waiting(g))}
			if c := r.checkOf(g.Name); c != nil {
				f.Log = c.Log
			}
			return f, at
		}
		next = sooner(next, at)
	}
	return nil, next
}

// checkProofs are the proofs of the gates that passed; advisory ones say what they say.
func (r *Rollout) checkProofs() []Gate {
	var gates []Gate
	for _, g := range r.present() {
		if c := r.checkOf(g.Name); c != nil {
			gates = append(gates, Gate{Step: r.Step, Kind: g.title(), Passed: c.Outcome == analysis.Pass, Evidence: c.Why, By: c.By, At: c.At})
		}
	}
	return gates
}

// checkChecks fills in defaults and says what makes no sense.
func checkChecks(s *Strategy) error {
	if len(s.Checks) == 0 {
		return nil
	}
	if s.inPlace() {
		return fmt.Errorf("%w: gates need a strategy with steps: canary or blue-green", ErrInvalid)
	}
	if len(s.Checks) > MaxChecks {
		return fmt.Errorf("%w: %d gates beside metrics; at most %d", ErrInvalid, len(s.Checks), MaxChecks)
	}
	names := map[string]bool{}
	for _, m := range s.Metrics {
		names[m.Name] = true
	}
	for i := range s.Checks {
		g := &s.Checks[i]
		if err := g.check(s.phases()); err != nil {
			return fmt.Errorf("%w: gate %s: %w", ErrInvalid, g.Name, err)
		}
		if names[g.Name] {
			return fmt.Errorf("%w: two gates are named %s", ErrInvalid, g.Name)
		}
		names[g.Name] = true
	}
	encoded, err := json.Marshal(s.Checks)
	if err != nil {
		return fmt.Errorf("%w: gates: %w", ErrInvalid, err)
	}
	if len(encoded) > maxCheckBytes {
		return fmt.Errorf("%w: the gates are %d bytes; at most %d fit the record", ErrInvalid, len(encoded), maxCheckBytes)
	}
	return nil
}

// phases is how many times gates are asked: at each step of a canary, and
// before and after the switch of blue-green.
func (s *Strategy) phases() int {
	if s.Kind == BlueGreenStrategy {
		return 2
	}
	return len(s.Steps)
}

func (g *CheckGate) check(steps int) error {
	kinds := 0
	for _, set := range []bool{g.Job != nil, g.Webhook != nil, g.Approval != nil, g.CEL != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case !gateName().MatchString(g.Name):
		return fmt.Errorf("name %q: use letters, digits, - and _", g.Name)
	case kinds != 1:
		return errors.New("give one of job, webhook, approval and cel")
	case g.Timeout < 0 || g.Timeout > MaxHold:
		return fmt.Errorf("timeout %s: use up to %s", g.Timeout, MaxHold)
	case g.Advisory && g.CEL != nil:
		return errors.New("an expression cannot be advisory: nothing would judge it")
	}
	for _, step := range g.Steps {
		if step < 1 || step > steps {
			return fmt.Errorf("step %d: there are steps 1 to %d", step, steps)
		}
	}
	switch {
	case g.Job != nil && g.Job.Manifest != nil:
		return checkJob(g.Job.Manifest)
	case g.Job != nil:
		return errors.New("it has no Job")
	case g.Webhook != nil:
		return g.Webhook.check()
	case g.Approval != nil && (len(g.Approval.From) > maxApprovers || len(g.Approval.Message) > maxCheckText):
		return fmt.Errorf("at most %d approvers and %d bytes of message", maxApprovers, maxCheckText)
	case g.CEL != nil:
		return g.CEL.check()
	}
	return nil
}
