package schedule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/robfig/cron/v3"
	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

const (
	// longestSleep bounds the trust in one timer: a clock that is set, or a
	// laptop that slept, is noticed after this time.
	longestSleep = time.Minute
	// retryDelay is the pause after a store that could not take an event.
	retryDelay = 5 * time.Second
	// maxSchedules bounds the schedules of one repository.
	maxSchedules = 100
)

// Inbox stores events, once for each ID (an inbox.Store does).
type Inbox interface {
	Put(ctx context.Context, ev event.Event) (stored bool, err error)
}

// Memory keeps when each schedule fired last, durably.
type Memory interface {
	Fired(ctx context.Context, key string) (at time.Time, ok bool, err error)
	SetFired(ctx context.Context, repository, key string, at time.Time) error
	// Keep forgets all schedules of the repository but these.
	Keep(ctx context.Context, repository string, keys []string) error
}

// Scheduler fires the schedules of all repositories. Events go to the inbox
// without a commit: whoever handles one runs at the branch's tip then, so that
// a forge that is away at that moment only delays it.
type Scheduler struct {
	inbox  Inbox
	memory Memory
	now    func() time.Time
	log    *zap.Logger

	mu      sync.Mutex
	entries map[string]*entry
	changed chan struct{}
}

// entry is a schedule that is active.
type entry struct {
	repository event.Repository
	schedule   Schedule
	parsed     cron.Schedule
	last       time.Time
}

// New makes a scheduler; now nil means time.Now, log nil none.
func New(inbox Inbox, memory Memory, now func() time.Time, log *zap.Logger) *Scheduler {
	if now == nil {
		now = time.Now
	}
	if log == nil {
		log = zap.NewNop()
	}
	return &Scheduler{inbox: inbox, memory: memory, now: now, log: log, entries: map[string]*entry{}, changed: make(chan struct{}, 1)}
}

// Set makes schedules those of a repository, in place of all that it had. Call
// it at the start and when a pipeline of the default branch changes; what stays
// the same keeps its rhythm. When one does not parse, nothing changes.
func (s *Scheduler) Set(ctx context.Context, repository event.Repository, schedules []Schedule) error {
	fail := func(err error) error { return fmt.Errorf("set schedules of %s: %w", repository.FullName, err) }
	if len(schedules) > maxSchedules {
		return fail(fmt.Errorf("%d schedules, at most %d are allowed", len(schedules), maxSchedules))
	}
	if len(schedules) > 0 && repository.DefaultBranch == "" {
		return fail(errors.New("its default branch is not known"))
	}
	wanted := map[string]*entry{}
	for _, schedule := range schedules {
		parsed, err := Parse(schedule.Cron, schedule.Timezone)
		if err != nil {
			return fail(fmt.Errorf("%s: %w", schedule.Pipeline, err))
		}
		wanted[schedule.key(repository.FullName)] = &entry{repository: repository, schedule: schedule, parsed: parsed}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, e := range wanted {
		if old, ok := s.entries[key]; ok {
			e.last = old.last
			continue
		}
		last, ok, err := s.memory.Fired(ctx, key)
		if err == nil && !ok {
			last = s.now()
			err = s.memory.SetFired(ctx, repository.FullName, key, last)
		}
		if err != nil {
			return fail(err)
		}
		e.last = last
	}
	if err := s.memory.Keep(ctx, repository.FullName, slices.Collect(maps.Keys(wanted))); err != nil {
		return fail(err)
	}
	maps.DeleteFunc(s.entries, func(_ string, e *entry) bool { return e.repository.FullName == repository.FullName })
	maps.Copy(s.entries, wanted)
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return nil
}

// Next tells when each schedule of a repository fires next, sorted.
func (s *Scheduler) Next(repository string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	var times []time.Time
	for _, e := range s.entries {
		if e.repository.FullName == repository {
			times = append(times, e.parsed.Next(s.now()))
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times
}

// Run fires schedules until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	for {
		timer := time.NewTimer(s.fireDue(ctx))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-s.changed:
			timer.Stop()
		}
	}
}

// fireDue fires what is due and returns how long to sleep.
func (s *Scheduler) fireDue(ctx context.Context) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	sleep := longestSleep
	for key, e := range s.entries {
		if planned := Due(e.parsed, e.last, now); !planned.IsZero() {
			if err := s.fire(ctx, key, e, planned, now); err != nil {
				if ctx.Err() == nil {
					s.log.Error("schedule not fired, will be tried again", zap.String("repository", e.repository.FullName),
						zap.String("cron", e.schedule.Cron), zap.Error(err))
				}
				sleep = min(sleep, retryDelay)
				continue
			}
		}
		if next := e.parsed.Next(now); !next.IsZero() {
			sleep = min(sleep, next.Sub(now))
		}
	}
	return sleep
}

// fire stores the event first and what is remembered second: a crash between
// the two stores the same event again, which the inbox recognises.
func (s *Scheduler) fire(ctx context.Context, key string, e *entry, planned, now time.Time) error {
	ev, err := newEvent(e.repository, e.schedule, planned, now)
	if err != nil {
		return err
	}
	if _, err := s.inbox.Put(ctx, ev); err != nil {
		return err
	}
	if err := s.memory.SetFired(ctx, e.repository.FullName, key, planned); err != nil {
		return err
	}
	e.last = planned
	s.log.Info("schedule fired", zap.String("event", ev.ID))
	return nil
}
