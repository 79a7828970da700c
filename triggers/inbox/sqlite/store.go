// Package sqlite keeps the inbox in one SQLite file. All writes go through one
// goroutine that commits what has gathered in one transaction: many webhooks
// share one fsync, and each is durable before its sender is answered.
package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	_ "modernc.org/sqlite" // registers the driver

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
)

// Defaults of Options.
const (
	// DefaultMaxPending bounds events that wait; more are refused with ErrFull.
	DefaultMaxPending = 100_000
	// DefaultKeep is how many ended events are kept: as long as one is kept,
	// its second delivery is recognised and it can be redelivered.
	DefaultKeep = 50_000
	// busyTimeout bounds the wait for another process that holds the file's lock.
	busyTimeout = 5 * time.Second
)

// Options of a store. Zero values mean the defaults.
type Options struct {
	MaxPending int
	Keep       int
	// MaxPages bounds the size of the file in pages of 4096 bytes; 0 means no
	// bound but the disk's.
	MaxPages int
}

// Store is an inbox.Store in a SQLite file, with the times at which schedules fired.
type Store struct {
	options Options
	read    *sql.DB
	writer  *writer
	changed chan struct{}
	close   func() error
}

var _ inbox.Store = (*Store)(nil)

// Open opens or creates the file. The directory must exist.
func Open(ctx context.Context, path string, options Options) (*Store, error) {
	if options.MaxPending == 0 {
		options.MaxPending = DefaultMaxPending
	}
	if options.Keep == 0 {
		options.Keep = DefaultKeep
	}
	fail := func(err error) (*Store, error) {
		return nil, fmt.Errorf("open inbox %s: %w", path, classify(err))
	}
	// SQLite makes the file by the umask; events may come from private repositories.
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fail(err)
	}
	if err := file.Close(); err != nil {
		return fail(err)
	}
	write, err := sql.Open("sqlite", dsn(path, "rwc", options))
	if err != nil {
		return fail(err)
	}
	write.SetMaxOpenConns(1)
	if _, err := write.ExecContext(ctx, schema); err != nil {
		return fail(errors.Join(err, write.Close()))
	}
	read, err := sql.Open("sqlite", dsn(path, "rw", options)+"&_pragma=query_only(1)")
	if err != nil {
		return fail(errors.Join(err, write.Close()))
	}
	read.SetMaxOpenConns(4)
	s := &Store{options: options, read: read, changed: make(chan struct{}, 1)}
	s.writer, err = newWriter(ctx, write, options)
	if err != nil {
		return fail(errors.Join(err, read.Close(), write.Close()))
	}
	s.close = sync.OnceValue(func() error {
		return errors.Join(s.writer.stop(), read.Close(), write.Close())
	})
	return s, nil
}

func dsn(path, mode string, options Options) string {
	q := url.Values{"mode": {mode}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"journal_mode(WAL)", "synchronous(FULL)", "temp_store(MEMORY)",
	}}
	if options.MaxPages > 0 {
		q.Add("_pragma", fmt.Sprintf("max_page_count(%d)", options.MaxPages))
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	return (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
}

// Close waits for writes under way and closes the file. It may be called twice.
func (s *Store) Close() error { return s.close() }

// Changed implements inbox.Store.
func (s *Store) Changed() <-chan struct{} { return s.changed }

func (s *Store) notify() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Put implements inbox.Store.
func (s *Store) Put(ctx context.Context, ev event.Event) (bool, error) {
	if ev.ID == "" {
		return false, errors.New("store event: it has no id")
	}
	body, err := json.Marshal(ev)
	if err != nil {
		return false, fmt.Errorf("store event %s: %w", ev.ID, err)
	}
	var stored bool
	err = s.writer.do(ctx, func(tx *transaction) error {
		stored, err = tx.put(ev, body)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("store event %s: %w", ev.ID, err)
	}
	if stored {
		s.notify()
	}
	return stored, nil
}

// Done implements inbox.Store.
func (s *Store) Done(ctx context.Context, id, note string, now time.Time) error {
	return s.end(ctx, id, inbox.Done, note, now)
}

// Bury implements inbox.Store.
func (s *Store) Bury(ctx context.Context, id, note string, now time.Time) error {
	return s.end(ctx, id, inbox.Dead, note, now)
}

func (s *Store) end(ctx context.Context, id string, status inbox.Status, note string, now time.Time) error {
	err := s.writer.do(ctx, func(tx *transaction) error {
		return tx.one(tx.leave,
			`UPDATE events SET status = ?, note = ?, finished = ? WHERE id = ? AND status = 'pending'`,
			string(status), note, now.UnixMilli(), id)
	})
	if err != nil {
		return fmt.Errorf("mark event %s %s: %w", id, status, err)
	}
	return nil
}

// Retry implements inbox.Store.
func (s *Store) Retry(ctx context.Context, id, note string, at time.Time) error {
	err := s.writer.do(ctx, func(tx *transaction) error {
		return tx.one(nil, `UPDATE events SET attempts = attempts + 1, note = ?, due = ? WHERE id = ? AND status = 'pending'`,
			note, at.UnixMilli(), id)
	})
	if err != nil {
		return fmt.Errorf("put event %s back: %w", id, err)
	}
	s.notify()
	return nil
}

// Redeliver implements inbox.Store.
func (s *Store) Redeliver(ctx context.Context, id string, now time.Time) error {
	err := s.writer.do(ctx, func(tx *transaction) error {
		return tx.one(tx.enter, `UPDATE events SET status = 'pending', attempts = 0, note = '', due = ?, finished = 0
			WHERE id = ? AND status <> 'pending'`, now.UnixMilli(), id)
	})
	if errors.Is(err, inbox.ErrNotFound) {
		if record, getErr := s.Get(ctx, id); getErr == nil && record.Status == inbox.Pending {
			return fmt.Errorf("redeliver event %s: it is pending already", id)
		}
	}
	if err != nil {
		return fmt.Errorf("redeliver event %s: %w", id, err)
	}
	s.notify()
	return nil
}
