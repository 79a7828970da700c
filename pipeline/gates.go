package pipeline

import (
	"slices"
	"time"
)

// JobGateSpec runs a Kubernetes Job in every step, and passes when it completes.
//
// Steps, here and below, are those that a gate holds for, from 1, empty
// meaning all; Timeout is how long an answer is waited for, 0 meaning the
// rollout package's default; an Advisory gate judges nothing itself and is a
// fact for cel gates.
type JobGateSpec struct {
	Name     string        `json:"name"`
	Steps    []int         `json:"steps,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"`
	Advisory bool          `json:"advisory,omitempty"`
	// Manifest is a file of the checkout that holds the Job.
	Manifest string `json:"manifest"`
}

// WebhookGateSpec asks a URL until it says pass or fail.
type WebhookGateSpec struct {
	Name     string        `json:"name"`
	Steps    []int         `json:"steps,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"`
	Advisory bool          `json:"advisory,omitempty"`
	URL      string        `json:"url"`
	// Secret names the key that requests are signed with.
	Secret   *SecretKey    `json:"secret,omitempty"`
	Interval time.Duration `json:"interval,omitempty"`
}

// ApprovalGateSpec waits for a person while a step serves.
type ApprovalGateSpec struct {
	Name     string        `json:"name"`
	Steps    []int         `json:"steps,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"`
	Advisory bool          `json:"advisory,omitempty"`
	From     []string      `json:"from,omitempty"`
	Message  string        `json:"message,omitempty"`
}

// CELGateSpec judges the facts of all other gates.
type CELGateSpec struct {
	Name    string        `json:"name"`
	Steps   []int         `json:"steps,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
	Pass    string        `json:"pass"`
	Fail    string        `json:"fail,omitempty"`
}

// HooksSpec lists the Jobs that run before anything is written, when all pods
// are good, and when a failed release has been taken back; one after another.
type HooksSpec struct {
	Before    []HookSpec `json:"before,omitempty"`
	After     []HookSpec `json:"after,omitempty"`
	OnFailure []HookSpec `json:"on-failure,omitempty"`
}

// HookSpec is one Job.
type HookSpec struct {
	Name string `json:"name"`
	// Manifest is a file of the checkout that holds the Job.
	Manifest string `json:"manifest"`
	// Timeout bounds it; 0 means the deadline of the rollout.
	Timeout time.Duration `json:"timeout,omitempty"`
}

func (h *HooksSpec) clone() *HooksSpec {
	if h == nil {
		return nil
	}
	return &HooksSpec{Before: slices.Clone(h.Before), After: slices.Clone(h.After), OnFailure: slices.Clone(h.OnFailure)}
}

// name of the gate, its key in the file, and the steps it names.
func (g *GateSpec) common() (name, key string, steps []int) {
	switch {
	case g.Metric != nil:
		return g.Metric.Name, "metric", nil
	case g.Job != nil:
		return g.Job.Name, "job", g.Job.Steps
	case g.Webhook != nil:
		return g.Webhook.Name, "webhook", g.Webhook.Steps
	case g.Approval != nil:
		return g.Approval.Name, "approval", g.Approval.Steps
	case g.CEL != nil:
		return g.CEL.Name, "cel", g.CEL.Steps
	}
	return "", "", nil
}

// clone shares nothing that a plan changes.
func (g GateSpec) clone() GateSpec {
	out := GateSpec{Metric: g.Metric.clone(), Job: clonePointer(g.Job), Webhook: clonePointer(g.Webhook), Approval: clonePointer(g.Approval), CEL: clonePointer(g.CEL)}
	switch {
	case out.Job != nil:
		out.Job.Steps = slices.Clone(out.Job.Steps)
	case out.Webhook != nil:
		out.Webhook.Steps, out.Webhook.Secret = slices.Clone(out.Webhook.Steps), clonePointer(out.Webhook.Secret)
	case out.Approval != nil:
		out.Approval.Steps, out.Approval.From = slices.Clone(out.Approval.Steps), slices.Clone(out.Approval.From)
	case out.CEL != nil:
		out.CEL.Steps = slices.Clone(out.CEL.Steps)
	}
	return out
}
