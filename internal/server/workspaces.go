package server

import (
	"context"
	"errors"
	"fmt"
	"os"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/triggers/source"
)

// workspaces gives every attempt a checkout of its own.
type workspaces struct {
	dir    string
	source *source.Cache
	log    *zap.Logger
}

// newWorkspaces empties the directory: what an earlier process left there
// belongs to attempts that died with it.
func newWorkspaces(dir string, cache *source.Cache, log *zap.Logger) (*workspaces, error) {
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, fmt.Errorf("prepare workspaces: %w", err)
	}
	return &workspaces{dir: dir, source: cache, log: log}, nil
}

func (w *workspaces) Workspace(ctx context.Context, runID string, plan *pipeline.Plan, stage pipeline.PlannedStage) (string, func(), error) {
	if stage.Kind == pipeline.KindApprove {
		return "", func() {}, nil
	}
	dir, err := os.MkdirTemp(w.dir, runID+"-")
	if err != nil {
		return "", nil, fmt.Errorf("make a workspace: %w", err)
	}
	release := func() {
		if err := os.RemoveAll(dir); err != nil {
			w.log.Warn("a workspace could not be removed", zap.String("dir", dir), zap.Error(err))
		}
	}
	if _, err := w.source.Checkout(ctx, plan.Event.Repository, plan.Event.Commit, dir); err != nil {
		release()
		return "", nil, err
	}
	return dir, release, nil
}
