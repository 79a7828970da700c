package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// controls are what the API may ask for: api.Runs on top of engine and planner.
type controls struct {
	engine  runEngine
	journal journal.Journal
	planner *planner
	// rollouts answers the approvals that rollouts of running stages wait for.
	rollouts interface {
		Answer(ctx context.Context, run, stage string, decision pipeline.Decision) error
	}
	now func() time.Time
}

type runEngine interface {
	submitter
	Cancel(ctx context.Context, runID, by string, cause pipeline.Cause) error
	Decide(ctx context.Context, runID, stageID string, decision pipeline.Decision) error
}

// Cancel asks a run to stop. The API's reason is words for people; what code
// branches on is that a person asked.
func (c *controls) Cancel(ctx context.Context, runID, by, reason string) error {
	if reason != "" {
		by += " (" + reason + ")"
	}
	return c.engine.Cancel(ctx, runID, by, pipeline.CauseCancelled)
}

// Decide answers an approval stage, or the approval gate that the rollout of a
// deploy stage waits for.
func (c *controls) Decide(ctx context.Context, runID, stageID string, decision pipeline.Decision) error {
	entries, err := c.journal.Entries(ctx, runID, 0)
	if err != nil {
		return fmt.Errorf("read run %s: %w", runID, err)
	}
	state := journal.Fold(entries)
	if stage := state.Stage(stageID); stage != nil && stage.Kind == pipeline.KindDeploy {
		return c.rollouts.Answer(ctx, runID, stageID, decision)
	}
	return c.engine.Decide(ctx, runID, stageID, decision)
}

// Rerun runs the recorded plan again: what was planned then, not what the file
// says now. With fromFailed, stages that succeeded hand on what they had.
func (c *controls) Rerun(ctx context.Context, runID, by string, fromFailed bool) (string, error) {
	entries, err := c.journal.Entries(ctx, runID, 0)
	if err != nil {
		return "", fmt.Errorf("read run %s: %w", runID, err)
	}
	state := journal.Fold(entries)
	switch {
	case state.Plan == nil:
		return "", pipeline.Fail(pipeline.CauseInvalid, "run %s has no plan to run again", runID)
	case !state.Status.Final():
		return "", pipeline.Fail(pipeline.CauseInvalid, "run %s has not ended (%s): cancel it first, or wait", runID, state.Status)
	case fromFailed && state.Status == journal.Succeeded:
		return "", pipeline.Fail(pipeline.CauseInvalid, "run %s succeeded: there is no failed stage to go on from", runID)
	}
	plan := *state.Plan
	plan.Reused = nil
	if fromFailed {
		plan.Reused = map[string]pipeline.Reused{}
		maps.Copy(plan.Reused, state.Plan.Reused)
		for _, stage := range state.Stages {
			if stage.Status == journal.Succeeded && !isFinally(&plan, stage.ID) {
				plan.Reused[stage.ID] = pipeline.Reused{RunID: runID, Outputs: stage.Outputs}
			}
		}
	}
	plan.Event.Actor = by
	id := strings.ToLower(rand.Text())[:12]
	if _, err := c.engine.Submit(ctx, id, &plan); err != nil {
		return "", fmt.Errorf("run %s again: %w", runID, err)
	}
	return id, nil
}

func isFinally(plan *pipeline.Plan, id string) bool {
	i := slices.IndexFunc(plan.Stages, func(s pipeline.PlannedStage) bool { return s.ID == id })
	return i >= 0 && plan.Stages[i].Finally
}

// Start starts pipelines by hand, at the tip of a branch.
func (c *controls) Start(ctx context.Context, request api.StartRequest, by string) ([]string, error) {
	configured, ok := c.planner.repositories.find(request.Repository)
	if !ok {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "repository %q is not in the server's settings", request.Repository)
	}
	e := event.Event{
		ID:         rand.Text(),
		Forge:      "manual",
		Kind:       event.Manual,
		Repository: event.Repository{FullName: configured.Name, CloneURL: configured.Clone, DefaultBranch: configured.DefaultBranch},
		Branch:     strings.TrimPrefix(request.Ref, "refs/heads/"),
		Actor:      by,
		Trust:      event.Own,
		Inputs:     request.Inputs,
		ReceivedAt: c.now(),
	}
	if strings.HasPrefix(e.Branch, "refs/") {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "ref %q: name a branch", request.Ref)
	}
	var names []string
	if request.Pipeline != "" {
		names = []string{request.Pipeline}
	}
	runs, skipped, err := c.planner.plan(ctx, e, names)
	if err != nil {
		return nil, err
	}
	if len(runs) == 0 {
		reason := strings.Join(skipped, "; ")
		if reason == "" {
			reason = fmt.Sprintf("there is no pipeline %q at that commit", request.Pipeline)
		}
		return nil, pipeline.Fail(pipeline.CauseInvalid, "nothing was started: %s", reason)
	}
	var ids []string
	for _, run := range runs {
		if run.plan.Problem != "" {
			return ids, pipeline.Fail(pipeline.CauseInvalid, "%s", run.plan.Problem)
		}
		if _, err := c.engine.Submit(ctx, run.id, run.plan); err != nil {
			return ids, errors.Join(fmt.Errorf("record run %s", run.id), err)
		}
		ids = append(ids, run.id)
	}
	return ids, nil
}
