// Package approve is the stage kind that waits for a person.
package approve

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/tidegate-ci/tidegate/pipeline"
)

// The outputs of an approved stage.
const (
	OutputBy      = "by"
	OutputComment = "comment"
)

// Kind waits for the first decision that counts: an approval lets the pipeline
// go on, a rejection refuses it. The zero value counts decisions of those whom
// the stage names, by exact match.
type Kind struct {
	// Member tells whether a user belongs to an entry of `from`, so that
	// groups can be named there. Nil compares names.
	Member func(user, entry string) bool
}

// Takeover implements pipeline.Kind: a restart changes nothing for people.
func (Kind) Takeover() pipeline.Takeover { return pipeline.TakeoverContinue }

// Run implements pipeline.Kind. A rejection is CauseRefused; the deadline,
// which is ctx's, CauseTimeout. Decisions of others are noted and do not count.
func (k Kind) Run(ctx context.Context, attempt pipeline.Attempt) (pipeline.Outputs, error) {
	var spec pipeline.ApproveSpec
	if attempt.Stage.Approve != nil {
		spec = *attempt.Stage.Approve
	}
	attempt.Progress(question(spec))
	for {
		// What was decided before the deadline counts, also when this is read
		// only after it: the worker may have been away.
		select {
		case decision := <-attempt.Decisions:
			if outputs, err, counts := k.judge(spec, decision, attempt); counts {
				return outputs, err
			}
			continue
		default:
		}
		select {
		case decision := <-attempt.Decisions:
			if outputs, err, counts := k.judge(spec, decision, attempt); counts {
				return outputs, err
			}
		case <-ctx.Done():
			return nil, ended(ctx, spec)
		}
	}
}

func question(spec pipeline.ApproveSpec) string {
	text := "waits for approval"
	if len(spec.From) > 0 {
		text += " by " + strings.Join(spec.From, " or ")
	}
	if spec.Message != "" {
		text += ": " + spec.Message
	}
	return text
}

func (k Kind) judge(spec pipeline.ApproveSpec, decision pipeline.Decision, attempt pipeline.Attempt) (_ pipeline.Outputs, err error, counts bool) {
	if !k.mayDecide(spec.From, decision.By) {
		attempt.Progress(fmt.Sprintf("the answer of %q does not count: approval is by %s", decision.By, strings.Join(spec.From, " or ")))
		return nil, nil, false
	}
	if decision.Approved {
		return pipeline.Outputs{OutputBy: decision.By, OutputComment: decision.Comment}, nil, true
	}
	message := "rejected by " + decision.By
	if decision.Comment != "" {
		message += ": " + decision.Comment
	}
	return nil, pipeline.Fail(pipeline.CauseRefused, "%s", message), true
}

func (k Kind) mayDecide(from []string, user string) bool {
	return len(from) == 0 || user != "" && slices.ContainsFunc(from, func(entry string) bool {
		return entry == user || k.Member != nil && k.Member(user, entry)
	})
}

func ended(ctx context.Context, spec pipeline.ApproveSpec) error {
	cause := context.Cause(ctx)
	if pipeline.CauseOf(cause) != pipeline.CauseTimeout {
		return cause
	}
	text := "nobody approved in time"
	if len(spec.From) > 0 {
		text = "no approval by " + strings.Join(spec.From, " or ") + " in time"
	}
	return pipeline.Fail(pipeline.CauseTimeout, "%s: %w", text, cause)
}
