package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/internal/feed"
	"github.com/tidegate-ci/tidegate/internal/progress"
	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/internal/worker"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/engine"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
	"github.com/tidegate-ci/tidegate/pipeline/journal/sqlite"
)

// keepRuns is how many local runs stay in the journal.
const keepRuns = 200

// Options of a local run.
type Options struct {
	Plan *pipeline.Plan
	// Root is the working tree; attempts run in it, not in a copy.
	Root     string
	Settings settings.Settings
	Secrets  map[string]string
	// Approve answers every approval with yes, in the actor's name.
	Approve bool
	// Override is why deploys are begun within freeze windows; empty: they are not.
	Override string
	Renderer progress.Renderer
	Log      *zap.Logger
}

// Run runs the plan to its end and shows it as it goes. When ctx ends, the run
// is cancelled in order, and its state says so.
func Run(ctx context.Context, o Options) (_ journal.State, err error) {
	dir := filepath.Join(o.Settings.Data, "local")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return journal.State{}, fmt.Errorf("make the state directory: %w", err)
	}
	// The journal outlives a cancelled ctx: the cancellation is recorded in it.
	lasting := context.WithoutCancel(ctx)
	records, err := sqlite.Open(lasting, filepath.Join(dir, "journal.db"), sqlite.Options{KeepRuns: keepRuns, LogAhead: -1})
	if err != nil {
		return journal.State{}, err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	stages, err := worker.New(ctx, worker.Options{Settings: o.Settings, WorkingTree: true, Containers: needsContainers(o.Plan), Override: o.Override, Log: o.Log})
	if err != nil {
		return journal.State{}, err
	}
	id := strings.ToLower(o.Plan.Event.ID[:12])
	e, err := engine.New(engine.Options{
		Journal:    records,
		Kinds:      stages.Kinds,
		Workspaces: workingTree(o.Root),
		Secrets: func(context.Context, string, *pipeline.Plan, pipeline.PlannedStage) (map[string]string, error) {
			return o.Secrets, nil
		},
		When:    pipeline.EvaluateWhen,
		Resolve: pipeline.Resolve,
		Worker:  "local " + id,
		Log:     o.Log,
	})
	if err != nil {
		return journal.State{}, err
	}
	if _, err := e.Submit(lasting, id, o.Plan); err != nil {
		return journal.State{}, err
	}
	if err := approveAll(lasting, e, id, o); err != nil {
		return journal.State{}, err
	}
	watching, stop := context.WithCancel(lasting)
	var follower sync.WaitGroup
	var followErr error
	changed := records.Watch(watching, id)
	follower.Go(func() { followErr = follow(watching, records, id, changed, o.Renderer) })
	state, err := e.Execute(ctx, id)
	stop()
	follower.Wait()
	return state, errors.Join(err, followErr)
}

// needsContainers spares runs without images the time to look for a runtime.
func needsContainers(plan *pipeline.Plan) bool {
	return slices.ContainsFunc(plan.Stages, func(s pipeline.PlannedStage) bool {
		return s.Kind == pipeline.KindBuild || s.Run != nil && s.Run.Image != ""
	})
}

func approveAll(ctx context.Context, e *engine.Engine, id string, o Options) error {
	if !o.Approve {
		return nil
	}
	for _, stage := range o.Plan.Stages {
		if stage.Kind != pipeline.KindApprove {
			continue
		}
		by := o.Plan.Event.Actor
		if len(stage.Approve.From) > 0 {
			by = stage.Approve.From[0]
		}
		if err := e.Decide(ctx, id, stage.ID, pipeline.Decision{Approved: true, By: by, Comment: "--yes"}); err != nil {
			return fmt.Errorf("approve %s: %w", stage.ID, err)
		}
	}
	return nil
}

// follow shows entries and log lines as they are recorded, until watching ends
// and all that was recorded by then is shown.
func follow(watching context.Context, records journal.Journal, id string, changed <-chan struct{}, renderer progress.Renderer) error {
	reader := feed.Reader{Journal: records, RunID: id}
	ctx := context.WithoutCancel(watching)
	entry := func(e journal.Entry) error { renderer.Entry(e); return nil }
	line := func(l journal.Line) error { renderer.Line(l); return nil }
	for {
		last := watching.Err() != nil
		if err := reader.Next(ctx, entry, line); err != nil || last {
			return err
		}
		select {
		case <-changed:
		case <-watching.Done():
		}
	}
}

// workingTree is one directory for all attempts: what is there is what runs.
type workingTree string

func (w workingTree) Workspace(context.Context, string, *pipeline.Plan, pipeline.PlannedStage) (string, func(), error) {
	return string(w), func() {}, nil
}
