package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/tidegate-ci/tidegate/internal/feed"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

func (h *handler) streamRun(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	afterEntry, err := parseSequence(query, "after_entry")
	if err != nil {
		return err
	}
	afterLine, err := parseSequence(query, "after_line")
	if err != nil {
		return err
	}
	follow, err := parseFlag(query, "follow")
	if err != nil {
		return err
	}
	state, err := h.state(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	selected, err := selectStages(state, query.Get("stage"))
	if err != nil {
		return err
	}
	reader := feed.Reader{Journal: h.Journal, RunID: state.RunID, Stages: selected, AfterEntry: afterEntry, AfterLine: afterLine}
	return h.stream(w, r, state.RunID, follow, func(ctx context.Context, emit func(any) error) (bool, error) {
		err := reader.Next(ctx, func(entry journal.Entry) error {
			state.Apply(entry)
			return emit(StreamItem{Entry: &entry})
		}, func(line journal.Line) error { return emit(StreamItem{Line: &line}) })
		if err != nil || (follow && !state.Status.Final()) {
			return false, err
		}
		return true, emit(StreamItem{End: &StreamEnd{Status: state.Status, Cause: string(state.Cause)}})
	})
}

// followList sends the list again whenever it changed.
func (h *handler) followList(w http.ResponseWriter, r *http.Request, filter journal.Filter) error {
	var last []byte
	return h.stream(w, r, "", true, func(ctx context.Context, emit func(any) error) (bool, error) {
		runs, err := h.list(ctx, filter)
		if err != nil {
			return false, err
		}
		encoded, err := json.Marshal(runs)
		if err != nil {
			return false, err
		}
		if last != nil && slices.Equal(last, encoded) {
			return false, nil
		}
		last = encoded
		return false, emit(ListItem{Runs: &runs})
	})
}

// minRound is the least time from one round of a stream to the next, so that a
// chatty run costs a few reads a second a client and not one a line, while the
// first line after a silence goes out at once.
const minRound = 50 * time.Millisecond

// stream writes NDJSON: round sends what is new and tells whether that was all;
// it is called at first and whenever the journal says that something changed.
func (h *handler) stream(w http.ResponseWriter, r *http.Request, runID string, follow bool,
	round func(ctx context.Context, emit func(any) error) (done bool, err error),
) error {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		return failf(CodeUnavailable, "try again when others have ended", "%d streams are open, which is the limit", maxStreams)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	var changed <-chan struct{}
	if follow {
		changed = h.Journal.Watch(ctx, runID) // before the first read: nothing falls between
	}
	heartbeat := time.NewTicker(h.Heartbeat)
	defer heartbeat.Stop()

	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold lines back
	control := http.NewResponseController(w)
	encoder := json.NewEncoder(w)
	emit := func(item any) error {
		if err := h.extendDeadline(control); err != nil {
			return err
		}
		if err := encoder.Encode(item); err != nil {
			return errGone
		}
		return nil
	}
	for {
		begun := time.Now()
		done, err := round(ctx, emit)
		if err == nil {
			if control.Flush() != nil {
				err = errGone
			}
		}
		if err != nil || done {
			return h.endStream(r, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.Stopping:
			return nil
		case <-heartbeat.C:
			now := time.Now().UTC()
			if err := emit(StreamItem{Heartbeat: &now}); err != nil {
				return nil
			}
		case _, ok := <-changed:
			if !ok {
				return nil
			}
			pause(ctx, h.Stopping, minRound-time.Since(begun))
		}
	}
}

var errGone = failf(CodeUnavailable, "", "the client went away")

// endStream deals with the error of a stream that has begun: its status is
// sent, so that all that is left is to cut it, which makes the client come back.
func (h *handler) endStream(r *http.Request, err error) error {
	if err == nil || r.Context().Err() != nil {
		return nil //nolint:nilerr // the client went away: nobody is left to tell
	}
	if errorFor(err) != errGone {
		h.logFailure(r, err)
	}
	panic(http.ErrAbortHandler)
}

// pause waits for d, or less when one of the others ends first.
func pause(ctx context.Context, stopping <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-stopping:
	case <-ctx.Done():
	}
}

// extendDeadline gives the client so long again to take the next bytes. A
// writer that knows no deadlines (a test's recorder) is bounded by other means.
func (h *handler) extendDeadline(control *http.ResponseController) error {
	err := control.SetWriteDeadline(time.Now().Add(h.WriteTimeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errGone
	}
	return nil
}
