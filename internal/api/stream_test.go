package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

func TestStreamOfWhatIsThere(t *testing.T) {
	f := newFixture(t, nil)
	lease := f.create("run")
	f.append(lease, journal.Entry{Type: journal.AttemptStarted, Stage: "unit (race=true)", Attempt: 1, Time: start.Add(time.Second)})
	f.log("run", "unit (race=true)", start.Add(2*time.Second), "between")
	f.append(lease, journal.Entry{Type: journal.AttemptFinished, Stage: "unit (race=true)", Attempt: 1, Time: start.Add(3 * time.Second)})
	f.log("run", "production", start.Add(4*time.Second), "last")

	stream := func(options StreamOptions) (items []string, end StreamEnd) {
		end, err := f.client("reader").Stream(t.Context(), "run", options, func(item StreamItem) error {
			items = append(items, describe(item))
			return nil
		})
		require.NoError(t, err)
		return items, end
	}
	items, end := stream(StreamOptions{})
	require.Equal(t, []string{"run_created", "run_started", "attempt_started", "between", "attempt_finished", "last"}, items)
	require.Equal(t, journal.Running, end.Status)
	items, _ = stream(StreamOptions{AfterEntry: 3, AfterLine: 1})
	require.Equal(t, []string{"attempt_finished", "last"}, items)
	items, _ = stream(StreamOptions{AfterEntry: 3, Stage: "unit"})
	require.Equal(t, []string{"between", "attempt_finished"}, items)
}

func describe(item StreamItem) string {
	if item.Line != nil {
		return item.Line.Text
	}
	return string(item.Entry.Type)
}

// TestFollow writes each next thing only when the one before has arrived, so
// that all of it must have come live.
func TestFollow(t *testing.T) {
	f := newFixture(t, nil)
	lease := f.create("run")
	var items []string
	end, err := f.client("reader").Stream(t.Context(), "run", StreamOptions{Follow: true}, func(item StreamItem) error {
		items = append(items, describe(item))
		switch describe(item) {
		case "run_started":
			f.append(lease, journal.Entry{Type: journal.AttemptStarted, Stage: "production", Attempt: 1})
		case "attempt_started":
			f.log("run", "production", start, "hello")
		case "hello":
			f.log("run", "production", start, "bye")
			f.append(lease, journal.Entry{Type: journal.RunFinished, Status: journal.Succeeded})
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []string{"run_created", "run_started", "attempt_started", "hello", "bye", "run_finished"}, sortLast(items))
	require.Equal(t, journal.Succeeded, end.Status)
}

// sortLast puts the end behind a line of the same moment.
func sortLast(items []string) []string {
	if n := len(items); n > 1 && items[n-2] == "run_finished" {
		items[n-2], items[n-1] = items[n-1], items[n-2]
	}
	return items
}

// TestReconnect cuts each connection after a few items.
func TestReconnect(t *testing.T) {
	f := newFixture(t, nil)
	lease := f.create("run")
	const lines = 40
	for i := range lines {
		f.log("run", "production", start.Add(time.Duration(i)), fmt.Sprint(i))
	}
	var connections atomic.Int32
	flaky := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connections.Add(1)
		f.handler.ServeHTTP(&cutWriter{ResponseWriter: w, left: 7}, r)
	}))
	defer flaky.Close()
	client := f.client("reader")
	var err error
	client.base, err = client.base.Parse(flaky.URL)
	require.NoError(t, err)

	f.append(lease, journal.Entry{Type: journal.RunFinished, Status: journal.Failed, Time: start.Add(time.Hour)})
	var items []string
	var told int
	options := StreamOptions{Follow: true, Reconnecting: func(error, time.Duration) { told++ }}
	end, err := client.Stream(t.Context(), "run", options, func(item StreamItem) error {
		items = append(items, describe(item))
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, journal.Failed, end.Status)
	require.Len(t, items, lines+3, "each once")
	require.Equal(t, "run_finished", items[len(items)-1])
	require.Greater(t, connections.Load(), int32(4))
	require.Equal(t, int(connections.Load())-1, told)
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *cutWriter) Write(p []byte) (int, error) {
	if c.left--; c.left < 0 {
		if err := http.NewResponseController(c.ResponseWriter).Flush(); err != nil {
			return 0, err
		}
		panic(http.ErrAbortHandler)
	}
	return c.ResponseWriter.Write(p)
}

func TestClientGivesUp(t *testing.T) {
	f := newFixture(t, nil)
	client := f.client("reader")
	f.server.Close()
	var told int
	_, err := client.Stream(t.Context(), "run", StreamOptions{Follow: true, Reconnecting: func(error, time.Duration) { told++ }},
		func(StreamItem) error { return nil })
	require.ErrorContains(t, err, "can't reach the server")
	require.Equal(t, client.retry.GiveUp, told)
}

func TestStreamStopsForTheCaller(t *testing.T) {
	f := newFixture(t, nil)
	f.create("run")
	own := errors.New("my disk is full")
	_, err := f.client("reader").Stream(t.Context(), "run", StreamOptions{Follow: true}, func(StreamItem) error { return own })
	require.ErrorIs(t, err, own)

	ctx, cancel := context.WithCancel(t.Context())
	_, err = f.client("reader").Stream(ctx, "run", StreamOptions{Follow: true}, func(StreamItem) error {
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
}

// TestStopping: a server that shuts down ends followed streams.
func TestStopping(t *testing.T) {
	f := newFixture(t, nil)
	f.create("run")
	client := f.client("reader")
	client.retry.GiveUp = 0
	_, err := client.Stream(t.Context(), "run", StreamOptions{Follow: true}, func(item StreamItem) error {
		if describe(item) == "run_started" {
			close(f.stopping)
		}
		return nil
	})
	require.ErrorContains(t, err, "was cut")
}

func TestHeartbeat(t *testing.T) {
	f := newFixture(t, func(s *Settings) { s.Heartbeat = time.Millisecond })
	f.create("run")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.server.URL+Prefix+"/runs/run/stream?follow=1", nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+f.secrets["reader"])
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	var got strings.Builder
	buffer := make([]byte, 512)
	for strings.Count(got.String(), `{"heartbeat":"`) < 3 {
		n, err := response.Body.Read(buffer)
		require.NoError(t, err)
		got.Write(buffer[:n])
	}
}

// TestSlowClient: one that never reads is let go and its slot given back.
func TestSlowClient(t *testing.T) {
	f := newFixture(t, func(s *Settings) { s.WriteTimeout = 20 * time.Millisecond })
	f.create("run")
	text := strings.Repeat("x", 60_000)
	for range 200 { // more than the buffers of both sockets hold
		f.log("run", "production", start, text)
	}
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		f.handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+Prefix+"/runs/run/stream?follow=1", nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+f.secrets["reader"])
	// On a busy machine even the head may be too late: what counts is that the
	// server lets go.
	if response, err := http.DefaultClient.Do(request); err == nil {
		defer response.Body.Close()
	}
	<-ended
}

func TestFollowList(t *testing.T) {
	f := newFixture(t, nil)
	f.create("one")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen []int
	err := f.client("reader").FollowList(ctx, journal.Filter{}, nil, func(runs []journal.Summary) error {
		seen = append(seen, len(runs))
		switch len(runs) {
		case 1:
			f.create("two")
		case 2:
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []int{1, 2}, []int{seen[0], seen[len(seen)-1]})
}

func TestBackoff(t *testing.T) {
	b := Backoff{First: 100 * time.Millisecond, Max: time.Second}
	for n, want := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 4: 800 * time.Millisecond, 5: time.Second, 1000: time.Second} {
		require.Equal(t, want, b.wait(n, 1))
		require.Equal(t, want/2, b.wait(n, 0))
	}
}
