package server

import (
	"context"
	"fmt"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/schedule"
)

// schedules keeps the cron schedules equal to what each repository's default
// branch says: at the start, and whenever that branch is pushed.
type schedules struct {
	cron         *schedule.Scheduler
	repositories *repositories
	source       sources
	log          *zap.Logger
}

// Set makes the pipelines' schedules those of the repository.
func (s *schedules) Set(ctx context.Context, repository event.Repository, pipelines []*pipeline.Pipeline) error {
	var wanted []schedule.Schedule
	for _, p := range pipelines {
		for _, trigger := range p.On.Schedule {
			wanted = append(wanted, schedule.Schedule{Pipeline: p.Pos.File, Cron: trigger.Cron, Timezone: trigger.Timezone})
		}
	}
	return s.cron.Set(ctx, repository, wanted)
}

// run reads the schedules of every repository, then fires them until ctx ends.
// A repository that cannot be read now gets its schedules with its next push.
func (s *schedules) run(ctx context.Context) error {
	for _, configured := range s.repositories.byName {
		if err := s.load(ctx, configured); err != nil && ctx.Err() == nil {
			s.log.Warn("schedules are not known until the next push", zap.String("repository", configured.Name), zap.Error(err))
		}
	}
	return s.cron.Run(ctx)
}

func (s *schedules) load(ctx context.Context, configured repository) error {
	repository := event.Repository{FullName: configured.Name, CloneURL: configured.Clone, DefaultBranch: configured.DefaultBranch}
	commit, err := s.source.Head(ctx, repository, repository.DefaultBranch)
	if err != nil {
		return err
	}
	if err := s.source.Fetch(ctx, repository, "refs/heads/"+repository.DefaultBranch, commit); err != nil {
		return err
	}
	files, err := s.source.FS(ctx, repository, commit)
	if err != nil {
		return err
	}
	pipelines, err := pipeline.Load(files)
	if err != nil {
		return fmt.Errorf("read pipelines: %w", err)
	}
	return s.Set(ctx, repository, pipelines)
}
