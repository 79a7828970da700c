package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// statusWindow is how many of the newest runs are compared with what the forge
// was told, and how old a finished run may be to be told again after a restart.
const (
	statusWindowRuns = 200
	statusWindowAge  = 24 * time.Hour
)

// commitStatus is what a forge shows beside a commit.
type commitStatus struct {
	context     string
	state       string // pending, success, failure, error
	description string
}

// statusSink tells a forge.
type statusSink interface {
	send(ctx context.Context, repository, commit string, status commitStatus) error
}

// statusReporter keeps commit statuses equal to the journal. It is
// level-triggered: it compares what the journal says with what it said last, so
// a status that a crash or an outage swallowed is sent again.
type statusReporter struct {
	journal journal.Journal
	sink    statusSink
	now     func() time.Time
	log     *zap.Logger
	// told is the last status sent, by run.
	told map[string]commitStatus
}

// run reports until ctx ends. Failures are tried again with the next change,
// and at the latest after retryStatuses.
func (s *statusReporter) run(ctx context.Context) {
	s.told = map[string]commitStatus{}
	changed := s.journal.Watch(ctx, "")
	for {
		wait := statusQuiet
		if err := s.reconcile(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("commit statuses are behind", zap.Error(err))
			wait = statusRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

const (
	statusRetry = 10 * time.Second
	statusQuiet = 10 * time.Minute
)

func (s *statusReporter) reconcile(ctx context.Context) error {
	runs, err := s.journal.List(ctx, journal.Filter{Limit: statusWindowRuns})
	if err != nil {
		return fmt.Errorf("list runs: %w", err)
	}
	seen := map[string]commitStatus{}
	var problems []error
	// Oldest first, so that the newest run of a commit has the last word.
	for i := len(runs) - 1; i >= 0; i-- {
		run := runs[i]
		want := statusOf(run)
		told, known := s.told[run.ID]
		if known && told == want {
			seen[run.ID] = told
			continue
		}
		if run.Status.Final() && !known && s.now().Sub(run.Finished) > statusWindowAge {
			seen[run.ID] = want
			continue
		}
		if err := s.sink.send(ctx, run.Repository, run.Commit, want); err != nil {
			problems = append(problems, fmt.Errorf("run %s: %w", run.ID, err))
			if known {
				seen[run.ID] = told
			}
			continue
		}
		seen[run.ID] = want
	}
	s.told = seen
	return errors.Join(problems...)
}

// maxReason leaves room for the run's id in the 140 characters that GitHub keeps.
const maxReason = 110

// statusOf says in a forge's words where a run stands. The run's id comes
// first: it is what the commands want.
func statusOf(run journal.Summary) commitStatus {
	status := commitStatus{context: "tidegate/" + run.Pipeline, description: run.Message}
	switch run.Status {
	case journal.Pending, journal.Waiting:
		status.state, status.description = "pending", "queued"
	case journal.Running:
		status.state, status.description = "pending", "running"
	case journal.Succeeded, journal.Skipped:
		status.state = "success"
		if status.description == "" {
			status.description = fmt.Sprintf("succeeded in %s", run.Finished.Sub(run.Started).Round(100*time.Millisecond))
		}
	case journal.Cancelled:
		status.state = "error"
	default:
		status.state = "failure"
	}
	if status.description == "" {
		status.description = string(run.Status)
	}
	if reason := []rune(status.description); len(reason) > maxReason {
		status.description = string(reason[:maxReason-1]) + "…"
	}
	status.description = run.ID + ": " + status.description
	return status
}
