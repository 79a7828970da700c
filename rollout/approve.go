package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
)

// mayDecide tells whether the one who gave the command, or a group of theirs, is
// asked by the gate.
func (g *ApprovalGate) mayDecide(command Command) bool {
	if len(g.From) == 0 {
		return true
	}
	return slices.ContainsFunc(g.From, func(entry string) bool {
		return entry != "" && (entry == command.By || slices.Contains(command.Groups, entry))
	})
}

// groupsOf lists the groups of a person that approvals of the rollout name.
func (r *Rollout) groupsOf(user string, member func(user, group string) bool) []string {
	var groups []string
	asked := r.Strategy.Checks
	if r.Entry != nil {
		asked = append([]CheckGate{*r.Entry}, asked...)
	}
	for _, g := range asked {
		if g.Approval == nil || user == "" {
			continue
		}
		for _, entry := range g.Approval.From {
			if !slices.Contains(groups, entry) && member(user, entry) {
				groups = append(groups, entry)
			}
		}
	}
	return groups
}

// OpenApprovals names the approvals that the rollout waits for now.
func (r *Rollout) OpenApprovals() []string {
	if !r.openEntry() && !r.asking() {
		return nil
	}
	var names []string
	for _, g := range r.present() {
		if g.Approval != nil && r.checkOf(g.Name) == nil {
			names = append(names, g.Name)
		}
	}
	return names
}

// approvalFor finds the gate that an approve or reject command is for, among
// those of the present step.
func (r *Rollout) approvalFor(command Command) (*CheckGate, answer) {
	var open []*CheckGate
	for _, g := range r.present() {
		if g.Approval == nil || command.Gate != "" && g.Name != command.Gate {
			continue
		}
		if c := r.checkOf(g.Name); c != nil {
			if command.Gate != "" {
				return nil, answer{(command.Kind == CommandApprove) == (c.Outcome == analysis.Pass), c.Why}
			}
			continue
		}
		open = append(open, g)
	}
	switch {
	case len(open) == 0 && command.Gate != "":
		return nil, no(fmt.Sprintf("this step has no approval called %q", command.Gate))
	case len(open) == 0:
		for _, g := range r.present() {
			if c := r.checkOf(g.Name); g.Approval != nil && c != nil {
				return nil, answer{(command.Kind == CommandApprove) == (c.Outcome == analysis.Pass), c.Why}
			}
		}
		return nil, no("this step waits for nobody's approval")
	case len(open) > 1:
		var names []string
		for _, g := range open {
			names = append(names, g.Name)
		}
		return nil, no("several approvals are open; name one with --gate: " + strings.Join(names, ", "))
	case !open[0].Approval.mayDecide(command):
		return nil, no(fmt.Sprintf("%s may not decide on %s: it is asked of %s", orUnknown(command.By), open[0].Name, strings.Join(open[0].Approval.From, ", ")))
	}
	return open[0], answer{}
}

// decision is the answer of a person, for the record.
func (r *Rollout) decision(g *CheckGate, command Command, now time.Time) Check {
	c := Check{Step: r.Step, Gate: g.Name, Kind: g.Kind(), Outcome: analysis.Pass, Why: "approved by " + orUnknown(command.By), By: command.By, At: now}
	if command.Kind == CommandReject {
		c.Outcome, c.Why = analysis.Fail, "rejected by "+orUnknown(command.By)
	}
	if command.Comment != "" {
		c.Why += ": " + command.Comment
	}
	return c
}

// bypassed names an open approval that a promote would step over and that is
// not asked of the one who gives it; nil when there is none.
func (r *Rollout) bypassed(command Command) *CheckGate {
	for _, g := range r.Strategy.Checks {
		skipped := g.holds(r.Step) || command.Full && (len(g.Steps) == 0 || slices.Max(g.Steps) > r.Step)
		if g.Approval == nil || g.Advisory || !skipped || g.Approval.mayDecide(command) {
			continue
		}
		if c := r.checkOf(g.Name); c == nil || c.Outcome != analysis.Pass || command.Full {
			return &g
		}
	}
	return nil
}
