package sqlite

import (
	"context"
	"fmt"
	"time"
)

const (
	// pruneBatch bounds how many runs one transaction deletes, so that
	// appends wait only briefly.
	pruneBatch = 20
	// vacuumPages bounds how many free pages one clean-up gives back.
	vacuumPages = 2000
)

// Prune deletes finished runs that the limits no longer keep, entries and log
// included, and returns how many.
func (j *Journal) Prune(ctx context.Context, now time.Time) (deleted int, err error) {
	type limit struct {
		query string
		args  []any
	}
	var limits []limit
	if j.options.KeepFor > 0 {
		limits = append(limits, limit{`DELETE FROM runs WHERE number IN (SELECT number FROM runs WHERE finished > 0 AND finished < ? ORDER BY finished LIMIT ?)`,
			[]any{now.Add(-j.options.KeepFor).UnixNano(), pruneBatch}})
	}
	if j.options.KeepRuns > 0 {
		limits = append(limits, limit{`DELETE FROM runs WHERE number IN (SELECT number FROM runs WHERE finished > 0 AND number <= (SELECT number FROM runs WHERE finished > 0 ORDER BY number DESC LIMIT 1 OFFSET ?) ORDER BY number LIMIT ?)`,
			[]any{j.options.KeepRuns, pruneBatch}})
	}
	for _, l := range limits {
		for more := true; more; {
			var n int64
			err := j.writer.do(ctx, false, "", func(ctx context.Context) error {
				result, err := j.conn.ExecContext(ctx, l.query, l.args...)
				if err != nil {
					return err
				}
				n, err = result.RowsAffected()
				return err
			})
			if err != nil {
				return deleted, fmt.Errorf("delete old runs: %w", err)
			}
			deleted += int(n)
			more = n == pruneBatch
		}
	}
	if deleted == 0 {
		return 0, nil
	}
	err = j.writer.do(ctx, false, "", func(ctx context.Context) error {
		_, err := j.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", vacuumPages))
		return err
	})
	if err != nil {
		return deleted, fmt.Errorf("give back the space of old runs: %w", err)
	}
	return deleted, nil
}

func (j *Journal) pruneForever(ctx context.Context) {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for {
		if _, err := j.Prune(ctx, time.Now()); err != nil && ctx.Err() == nil && j.options.OnPruneError != nil {
			j.options.OnPruneError(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
