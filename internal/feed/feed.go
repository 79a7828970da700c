// Package feed reads what happened in a run, journal entries and log lines, as
// one sequence in the order of their times.
package feed

import (
	"context"
	"fmt"
	"slices"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// page is how many log lines are held at once.
const page = 500

// Journal is what a Reader reads; journal.Journal has it all.
type Journal interface {
	Entries(ctx context.Context, runID string, after int64) ([]journal.Entry, error)
	Log(ctx context.Context, runID, stage string, after int64, limit int) ([]journal.Line, error)
}

// Reader remembers how far a run was read. It is not safe for concurrent use.
type Reader struct {
	Journal Journal
	RunID   string
	// Stages narrows the lines to those stages; nil means all.
	Stages []string
	// AfterEntry and AfterLine are the last sequence numbers read.
	AfterEntry, AfterLine int64
}

// Next hands on what is new since the last call: each kind in its own order,
// and the two merged by time. It returns when all that is there was handed on,
// or with the first error of entry or line.
func (r *Reader) Next(ctx context.Context, entry func(journal.Entry) error, line func(journal.Line) error) error {
	// Entries are read first: what a stage logged is stored before its end is,
	// so that no end is handed on ahead of a line.
	entries, err := r.Journal.Entries(ctx, r.RunID, r.AfterEntry)
	if err != nil {
		return fmt.Errorf("reading run %s: %w", r.RunID, err)
	}
	return merge(entries, func() ([]journal.Line, error) { return r.Lines(ctx) }, func(e journal.Entry) error {
		r.AfterEntry = e.Seq
		return entry(e)
	}, line)
}

// Lines returns some further log lines, none when there are no more yet.
func (r *Reader) Lines(ctx context.Context) ([]journal.Line, error) {
	stage := ""
	if len(r.Stages) == 1 {
		stage = r.Stages[0]
	}
	for {
		lines, err := r.Journal.Log(ctx, r.RunID, stage, r.AfterLine, page)
		if err != nil {
			return nil, fmt.Errorf("reading the log of run %s: %w", r.RunID, err)
		}
		if len(lines) == 0 {
			return nil, nil
		}
		r.AfterLine = lines[len(lines)-1].Seq
		if len(r.Stages) > 1 {
			lines = slices.DeleteFunc(lines, func(l journal.Line) bool { return !slices.Contains(r.Stages, l.Stage) })
		}
		if len(lines) > 0 {
			return lines, nil
		}
	}
}

// merge hands on entries and lines in the order of their times; of the same
// moment, entries come first. fetch gets more lines until it gets none.
func merge(entries []journal.Entry, fetch func() ([]journal.Line, error), entry func(journal.Entry) error, line func(journal.Line) error) error {
	var lines []journal.Line
	more := true
	for {
		if len(lines) == 0 && more {
			var err error
			if lines, err = fetch(); err != nil {
				return err
			}
			more = len(lines) > 0
		}
		var err error
		switch {
		case len(entries) > 0 && (len(lines) == 0 || !lines[0].Time.Before(entries[0].Time)):
			err, entries = entry(entries[0]), entries[1:]
		case len(lines) > 0:
			err, lines = line(lines[0]), lines[1:]
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}
