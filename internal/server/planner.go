package server

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
	"github.com/tidegate-ci/tidegate/triggers/source"
)

// planner turns events into runs.
type planner struct {
	repositories *repositories
	source       sources
	engine       submitter
	schedules    scheduler
	log          *zap.Logger
}

// sources is what the planner reads of the source cache.
type sources interface {
	Fetch(ctx context.Context, repository event.Repository, ref, commit string) error
	Head(ctx context.Context, repository event.Repository, branch string) (string, error)
	FS(ctx context.Context, repository event.Repository, commit string) (fs.FS, error)
}

type submitter interface {
	Submit(ctx context.Context, runID string, plan *pipeline.Plan) (created bool, err error)
}

// scheduler learns which schedules a repository's default branch asks for.
type scheduler interface {
	Set(ctx context.Context, repository event.Repository, pipelines []*pipeline.Pipeline) error
}

// Handle makes the runs that an event asks for, and says in words what came of
// it. It is called at least once per event: run ids are made from the event, so
// a second call makes no second run.
func (p *planner) Handle(ctx context.Context, e event.Event) (note string, err error) {
	runs, skipped, err := p.plan(ctx, e, nil)
	if errors.Is(err, source.ErrNotFound) || errors.Is(err, source.ErrRefused) || errors.Is(err, source.ErrTooLarge) {
		return "", inbox.Permanent(err)
	}
	if err != nil {
		return "", err
	}
	var created []string
	for _, run := range runs {
		if _, err := p.engine.Submit(ctx, run.id, run.plan); err != nil {
			return "", fmt.Errorf("record run %s: %w", run.id, err)
		}
		created = append(created, run.id)
	}
	if len(created) == 0 {
		return "no run: " + strings.Join(skipped, "; "), nil
	}
	return "runs: " + strings.Join(created, ", "), nil
}

type plannedRun struct {
	id   string
	plan *pipeline.Plan
}

// plan reads the pipelines at the event's commit and plans those it starts, or
// only those of the given names. Files that are wrong become runs that say so:
// whoever pushed them must see it where they look for the run.
func (p *planner) plan(ctx context.Context, e event.Event, names []string) (runs []plannedRun, skipped []string, err error) {
	if e, err = p.complete(ctx, e); err != nil {
		return nil, nil, err
	}
	files, err := p.source.FS(ctx, e.Repository, e.Commit)
	if err != nil {
		return nil, nil, fmt.Errorf("read pipelines at %.12s: %w", e.Commit, err)
	}
	pipelines, err := pipeline.Load(files)
	problems, broken := invalid(err)
	switch {
	case errors.Is(err, pipeline.ErrNoPipeline):
		return nil, []string{err.Error()}, nil
	case broken:
		p.log.Info("the pipeline files are wrong", zap.String("repository", e.Repository.FullName), zap.String("commit", e.Commit), zap.Error(problems))
		plan := &pipeline.Plan{Pipeline: pipeline.File, File: pipeline.File, Event: e, Problem: problems.Error()}
		runs = append(runs, plannedRun{runID(e, plan.Pipeline), plan})
	case err != nil:
		return nil, nil, fmt.Errorf("read pipelines at %.12s: %w", e.Commit, err)
	}
	if !broken && e.Kind == event.Push && e.Trust == event.Own && e.Branch == e.Repository.DefaultBranch {
		if err := p.schedules.Set(ctx, e.Repository, pipelines); err != nil {
			return nil, nil, fmt.Errorf("set the schedules of %s: %w", e.Repository.FullName, err)
		}
	}
	for _, candidate := range pipelines {
		if names != nil && !slices.Contains(names, candidate.Name) {
			continue
		}
		if match, reason := candidate.On.Match(e); !match {
			skipped = append(skipped, candidate.Name+": "+reason)
			continue
		}
		plan, err := pipeline.PlanFor(candidate, e)
		if err != nil {
			plan = &pipeline.Plan{Pipeline: candidate.Name, File: candidate.Pos.File, Event: e, Problem: err.Error()}
		}
		runs = append(runs, plannedRun{runID(e, candidate.Name), plan})
	}
	return runs, skipped, nil
}

// complete gives an event that names no commit (a schedule, a start by hand)
// the tip of its branch.
func (p *planner) complete(ctx context.Context, e event.Event) (event.Event, error) {
	configured, ok := p.repositories.find(e.Repository.FullName)
	if !ok {
		return e, inbox.Permanent(fmt.Errorf("repository %s is not in the settings any more", e.Repository.FullName))
	}
	e.Repository.CloneURL = configured.Clone
	if e.Repository.DefaultBranch == "" {
		e.Repository.DefaultBranch = configured.DefaultBranch
	}
	if e.Commit == "" {
		if e.Branch == "" {
			e.Branch = e.Repository.DefaultBranch
		}
		e.Ref = "refs/heads/" + e.Branch
		commit, err := p.source.Head(ctx, e.Repository, e.Branch)
		if err != nil {
			return e, fmt.Errorf("find the tip of %s: %w", e.Branch, err)
		}
		e.Commit = commit
	}
	if err := p.source.Fetch(ctx, e.Repository, e.Ref, e.Commit); err != nil {
		return e, err
	}
	return e, nil
}

// invalid tells whether an error is about what the files say, not about reading them.
func invalid(err error) (error, bool) {
	return err, err != nil && pipeline.CauseOf(err) == pipeline.CauseInvalid
}

// runID is the same for the same event and pipeline, and short enough to type.
func runID(e event.Event, pipelineName string) string {
	hash := sha256.New()
	for _, part := range []string{e.Forge, e.ID, e.Repository.FullName, pipelineName} {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(hash.Sum(nil))[:12])
}
