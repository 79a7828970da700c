package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	driver "modernc.org/sqlite"
	code "modernc.org/sqlite/lib"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
)

const (
	// maxBatch bounds one transaction, so that the first of it never waits long.
	maxBatch = 512
	// queueLength bounds writes that wait; more wait with their callers.
	queueLength = 1024
	// pruneEvery is how many events end before old ones are dropped.
	pruneEvery = 1000
)

var errClosed = errors.New("the inbox is closed")

// writer owns the only connection that writes.
type writer struct {
	db      *sql.DB
	options Options
	queue   chan *write
	stopped chan struct{} // closed by stop
	ended   chan struct{} // closed when the goroutine has returned
	once    sync.Once

	insert *sql.Stmt
	// Owned by the goroutine.
	pending  int
	finished int // events that ended since the last pruning
}

// write is one caller's change, done in a transaction with others.
type write struct {
	ctx    context.Context
	change func(*transaction) error
	result chan error
}

func newWriter(ctx context.Context, db *sql.DB, options Options) (*writer, error) {
	w := &writer{
		db: db, options: options,
		queue: make(chan *write, queueLength), stopped: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM events WHERE status = 'pending'`).Scan(&w.pending); err != nil {
		return nil, err
	}
	var err error
	w.insert, err = db.PrepareContext(ctx, `INSERT INTO events (id, lane, repository, status, event, received)
		VALUES (?, ?, ?, 'pending', ?, ?) ON CONFLICT (id) DO NOTHING`)
	if err != nil {
		return nil, err
	}
	go w.run()
	return w, nil
}

// do waits until the change is durable. When ctx ends first the change may
// still happen.
func (w *writer) do(ctx context.Context, change func(*transaction) error) error {
	job := &write{ctx: ctx, change: change, result: make(chan error, 1)}
	select {
	case <-w.stopped:
		return errClosed
	default:
	}
	select {
	case w.queue <- job:
	case <-w.stopped:
		return errClosed
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", inbox.ErrBusy, ctx.Err())
	}
	select {
	case err := <-job.result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", inbox.ErrBusy, ctx.Err())
	case <-w.ended:
		// The goroutine answers all that it took before it ends.
		select {
		case err := <-job.result:
			return err
		default:
			return errClosed
		}
	}
}

func (w *writer) stop() error {
	w.once.Do(func() { close(w.stopped) })
	<-w.ended
	return w.insert.Close()
}

func (w *writer) run() {
	defer close(w.ended)
	batch := make([]*write, 0, maxBatch)
	for {
		select {
		case job := <-w.queue:
			batch = append(batch[:0], job)
		case <-w.stopped:
			return
		}
		for len(batch) < maxBatch {
			select {
			case job := <-w.queue:
				batch = append(batch, job)
				continue
			default:
			}
			break
		}
		w.commit(batch)
		if w.finished >= pruneEvery {
			w.prune()
		}
	}
}

// commit carries out a batch in one transaction. When that fails, each change
// is tried by itself: one that cannot be done harms no other.
func (w *writer) commit(batch []*write) {
	if len(batch) > 1 {
		if w.attempt(batch) == nil {
			for _, job := range batch {
				job.result <- nil
			}
			return
		}
	}
	for _, job := range batch {
		job.result <- w.attempt([]*write{job})
	}
}

// attempt is one transaction. A caller that is gone is passed over.
func (w *writer) attempt(batch []*write) error {
	// The writer answers to its owner, not to a caller that may go away in the
	// middle of a transaction that others share.
	ctx := context.Background()
	sqlTx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return classify(err)
	}
	tx := &transaction{ctx: ctx, tx: sqlTx, insert: sqlTx.StmtContext(ctx, w.insert), pending: w.pending, maxPending: w.options.MaxPending}
	for _, job := range batch {
		if err = job.ctx.Err(); err != nil && len(batch) > 1 {
			continue
		}
		if err == nil {
			err = job.change(tx)
		}
		if err != nil {
			// SQLite has rolled back by itself after some failures: no second error matters.
			_ = sqlTx.Rollback()
			return classify(err)
		}
	}
	if err := sqlTx.Commit(); err != nil {
		_ = sqlTx.Rollback()
		return classify(err)
	}
	w.pending = tx.pending
	w.finished += tx.finished
	return nil
}

// prune drops the oldest ended events beyond those to keep. It is tidying: when
// it fails, the next time will do.
func (w *writer) prune() {
	w.finished = 0
	_, _ = w.db.ExecContext(context.Background(), `DELETE FROM events WHERE seq IN (
		SELECT seq FROM events WHERE status <> 'pending' ORDER BY seq DESC LIMIT -1 OFFSET ?)`, w.options.Keep)
}

// transaction is what a change may do.
type transaction struct {
	ctx        context.Context // the writer's
	tx         *sql.Tx
	insert     *sql.Stmt
	pending    int
	finished   int
	maxPending int
}

func (t *transaction) put(ev event.Event, body []byte) (bool, error) {
	if t.pending >= t.maxPending {
		var known int
		err := t.tx.QueryRowContext(t.ctx, `SELECT count(*) FROM events WHERE id = ?`, ev.ID).Scan(&known)
		if err != nil || known > 0 {
			return false, err
		}
		return false, fmt.Errorf("%w: %d events are pending", inbox.ErrFull, t.pending)
	}
	result, err := t.insert.ExecContext(t.ctx, ev.ID, ev.Repository.FullName+"\x00"+ev.Ref, ev.Repository.FullName, body, ev.ReceivedAt.UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := result.RowsAffected()
	if err != nil {
		return false, err
	}
	t.pending += int(n)
	return n == 1, nil
}

func (t *transaction) exec(query string, args ...any) error {
	_, err := t.tx.ExecContext(t.ctx, query, args...)
	return err
}

// leave and enter keep the counts right when an event stops or starts to be pending.
func (t *transaction) leave() { t.pending--; t.finished++ }
func (t *transaction) enter() { t.pending++ }

// one changes exactly one row, or fails with ErrNotFound.
func (t *transaction) one(then func(), query string, args ...any) error {
	result, err := t.tx.ExecContext(t.ctx, query, args...)
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	switch {
	case err != nil:
		return err
	case n == 0:
		return inbox.ErrNotFound
	}
	if then != nil {
		then()
	}
	return nil
}

// classify names the failures that callers branch on.
func classify(err error) error {
	var e *driver.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff { // the primary result code
	case code.SQLITE_FULL:
		return fmt.Errorf("%w: %w", inbox.ErrFull, err)
	case code.SQLITE_BUSY, code.SQLITE_LOCKED:
		return fmt.Errorf("%w: %w", inbox.ErrBusy, err)
	}
	return err
}
