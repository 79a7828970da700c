package github_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/triggers/forge/github"
)

var ctx = context.Background()

// api answers as GitHub's REST API does; each handler is for one request, the
// last for all after it.
func api(t *testing.T, handlers ...http.HandlerFunc) (*github.Client, *[]time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var waits []time.Duration
	served := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		handler := handlers[min(served, len(handlers)-1)]
		served++
		mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	client, err := github.NewClient(github.ClientConfig{
		BaseURL: server.URL + "/api/v3", Token: "ghp_secret",
		Sleep: func(ctx context.Context, d time.Duration) error { waits = append(waits, d); return ctx.Err() },
	})
	require.NoError(t, err)
	return client, &waits
}

func created(t *testing.T, got *map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/api/v3/repos/octo/shop/statuses/"+third || r.Header.Get("Authorization") != "Bearer ghp_secret" {
			t.Errorf("%s %s", r.Method, r.URL.Path)
		}
		if err := json.NewDecoder(r.Body).Decode(got); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"id":1}`)
	}
}

func answer(status int, header map[string]string, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for key, value := range header {
			w.Header().Set(key, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

var state = github.State{Context: "tidegate/shop", State: github.StateSuccess, Description: "all\ngood", TargetURL: "https://ci.example.com/runs/1"}

func TestStatus(t *testing.T) {
	var got map[string]string
	client, _ := api(t, created(t, &got))
	require.NoError(t, client.Status(ctx, "octo/shop", third, state))
	require.Equal(t, map[string]string{"state": "success", "context": "tidegate/shop", "description": "all good", "target_url": "https://ci.example.com/runs/1"}, got)

	long := state
	long.Description, long.TargetURL = strings.Repeat("ä", 300), "javascript:alert(1)"
	got = nil
	require.NoError(t, client.Status(ctx, "octo/shop", third, long))
	require.Len(t, []rune(got["description"]), 140)
	require.NotContains(t, got, "target_url")

	require.Error(t, client.Status(ctx, "octo/../shop", third, state))
	require.Error(t, client.Status(ctx, "octo/shop", "main", state))
}

func TestStatusTriesAgain(t *testing.T) {
	var got map[string]string
	for name, c := range map[string]struct {
		first http.HandlerFunc
		wait  time.Duration
	}{
		"server error":     {answer(502, nil, "<html>"), time.Second},
		"too many":         {answer(429, map[string]string{"Retry-After": "7"}, `{"message":"slow down"}`), 8 * time.Second},
		"absurd wait":      {answer(429, map[string]string{"Retry-After": "99999999"}, `{}`), time.Second},
		"hung up":          {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, time.Second},
		"unavailable, min": {answer(503, map[string]string{"Retry-After": "2"}, ``), 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			client, waits := api(t, c.first, created(t, &got))
			require.NoError(t, client.Status(ctx, "octo/shop", third, state))
			require.Equal(t, []time.Duration{c.wait}, *waits)
		})
	}
	t.Run("secondary limit", func(t *testing.T) {
		client, waits := api(t, answer(403, map[string]string{"Retry-After": "30"}, `{"message":"You have exceeded a secondary rate limit","documentation_url":"https://docs.github.com/rest/overview/rate-limits-for-the-rest-api#about-secondary-rate-limits"}`), created(t, &got))
		// As below: the limit is kept by go-github too.
		require.Error(t, client.Status(ctx, "octo/shop", third, state))
		require.Equal(t, 31*time.Second, (*waits)[0])
	})
	t.Run("hourly limit", func(t *testing.T) {
		reset := time.Now().Add(10 * time.Minute)
		client, waits := api(t, answer(403, map[string]string{"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": fmt.Sprint(reset.Unix())},
			`{"message":"API rate limit exceeded"}`), created(t, &got))
		// go-github itself refuses before the reset: each try waits for it anew.
		err := client.Status(ctx, "octo/shop", third, state)
		require.Error(t, err)
		require.InDelta(t, 10*time.Minute, (*waits)[0], float64(5*time.Second))
	})
}

func TestStatusGivesUp(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		tries   int
	}{
		"no such commit": {answer(422, nil, `{"message":"No commit found for SHA"}`), 0},
		"no right":       {answer(403, nil, `{"message":"Resource not accessible by integration"}`), 0},
		"elsewhere":      {answer(307, map[string]string{"Location": "https://evil.example.com/"}, ``), 0},
		"never well":     {answer(500, nil, ``), 5},
	} {
		t.Run(name, func(t *testing.T) {
			client, waits := api(t, c.handler)
			err := client.Status(ctx, "octo/shop", third, state)
			require.Error(t, err)
			require.NotContains(t, err.Error(), "ghp_secret")
			require.Len(t, *waits, c.tries)
		})
	}
}

func TestClientRefusesBadURLs(t *testing.T) {
	for _, bad := range []string{"ftp://x", "github.example.com", "https://user:pw@github.example.com", "https://"} {
		_, err := github.NewClient(github.ClientConfig{BaseURL: bad})
		require.ErrorContains(t, err, "base URL", bad)
		require.NotContains(t, err.Error(), "pw")
	}
}

// sender records what it is given, and waits for gate before each.
type sender struct {
	gate chan struct{}
	mu   sync.Mutex
	sent []string
}

func (s *sender) Status(ctx context.Context, _, commit string, state github.State) error {
	select {
	case <-s.gate:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, fmt.Sprintf("%s %s %s", commit, state.Context, state.State))
	if state.State == github.StateError {
		return errors.New("no")
	}
	return nil
}

func TestReporterSendsTheNewestAndFlushes(t *testing.T) {
	s := &sender{gate: make(chan struct{})}
	r := github.NewReporter(s, nil)
	report := func(commit, name string, state github.StateName) {
		require.NoError(t, r.Report(ctx, "octo/shop", commit, github.State{Context: name, State: state}))
	}
	report("c1", "a", github.StatePending)
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(running) }()
	s.gate <- struct{}{} // the first is under way
	report("c1", "a", github.StatePending)
	report("c1", "b", github.StatePending)
	report("c1", "a", github.StateSuccess)
	report("c2", "a", github.StateFailure)
	cancel()
	close(s.gate)
	require.NoError(t, <-ended)
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Equal(t, "c1 a pending", s.sent[0])
	require.ElementsMatch(t, []string{"c1 b pending", "c1 a success", "c2 a failure"}, s.sent[len(s.sent)-3:])
	require.LessOrEqual(t, len(s.sent), 5)
}
