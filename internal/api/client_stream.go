package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strconv"
	"time"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// maxItem bounds one line of a stream. The first entry holds a whole plan.
const maxItem = 16 << 20

// Backoff says how a cut stream is taken up again.
type Backoff struct {
	// First is the wait after the first failure; each further one doubles it up to Max.
	First, Max time.Duration
	// GiveUp is how many failures in a row end the stream.
	GiveUp int
	// Silence is how long a stream may say nothing, not even a heartbeat,
	// before it counts as cut.
	Silence time.Duration
}

// DefaultBackoff rides out a restart of the server: about two minutes.
var DefaultBackoff = Backoff{First: 200 * time.Millisecond, Max: 10 * time.Second, GiveUp: 16, Silence: 3 * DefaultHeartbeat}

// wait is how long to wait after failure n, counted from 1; share, from 0 to
// 1, spreads clients that lost the same server.
func (b Backoff) wait(n int, share float64) time.Duration {
	d := b.First
	for ; n > 1 && d < b.Max; n-- {
		d *= 2
	}
	d = min(d, b.Max)
	return d/2 + time.Duration(share*float64(d/2))
}

// StreamOptions says what of a run to follow. The zero value is all so far.
type StreamOptions struct {
	// AfterEntry and AfterLine are the last sequence numbers seen.
	AfterEntry, AfterLine int64
	// Stage narrows the log lines; entries are always those of the whole run.
	Stage string
	// Follow goes on until the run has ended.
	Follow bool
	// Reconnecting, if set, is told of each failure before the wait.
	Reconnecting func(err error, wait time.Duration)
}

// Stream gives the entries and lines of a run to handle, each once and each
// kind in its order, and returns where the run stood at the end. A cut stream
// is taken up where it broke off. An error of handle ends it.
func (c *Client) Stream(ctx context.Context, id string, options StreamOptions, handle func(StreamItem) error) (StreamEnd, error) {
	var end *StreamEnd
	open := func() (string, url.Values) {
		query := url.Values{}
		query.Set("after_entry", strconv.FormatInt(options.AfterEntry, 10))
		query.Set("after_line", strconv.FormatInt(options.AfterLine, 10))
		query.Set("follow", strconv.FormatBool(options.Follow))
		if options.Stage != "" {
			query.Set("stage", options.Stage)
		}
		return "/runs/" + url.PathEscape(id) + "/stream", query
	}
	err := c.follow(ctx, open, options.Reconnecting, func(data []byte) (bool, error) {
		var item StreamItem
		if err := json.Unmarshal(data, &item); err != nil {
			return false, fmt.Errorf("the stream of %s is not what a Tidegate server sends: %w", c.Server(), err)
		}
		switch {
		case item.End != nil:
			end = item.End
			return true, nil
		case item.Entry != nil:
			if item.Entry.Seq <= options.AfterEntry {
				return false, nil
			}
			options.AfterEntry = item.Entry.Seq
		case item.Line != nil:
			if item.Line.Seq <= options.AfterLine {
				return false, nil
			}
			options.AfterLine = item.Line.Seq
		default:
			return false, nil
		}
		if err := handle(item); err != nil {
			return false, &handlerError{err}
		}
		return false, nil
	})
	if err != nil {
		return StreamEnd{}, err
	}
	return *end, nil
}

// FollowList gives the list of runs to handle, at once and whenever it
// changes, until ctx ends or handle returns an error.
func (c *Client) FollowList(ctx context.Context, filter journal.Filter, reconnecting func(error, time.Duration), handle func([]journal.Summary) error) error {
	open := func() (string, url.Values) {
		query := filterQuery(filter)
		query.Set("follow", "1")
		return "/runs", query
	}
	return c.follow(ctx, open, reconnecting, func(data []byte) (bool, error) {
		var item ListItem
		if err := json.Unmarshal(data, &item); err != nil {
			return false, fmt.Errorf("the stream of %s is not what a Tidegate server sends: %w", c.Server(), err)
		}
		if item.Runs == nil {
			return false, nil
		}
		if err := handle(*item.Runs); err != nil {
			return false, &handlerError{err}
		}
		return false, nil
	})
}

// handlerError is an error of the caller's own: no reason to try again.
type handlerError struct{ err error }

func (e *handlerError) Error() string { return e.err.Error() }
func (e *handlerError) Unwrap() error { return e.err }

// follow reads a stream to its end, reconnecting as often as needed. handle
// gets each line and tells whether it was the last.
func (c *Client) follow(ctx context.Context, open func() (string, url.Values), reconnecting func(error, time.Duration), handle func([]byte) (bool, error)) error {
	for failures := 0; ; {
		progressed := false
		done, err := c.readStream(ctx, open, func(data []byte) (bool, error) {
			progressed = true
			return handle(data)
		})
		var own *handlerError
		switch {
		case done:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &own):
			return own.err
		case terminal(err):
			return err
		}
		if progressed {
			failures = 0
		}
		if failures++; failures > c.retry.GiveUp {
			return err
		}
		wait := c.retry.wait(failures, rand.Float64())
		if reconnecting != nil {
			reconnecting(err, wait)
		}
		pause(ctx, nil, wait)
	}
}

// terminal tells whether an error would be the same the next time.
func terminal(err error) bool {
	cause := pipeline.CauseOf(err)
	return cause == pipeline.CauseInvalid || cause == pipeline.CauseRefused
}

// readStream reads one connection's worth of a stream.
func (c *Client) readStream(ctx context.Context, open func() (string, url.Values), handle func([]byte) (bool, error)) (done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	path, query := open()
	silence := time.AfterFunc(requestTimeout+c.retry.Silence, cancel)
	defer silence.Stop()
	response, err := c.do(ctx, "GET", path, query, nil)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	reader := bufio.NewReaderSize(response.Body, 64<<10)
	for {
		silence.Reset(c.retry.Silence)
		data, err := readItem(reader)
		if err != nil {
			return false, fmt.Errorf("the stream from %s was cut: %w", c.Server(), err)
		}
		silence.Stop() // a handler may take its time
		if done, err := handle(data); done || err != nil {
			return done, err
		}
	}
}

// readItem reads one line of bounded length.
func readItem(reader *bufio.Reader) ([]byte, error) {
	var item []byte
	for {
		part, err := reader.ReadSlice('\n')
		if len(item)+len(part) > maxItem {
			return nil, fmt.Errorf("a line is longer than %d bytes", maxItem)
		}
		item = append(item, part...)
		switch {
		case err == nil:
			return item, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}
