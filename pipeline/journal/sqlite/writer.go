package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	// groupLimit bounds how many requests share one transaction.
	groupLimit = 256
	// stateCache bounds how many runs' states the writer keeps folded.
	stateCache = 512
)

var errClosed = errors.New("the journal is closed")

// change is one request to the writer: it runs inside a transaction, and
// either all of it is stored or nothing.
type change struct {
	apply func(ctx context.Context) error
	// durable asks for a sync before the answer.
	durable bool
	// run is told to watchers when stored; empty tells none.
	run    string
	err    error
	answer chan struct{}
}

// writer owns the only connection that writes. Requests that arrive while a
// transaction syncs share the next one: one sync for all of them.
type writer struct {
	conn     *sql.Conn
	logLimit int64
	notify   func(run string)
	prepared map[string]*sql.Stmt
	states   map[string]*journal.State
	full     bool // synchronous=FULL is in force

	requests chan *change
	closing  chan struct{}
	done     chan struct{} // serve has returned
	once     sync.Once
}

func newWriter(ctx context.Context, conn *sql.Conn, logLimit int64, notify func(string)) (*writer, error) {
	w := &writer{
		conn: conn, logLimit: logLimit, notify: notify, full: true,
		prepared: map[string]*sql.Stmt{}, states: map[string]*journal.State{},
		requests: make(chan *change, groupLimit), closing: make(chan struct{}), done: make(chan struct{}),
	}
	for _, query := range statements {
		stmt, err := conn.PrepareContext(ctx, query) //nolint:sqlclosecheck // closeStatements does
		if err != nil {
			return nil, errors.Join(fmt.Errorf("prepare %q: %w", query, err), w.closeStatements())
		}
		w.prepared[query] = stmt // closed by closeStatements
	}
	return w, nil
}

func (w *writer) close() { w.once.Do(func() { close(w.closing) }) }

func (w *writer) closeStatements() error {
	var errs []error
	for _, stmt := range w.prepared {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(errs...)
}

// do hands a change to the writer and waits for its answer. Once handed over
// it is waited for even if ctx ends, so that the answer is always the truth.
func (w *writer) do(ctx context.Context, durable bool, run string, apply func(ctx context.Context) error) error {
	c := &change{apply: apply, durable: durable, run: run, answer: make(chan struct{})}
	select {
	case <-w.closing:
		return errClosed
	default:
	}
	select {
	case w.requests <- c:
	case <-w.closing:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-c.answer:
		return c.err
	case <-w.done:
	}
	select {
	case <-c.answer:
		return c.err
	default:
		return errClosed
	}
}

// serve stores changes until close, then those already handed over.
func (w *writer) serve() {
	defer close(w.done)
	for {
		select {
		case c := <-w.requests:
			w.store(w.group(c))
		case <-w.closing:
			for {
				select {
				case c := <-w.requests:
					w.store(w.group(c))
				default:
					return
				}
			}
		}
	}
}

func (w *writer) group(first *change) []*change {
	group := []*change{first}
	for len(group) < groupLimit {
		select {
		case c := <-w.requests:
			group = append(group, c)
		default:
			return group
		}
	}
	return group
}

// store runs the group in one transaction. If the storage refuses, each
// change gets a transaction of its own, so that one cannot fail another.
func (w *writer) store(group []*change) {
	// The writer answers to its owner, not to a caller that may go away in the
	// middle of a transaction that others share.
	ctx := context.Background()
	if err := w.transaction(ctx, group); err != nil {
		for _, c := range group {
			if len(group) > 1 {
				err = w.transaction(ctx, []*change{c})
			}
			if err != nil {
				c.err = err
			}
		}
	}
	notified := map[string]bool{}
	for _, c := range group {
		if c.err == nil && c.run != "" && !notified[c.run] {
			notified[c.run] = true
			w.notify(c.run)
		}
		close(c.answer)
	}
}

// transaction returns an error when the storage failed and nothing is stored.
// A refusal (a lost lease, a finished run) is the answer of its change alone.
func (w *writer) transaction(ctx context.Context, group []*change) (err error) {
	durable := false
	for _, c := range group {
		c.err = nil
		durable = durable || c.durable
	}
	if err := w.synchronous(ctx, durable); err != nil {
		return err
	}
	if _, err := w.prepared[begin].ExecContext(ctx); err != nil {
		return storageError(fmt.Errorf("begin: %w", err))
	}
	defer func() {
		if err != nil {
			// What was folded in is not stored after all.
			clear(w.states)
			// SQLite may have rolled back by itself (disk full); then this fails, harmlessly.
			_, _ = w.conn.ExecContext(ctx, "ROLLBACK")
		}
	}()
	for _, c := range group {
		c.err = c.apply(ctx)
		var refused *refusal
		if c.err == nil {
			continue
		}
		if !errors.As(c.err, &refused) {
			return storageError(c.err)
		}
		c.err = refused.err
	}
	if _, err := w.prepared[commit].ExecContext(ctx); err != nil {
		return storageError(fmt.Errorf("commit: %w", err))
	}
	return nil
}

func (w *writer) synchronous(ctx context.Context, full bool) error {
	if full == w.full {
		return nil
	}
	mode := "NORMAL"
	if full {
		mode = "FULL"
	}
	if _, err := w.conn.ExecContext(ctx, "PRAGMA synchronous = "+mode); err != nil {
		return storageError(err)
	}
	w.full = full
	return nil
}

// refusal is an answer that concerns one change only; it is given before the
// change has written anything.
type refusal struct{ err error }

func (r *refusal) Error() string { return r.err.Error() }

func refuse(format string, args ...any) error { return &refusal{fmt.Errorf(format, args...)} }
