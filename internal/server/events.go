package server

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
)

// events shows the inbox to the API.
type events struct {
	store inbox.Store
	now   func() time.Time
	log   *zap.Logger
}

func (e *events) List(ctx context.Context, repository string, limit int) ([]api.EventRecord, error) {
	records, err := e.store.List(ctx, inbox.Filter{Repository: repository, Limit: limit})
	if err != nil {
		return nil, err
	}
	list := make([]api.EventRecord, 0, len(records))
	for _, record := range records {
		list = append(list, api.EventRecord{
			Event: record.Event, Status: string(record.Status), Attempts: record.Attempts, Note: record.Note,
			Received: record.Received, Finished: record.Finished,
		})
	}
	return list, nil
}

func (e *events) Redeliver(ctx context.Context, id, by string) error {
	err := e.store.Redeliver(ctx, id, e.now())
	if errors.Is(err, inbox.ErrNotFound) {
		return pipeline.Fail(pipeline.CauseInvalid, "event %q: %w", id, err)
	}
	if err == nil {
		e.log.Info("an event is handled once more", zap.String("event", id), zap.String("by", by))
	}
	return err
}
