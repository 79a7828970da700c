package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// The writer's statements, prepared once.
const (
	begin       = `BEGIN IMMEDIATE`
	commit      = `COMMIT`
	insertRun   = `INSERT INTO runs (id, pipeline, repository, ref, revision, event, actor, status, created, seq) VALUES (?,?,?,?,?,?,?,?,?,1) ON CONFLICT (id) DO NOTHING`
	selectRun   = `SELECT number, seq, token, worker, expires, finished, log_seq, log_bytes, log_full FROM runs WHERE id = ?`
	insertEntry = `INSERT INTO entries (run, seq, data) VALUES (?,?,?)`
	updateRun   = `UPDATE runs SET seq = ?, status = ?, cause = ?, message = ?, started = ?, finished = ? WHERE number = ?`
	updateSeq   = `UPDATE runs SET seq = ? WHERE number = ?`
	updateLease = `UPDATE runs SET worker = ?, token = ?, expires = ? WHERE number = ?`
	insertChunk = `INSERT INTO log_chunks (run, last, first, stage, codec, data) VALUES (?,?,?,?,?,?)`
	updateLog   = `UPDATE runs SET log_seq = ?, log_bytes = ?, log_full = ? WHERE number = ?`
	entriesOf   = `SELECT data FROM entries WHERE run = ? AND seq > ? ORDER BY seq`
)

var statements = []string{begin, commit, insertRun, selectRun, insertEntry, updateRun, updateSeq, updateLease, insertChunk, updateLog, entriesOf}

// row is what the writer needs to know of a run before it changes it.
type row struct {
	number, seq, token, expires, finished int64
	worker                                string
	logSeq, logBytes                      int64
	logFull                               bool
}

func (w *writer) row(ctx context.Context, runID string) (row, error) {
	var r row
	err := w.prepared[selectRun].QueryRowContext(ctx, runID).Scan(&r.number, &r.seq, &r.token, &r.worker, &r.expires, &r.finished, &r.logSeq, &r.logBytes, &r.logFull)
	if errors.Is(err, sql.ErrNoRows) {
		return r, refuse("run %q: %w", runID, journal.ErrNotFound)
	}
	return r, err
}

func (w *writer) exec(ctx context.Context, query string, args ...any) error {
	_, err := w.prepared[query].ExecContext(ctx, args...)
	return err
}

// Create implements journal.Journal.
func (j *Journal) Create(ctx context.Context, runID string, plan *pipeline.Plan, now time.Time) (created bool, err error) {
	if runID == "" || plan == nil {
		return false, pipeline.Fail(pipeline.CauseInvalid, "create a run: it needs an id and a plan")
	}
	entry := journal.Entry{RunID: runID, Seq: 1, Time: now.UTC(), Type: journal.RunCreated, Plan: plan}
	data, err := json.Marshal(entry)
	if err != nil {
		return false, fmt.Errorf("create run %q: encode the plan: %w", runID, err)
	}
	err = j.writer.do(ctx, true, runID, func(ctx context.Context) error {
		e := plan.Event
		result, err := j.writer.prepared[insertRun].ExecContext(ctx, runID, plan.Pipeline, e.Repository.FullName, e.Ref, e.Commit, string(e.Kind), e.Actor, string(journal.Pending), nanoseconds(now))
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			created = false
			return err
		}
		number, err := result.LastInsertId()
		if err != nil {
			return err
		}
		created = true
		return j.writer.exec(ctx, insertEntry, number, 1, data)
	})
	if err != nil {
		return false, fmt.Errorf("create run %q: %w", runID, err)
	}
	return created, nil
}

// Append implements journal.Journal.
func (j *Journal) Append(ctx context.Context, runID string, lease *journal.Lease, entries ...journal.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	durable := false
	for i := range entries {
		entries[i].RunID = runID
		entries[i].Time = entries[i].Time.UTC()
		switch t := entries[i].Type; t {
		case journal.DecisionMade, journal.CancelRequested:
			durable = true
		case journal.StageProgress:
		default:
			durable = true
		}
		if people := entries[i].Type == journal.DecisionMade || entries[i].Type == journal.CancelRequested; lease == nil && !people {
			return fmt.Errorf("append to run %q: a %s entry needs a lease", runID, entries[i].Type)
		}
	}
	// Seqs go to the caller only when they are stored.
	stored := append([]journal.Entry(nil), entries...)
	err := j.writer.do(ctx, durable, runID, func(ctx context.Context) error {
		return j.writer.appendEntries(ctx, runID, lease, stored)
	})
	if err != nil {
		return fmt.Errorf("append to run %q: %w", runID, err)
	}
	copy(entries, stored)
	return nil
}

func (w *writer) appendEntries(ctx context.Context, runID string, lease *journal.Lease, entries []journal.Entry) error {
	r, err := w.row(ctx, runID)
	if err != nil {
		return err
	}
	if lease != nil && lease.Token != r.token {
		return &refusal{journal.ErrFenced}
	}
	if r.finished != 0 {
		return &refusal{journal.ErrFinished}
	}
	state, err := w.state(ctx, runID, r)
	if err != nil {
		return err
	}
	before := state.Status
	for i := range entries {
		entries[i].Seq = r.seq + int64(i) + 1
		data, err := json.Marshal(entries[i])
		if err != nil {
			return fmt.Errorf("encode entry: %w", err)
		}
		if err := w.exec(ctx, insertEntry, r.number, entries[i].Seq, data); err != nil {
			return err
		}
		state.Apply(entries[i])
	}
	if state.Status == before {
		return w.exec(ctx, updateSeq, state.Seq, r.number)
	}
	if state.Status.Final() {
		delete(w.states, runID)
	}
	return w.exec(ctx, updateRun, state.Seq, string(state.Status), string(state.Cause), state.Message, nanoseconds(state.Started), nanoseconds(state.Finished), r.number)
}

// state returns the run's state at r.seq, folding what it has not seen:
// another process may have appended.
func (w *writer) state(ctx context.Context, runID string, r row) (*journal.State, error) {
	state := w.states[runID]
	if state == nil {
		if len(w.states) >= stateCache {
			clear(w.states)
		}
		state = &journal.State{}
		w.states[runID] = state
	}
	if state.Seq == r.seq {
		return state, nil
	}
	rows, err := w.prepared[entriesOf].QueryContext(ctx, r.number, state.Seq)
	if err != nil {
		return nil, err
	}
	entries, err := scanEntries(rows)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		state.Apply(entries[i])
	}
	return state, nil
}

func scanEntries(rows *sql.Rows) (_ []journal.Entry, err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	var entries []journal.Entry
	for rows.Next() {
		var data sql.RawBytes
		if err := rows.Scan(&data); err != nil {
			return nil, err
		}
		var entry journal.Entry
		if err := json.Unmarshal(data, &entry); err != nil {
			return nil, fmt.Errorf("decode entry: %w", err)
		}
		entries = append(entries, entry)
	}
	return entries, rows.Err()
}

// Acquire implements journal.Journal. A worker that asks again for its own
// lease gets a new one: its name is unique among live processes, so the old
// holder is dead, and fenced in any case.
func (j *Journal) Acquire(ctx context.Context, runID, worker string, now time.Time, ttl time.Duration) (lease journal.Lease, ok bool, err error) {
	err = j.writer.do(ctx, false, "", func(ctx context.Context) error {
		r, err := j.writer.row(ctx, runID)
		if err != nil {
			return err
		}
		if r.finished != 0 {
			return &refusal{journal.ErrFinished}
		}
		if r.worker != "" && r.worker != worker && r.expires > now.UnixNano() {
			ok = false
			return nil
		}
		ok = true
		lease = journal.Lease{RunID: runID, Worker: worker, Token: r.token + 1, Expires: now.Add(ttl)}
		return j.writer.exec(ctx, updateLease, worker, lease.Token, nanoseconds(lease.Expires), r.number)
	})
	if err != nil {
		return journal.Lease{}, false, fmt.Errorf("lease run %q: %w", runID, err)
	}
	return lease, ok, nil
}

// Renew implements journal.Journal.
func (j *Journal) Renew(ctx context.Context, lease journal.Lease, now time.Time, ttl time.Duration) (journal.Lease, error) {
	renewed := lease
	renewed.Expires = now.Add(ttl)
	err := j.setLease(ctx, lease, lease.Worker, nanoseconds(renewed.Expires))
	if err != nil {
		return lease, fmt.Errorf("renew the lease of run %q: %w", lease.RunID, err)
	}
	return renewed, nil
}

// Release implements journal.Journal.
func (j *Journal) Release(ctx context.Context, lease journal.Lease) error {
	if err := j.setLease(ctx, lease, "", 0); err != nil {
		return fmt.Errorf("release run %q: %w", lease.RunID, err)
	}
	return nil
}

func (j *Journal) setLease(ctx context.Context, lease journal.Lease, worker string, expires int64) error {
	return j.writer.do(ctx, false, "", func(ctx context.Context) error {
		r, err := j.writer.row(ctx, lease.RunID)
		if err != nil {
			return err
		}
		if r.token != lease.Token {
			return &refusal{journal.ErrFenced}
		}
		return j.writer.exec(ctx, updateLease, worker, r.token, expires, r.number)
	})
}
