package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	defaultListLimit = 50
	maxListLimit     = 1000
)

func (j *Journal) number(ctx context.Context, runID string) (int64, error) {
	var number int64
	err := j.read.QueryRowContext(ctx, `SELECT number FROM runs WHERE id = ?`, runID).Scan(&number)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, journal.ErrNotFound
	}
	return number, err
}

// Entries implements journal.Journal.
func (j *Journal) Entries(ctx context.Context, runID string, after int64) ([]journal.Entry, error) {
	number, err := j.number(ctx, runID)
	if err != nil {
		return nil, fmt.Errorf("read run %q: %w", runID, err)
	}
	rows, err := j.read.QueryContext(ctx, entriesOf, number, after)
	if err != nil {
		return nil, fmt.Errorf("read run %q: %w", runID, err)
	}
	entries, err := scanEntries(rows)
	if err != nil {
		return nil, fmt.Errorf("read run %q: %w", runID, err)
	}
	return entries, nil
}

const summaryColumns = `id, pipeline, repository, ref, revision, event, actor, status, cause, message, created, started, finished`

// List implements journal.Journal.
func (j *Journal) List(ctx context.Context, filter journal.Filter) ([]journal.Summary, error) {
	var where []string
	var args []any
	if filter.Repository != "" {
		where, args = append(where, "repository = ?"), append(args, filter.Repository)
	}
	if filter.Pipeline != "" {
		where, args = append(where, "pipeline = ?"), append(args, filter.Pipeline)
	}
	if len(filter.Status) > 0 {
		where = append(where, "status IN (?"+strings.Repeat(",?", len(filter.Status)-1)+")")
		for _, status := range filter.Status {
			args = append(args, string(status))
		}
	}
	query := "SELECT " + summaryColumns + " FROM runs"
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	limit := filter.Limit
	if limit <= 0 {
		limit = defaultListLimit
	}
	query += " ORDER BY number DESC LIMIT ?"
	out, err := j.summaries(ctx, query, append(args, min(limit, maxListLimit))...)
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	return out, nil
}

// Unfinished implements journal.Journal.
func (j *Journal) Unfinished(ctx context.Context) ([]journal.Summary, error) {
	out, err := j.summaries(ctx, "SELECT "+summaryColumns+" FROM runs WHERE finished = 0 ORDER BY number")
	if err != nil {
		return nil, fmt.Errorf("list unfinished runs: %w", err)
	}
	return out, nil
}

func (j *Journal) summaries(ctx context.Context, query string, args ...any) (_ []journal.Summary, err error) {
	rows, err := j.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var out []journal.Summary
	for rows.Next() {
		var s journal.Summary
		var created, started, finished int64
		if err := rows.Scan(&s.ID, &s.Pipeline, &s.Repository, &s.Ref, &s.Commit, &s.Event, &s.Actor, &s.Status, &s.Cause, &s.Message, &created, &started, &finished); err != nil {
			return nil, err
		}
		s.Created, s.Started, s.Finished = fromNanoseconds(created), fromNanoseconds(started), fromNanoseconds(finished)
		out = append(out, s)
	}
	return out, rows.Err()
}
