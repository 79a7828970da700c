package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Fired tells when a schedule fired last; ok is false when it is not known.
func (s *Store) Fired(ctx context.Context, key string) (at time.Time, ok bool, err error) {
	var ms int64
	err = s.read.QueryRowContext(ctx, `SELECT fired FROM schedules WHERE key = ?`, key).Scan(&ms)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, fmt.Errorf("read schedule %s: %w", key, classify(err))
	}
	return time.UnixMilli(ms).UTC(), true, nil
}

// SetFired records when a schedule of a repository fired last.
func (s *Store) SetFired(ctx context.Context, repository, key string, at time.Time) error {
	err := s.writer.do(ctx, func(tx *transaction) error {
		return tx.exec(`INSERT INTO schedules (key, repository, fired) VALUES (?, ?, ?)
			ON CONFLICT (key) DO UPDATE SET fired = excluded.fired`, key, repository, at.UnixMilli())
	})
	if err != nil {
		return fmt.Errorf("record schedule %s: %w", key, err)
	}
	return nil
}

// Keep forgets all schedules of a repository but these.
func (s *Store) Keep(ctx context.Context, repository string, keys []string) error {
	kept, err := json.Marshal(append([]string{}, keys...))
	if err != nil {
		return fmt.Errorf("forget schedules of %s: %w", repository, err)
	}
	err = s.writer.do(ctx, func(tx *transaction) error {
		return tx.exec(`DELETE FROM schedules WHERE repository = ? AND key NOT IN (SELECT value FROM json_each(?))`, repository, string(kept))
	})
	if err != nil {
		return fmt.Errorf("forget schedules of %s: %w", repository, err)
	}
	return nil
}
