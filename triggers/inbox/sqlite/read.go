package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/triggers/inbox"
)

const (
	defaultListLimit = 50
	maxListLimit     = 1000
	columns          = `event, status, attempts, due, note, received, finished`
)

// Due implements inbox.Store.
func (s *Store) Due(ctx context.Context, now time.Time, limit int) ([]inbox.Record, time.Time, error) {
	// The heads of all lanes: pending with no older pending event before them.
	const heads = ` FROM events e WHERE e.status = 'pending' AND NOT EXISTS (
		SELECT 1 FROM events p WHERE p.status = 'pending' AND p.lane = e.lane AND p.seq < e.seq)`
	records, err := s.query(ctx, `SELECT `+columns+heads+` AND e.due <= ? ORDER BY e.seq LIMIT ?`, now.UnixMilli(), limit)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read due events: %w", err)
	}
	var next sql.NullInt64
	err = s.read.QueryRowContext(ctx, `SELECT min(e.due)`+heads+` AND e.due > ?`, now.UnixMilli()).Scan(&next)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read due events: %w", classify(err))
	}
	if !next.Valid {
		return records, time.Time{}, nil
	}
	return records, time.UnixMilli(next.Int64).UTC(), nil
}

// Get implements inbox.Store.
func (s *Store) Get(ctx context.Context, id string) (inbox.Record, error) {
	records, err := s.query(ctx, `SELECT `+columns+` FROM events WHERE id = ?`, id)
	switch {
	case err != nil:
		return inbox.Record{}, fmt.Errorf("read event %s: %w", id, err)
	case len(records) == 0:
		return inbox.Record{}, fmt.Errorf("read event %s: %w", id, inbox.ErrNotFound)
	}
	return records[0], nil
}

// List implements inbox.Store.
func (s *Store) List(ctx context.Context, filter inbox.Filter) ([]inbox.Record, error) {
	limit := filter.Limit
	if limit <= 0 {
		limit = defaultListLimit
	}
	records, err := s.query(ctx, `SELECT `+columns+` FROM events
		WHERE (? = '' OR status = ?) AND (? = '' OR repository = ?) ORDER BY seq DESC LIMIT ?`,
		string(filter.Status), string(filter.Status), filter.Repository, filter.Repository, min(limit, maxListLimit))
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return records, nil
}

func (s *Store) query(ctx context.Context, query string, args ...any) (records []inbox.Record, err error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, classify(err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var (
			record                  inbox.Record
			body                    []byte
			status                  string
			due, received, finished int64
		)
		if err := rows.Scan(&body, &status, &record.Attempts, &due, &record.Note, &received, &finished); err != nil {
			return nil, classify(err)
		}
		if err := json.Unmarshal(body, &record.Event); err != nil {
			return nil, fmt.Errorf("a stored event does not parse: %w", err)
		}
		record.Status = inbox.Status(status)
		record.NextAttempt, record.Received, record.Finished = fromMilli(due), fromMilli(received), fromMilli(finished)
		records = append(records, record)
	}
	if err := rows.Err(); err != nil {
		return nil, classify(err)
	}
	return records, nil
}

func fromMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
