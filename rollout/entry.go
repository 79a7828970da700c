package rollout

import (
	"cmp"
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
)

// EntryGate is the name of the approval that a release waits for before it begins.
const EntryGate = "entry"

// entryGate makes the gate of a request.
func entryGate(approval *ApprovalGate, timeout time.Duration) *CheckGate {
	if approval == nil {
		return nil
	}
	return &CheckGate{Name: EntryGate, Approval: approval, Timeout: timeout}
}

// enters is the wait for the approval that the release may begin, and the end
// of one that was rejected, or not answered in time: nothing has been changed by then.
func (r *Rollout) enters(now time.Time) (Action, bool) {
	if r.Entry == nil || len(r.HookRuns) > 0 { // its hooks have begun it
		return Action{}, false
	}
	c := r.checkOf(r.Entry.Name)
	deadline := r.StateSince.Add(r.timeout(r.Entry))
	var failed *Failure
	switch {
	case c != nil && c.Outcome == analysis.Pass:
		return Action{}, false
	case c != nil && c.Outcome == analysis.Fail:
		failed = &Failure{Reason: GateFailed, Message: fmt.Sprintf("%s: %s; nothing was changed", r.Entry.title(), c.Why)}
	case !now.Before(deadline):
		failed = &Failure{Reason: GateInconclusive, Message: fmt.Sprintf("no answer within %s: %s; nothing was changed", r.timeout(r.Entry), r.waiting(r.Entry))}
	default:
		return Action{Kind: Wait, Until: deadline, Held: true, Why: r.waiting(r.Entry) + `; "approve" begins it`}, true
	}
	return Action{Kind: Advance, Why: failed.Message, Move: &Move{To: Failed, Ending: EndedByFailure, Failure: failed}}, true
}

// entryProof is the gate of a release that was let begin; nil when none was needed.
func (r *Rollout) entryProof() *proof {
	if r.Entry == nil {
		return nil
	}
	c := r.checkOf(r.Entry.Name)
	if c == nil {
		return nil
	}
	return &proof{gate: Gate{Kind: r.Entry.title(), Passed: c.Outcome == analysis.Pass, Evidence: cmp.Or(c.Why, "approved"), By: c.By, At: c.At}}
}

// openEntry tells whether the release waits for someone to let it begin, or has.
func (r *Rollout) openEntry() bool { return r.State == Pending && r.Entry != nil }
