// Package schedule makes events when their time has come.
//
// The policy for fires that were missed, because the server was down or the
// clock was set forward: the newest one within CatchUp is made up for, once;
// older ones are skipped. A schedule that is new begins with its next time.
package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // zones must parse the same on a machine without a zone database

	"github.com/robfig/cron/v3"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// CatchUp is how long ago a missed fire may be to be made up for.
const CatchUp = 24 * time.Hour

// maxExpression bounds a cron expression and a zone name, in bytes.
const maxExpression = 256

// Schedule is one entry of a pipeline's `on: schedule`.
type Schedule struct {
	// Pipeline is the pipeline file's path: the same expression in two files
	// is two schedules.
	Pipeline string
	// Cron is a five-field cron expression.
	Cron string
	// Timezone is an IANA name, UTC when empty.
	Timezone string
}

// Parse checks an expression and its time zone. In zones with summer time, a
// time that is skipped fires when the clock jumps over it or not at all that
// day, as robfig/cron documents.
func Parse(expression, timezone string) (cron.Schedule, error) {
	// robfig/cron would take a zone, and "@every", from within the expression.
	if len(expression) > maxExpression || strings.ContainsAny(expression, "=@") {
		return nil, fmt.Errorf("cron expression %q: five fields are needed (minute, hour, day of month, month, day of week), such as \"0 3 * * *\"", clip(expression))
	}
	location, err := loadLocation(timezone)
	if err != nil {
		return nil, err
	}
	parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
	parsed, err := parser.Parse(expression)
	if err != nil {
		return nil, fmt.Errorf("cron expression %q: %w", expression, err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("cron expression %q: five fields are needed", expression)
	}
	spec.Location = location
	return spec, nil
}

func loadLocation(name string) (*time.Location, error) {
	switch {
	case name == "":
		return time.UTC, nil
	case name == "Local" || len(name) > maxExpression:
		return nil, fmt.Errorf("time zone %q: use an IANA name such as Europe/Berlin", clip(name))
	}
	location, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone %q: use an IANA name such as Europe/Berlin: %w", name, err)
	}
	return location, nil
}

func clip(s string) string {
	if len(s) > maxExpression {
		return s[:maxExpression] + "…"
	}
	return s
}

// Due says whether a schedule must fire: planned is its newest time after last
// that has come, zero if there is none within CatchUp.
func Due(s cron.Schedule, last, now time.Time) (planned time.Time) {
	if earliest := now.Add(-CatchUp); last.Before(earliest) {
		last = earliest
	}
	for next := s.Next(last); !next.IsZero() && !next.After(now); next = s.Next(next) {
		planned = next
	}
	return planned
}

// key names a schedule in what is kept of it, and in its events.
func (s Schedule) key(repository string) string {
	zone := s.Timezone
	if zone == "" {
		zone = "UTC"
	}
	return strings.Join([]string{repository, s.Pipeline, s.Cron, zone}, "|")
}

// newEvent is what a fire becomes. Its ID follows from the schedule and the
// planned time alone: a second fire for the same time is the same event.
func newEvent(repository event.Repository, s Schedule, planned, now time.Time) (event.Event, error) {
	if repository.DefaultBranch == "" {
		return event.Event{}, errors.New("its default branch is not known")
	}
	return event.Event{
		ID:         "schedule:" + s.key(repository.FullName) + ":" + planned.UTC().Format(time.RFC3339),
		Forge:      "schedule",
		Kind:       event.Schedule,
		Repository: repository,
		Ref:        "refs/heads/" + repository.DefaultBranch,
		Branch:     repository.DefaultBranch,
		Actor:      "schedule",
		Trust:      event.Own,
		Schedule:   s.Cron,
		ReceivedAt: now.UTC(),
	}, nil
}
