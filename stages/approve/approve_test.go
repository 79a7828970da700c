package approve_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/approve"
)

func TestDecisions(t *testing.T) {
	timedOut, cancel := context.WithCancelCause(context.Background())
	cancel(pipeline.Fail(pipeline.CauseTimeout, "timed out after 1h"))
	cancelled, cancel := context.WithCancelCause(context.Background())
	cancel(pipeline.Fail(pipeline.CauseSuperseded, "newer"))
	group := func(user, entry string) bool { return user == "cy" && entry == "ops" }

	cases := map[string]struct {
		ctx       context.Context
		from      []string
		decisions []pipeline.Decision
		cause     pipeline.Cause
		message   string
		by        string
	}{
		"anybody":                   {decisions: []pipeline.Decision{{Approved: true, By: "ann"}}, by: "ann"},
		"named":                     {from: []string{"bob", "ann"}, decisions: []pipeline.Decision{{Approved: true, By: "ann"}}, by: "ann"},
		"member of a group":         {from: []string{"ops"}, decisions: []pipeline.Decision{{Approved: true, By: "cy"}}, by: "cy"},
		"others do not count":       {from: []string{"ann"}, decisions: []pipeline.Decision{{Approved: true, By: "eve"}, {By: "eve"}, {Approved: true}, {Approved: true, By: "ann"}}, by: "ann"},
		"rejected":                  {decisions: []pipeline.Decision{{By: "ann", Comment: "not on Friday"}, {Approved: true, By: "bob"}}, cause: pipeline.CauseRefused, message: "rejected by ann: not on Friday"},
		"timeout":                   {ctx: timedOut, from: []string{"ann"}, cause: pipeline.CauseTimeout, message: "no approval by ann in time: timed out after 1h"},
		"superseded":                {ctx: cancelled, cause: pipeline.CauseSuperseded, message: "newer"},
		"decided before the end":    {ctx: timedOut, decisions: []pipeline.Decision{{Approved: true, By: "ann"}}, by: "ann"},
		"only others, then timeout": {ctx: timedOut, from: []string{"ann"}, decisions: []pipeline.Decision{{Approved: true, By: "eve"}}, cause: pipeline.CauseTimeout, message: "no approval by ann"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			ctx := c.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			decisions := make(chan pipeline.Decision, len(c.decisions))
			for _, d := range c.decisions {
				decisions <- d
			}
			outputs, err := approve.Kind{Member: group}.Run(ctx, pipeline.Attempt{
				Stage:     pipeline.PlannedStage{Approve: &pipeline.ApproveSpec{From: c.from}},
				Decisions: decisions, Progress: func(string) {},
			})
			require.Equal(t, c.cause, pipeline.CauseOf(err))
			if c.cause != pipeline.CauseNone {
				require.ErrorContains(t, err, c.message)
				return
			}
			require.Equal(t, c.by, outputs[approve.OutputBy])
		})
	}
	require.Equal(t, pipeline.TakeoverContinue, approve.Kind{}.Takeover())
}
