package github

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
)

const (
	// reportQueue is how many statuses may wait; then Report waits.
	reportQueue = 1000
	// reportTimeout bounds the sending of one status, waits for limits included.
	reportTimeout = 90 * time.Minute
	// flushTimeout is how long a Reporter that stops still sends what waits.
	flushTimeout = 10 * time.Second
)

// Sender sets a commit's status (a *Client does).
type Sender interface {
	Status(ctx context.Context, repository, commit string, state State) error
}

// Reporter sends statuses in the background, in order. Of several that wait
// for the same repository, commit and context, only the newest is sent.
type Reporter struct {
	sender Sender
	log    *zap.Logger
	queue  chan report
}

type subject struct{ repository, commit, context string }

type report struct {
	subject
	state State
}

// NewReporter makes a Reporter; someone must Run it. Log nil means none.
func NewReporter(sender Sender, log *zap.Logger) *Reporter {
	if log == nil {
		log = zap.NewNop()
	}
	return &Reporter{sender: sender, log: log, queue: make(chan report, reportQueue)}
}

// Report hands a status over. It waits only while the queue is full.
func (r *Reporter) Report(ctx context.Context, repository, commit string, state State) error {
	select {
	case r.queue <- report{subject{repository, commit, state.Context}, state}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run sends until ctx ends, and then what still waits, for a short while.
func (r *Reporter) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return r.flush(ctx)
		case first := <-r.queue:
			batch := r.gather(first)
			for i, next := range batch {
				sendCtx, cancel := context.WithTimeout(ctx, reportTimeout)
				err := r.sender.Status(sendCtx, next.repository, next.commit, next.state)
				cancel()
				if err != nil && ctx.Err() != nil {
					return r.flush(ctx, batch[i:]...)
				}
				r.failed(next, err)
			}
		}
	}
}

// flush sends what waits although ctx has ended.
func (r *Reporter) flush(ctx context.Context, waiting ...report) error {
	select {
	case first := <-r.queue:
		waiting = newest(append(waiting, r.gather(first)...))
	default:
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	var errs []error
	for _, next := range waiting {
		err := r.sender.Status(ctx, next.repository, next.commit, next.state)
		r.failed(next, err)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r *Reporter) failed(what report, err error) {
	if err != nil {
		r.log.Error("commit status not reported", zap.String("repository", what.repository),
			zap.String("commit", what.commit), zap.String("state", string(what.state.State)), zap.Error(err))
	}
}

// gather takes all that waits.
func (r *Reporter) gather(first report) []report {
	batch := []report{first}
	for len(batch) < reportQueue {
		select {
		case next := <-r.queue:
			batch = append(batch, next)
			continue
		default:
		}
		break
	}
	return newest(batch)
}

// newest keeps the last report of each subject, in the order of those.
func newest(batch []report) []report {
	last := make(map[subject]int, len(batch))
	for i, r := range batch {
		last[r.subject] = i
	}
	kept := make([]report, 0, len(last))
	for i, r := range batch {
		if last[r.subject] == i {
			kept = append(kept, r)
		}
	}
	return kept
}
