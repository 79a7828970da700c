package api

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
	"github.com/tidegate-ci/tidegate/pipeline/journal/sqlite"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// fixture is the API over a real journal, with tokens of each role.
type fixture struct {
	t        *testing.T
	journal  *sqlite.Journal
	tokens   *Tokens
	secrets  map[string]string // by token name
	logs     *observer.ObservedLogs
	handler  http.Handler
	server   *httptest.Server
	stopping chan struct{}
	engine   *journalRuns
}

func newFixture(t *testing.T, change func(*Settings)) *fixture {
	t.Helper()
	f := &fixture{t: t, secrets: map[string]string{}, stopping: make(chan struct{})}
	var err error
	f.journal, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "journal.db"), sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.journal.Close()) })
	f.tokens, err = OpenTokens(filepath.Join(t.TempDir(), "tokens.json"), rand.Reader, time.Now)
	require.NoError(t, err)
	for _, token := range []Token{
		{Name: "reader", User: "rita", Role: RoleRead},
		{Name: "operator", User: "olaf", Role: RoleOperate},
		{Name: "ops", User: "otto", Groups: []string{"ops"}, Role: RoleOperate},
		{Name: "admin", User: "ada", Role: RoleAdmin},
	} {
		f.secrets[token.Name], err = f.tokens.Create(token)
		require.NoError(t, err)
	}
	core, logs := observer.New(zap.DebugLevel)
	f.logs = logs
	f.engine = &journalRuns{journal: f.journal}
	settings := Settings{Journal: f.journal, Runs: f.engine, Tokens: f.tokens, Log: zap.New(core), Stopping: f.stopping}
	if change != nil {
		change(&settings)
	}
	f.handler = New(settings)
	f.server = httptest.NewServer(f.handler)
	t.Cleanup(f.server.Close)
	return f
}

func (f *fixture) client(token string) *Client {
	client, err := NewClient(f.server.URL, f.secrets[token])
	require.NoError(f.t, err)
	client.retry = Backoff{First: time.Millisecond, Max: time.Millisecond, GiveUp: 5, Silence: time.Minute}
	return client
}

// request sends one request and returns the status and body.
func (f *fixture) request(token, method, path, body string) (int, string) {
	request := httptest.NewRequestWithContext(f.t.Context(), method, Prefix+path, strings.NewReader(body))
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+f.secrets[token])
	}
	recorder := httptest.NewRecorder()
	f.handler.ServeHTTP(recorder, request)
	return recorder.Code, recorder.Body.String()
}

func testPlan() *pipeline.Plan {
	return &pipeline.Plan{
		Pipeline: "shop",
		Event: event.Event{
			ID: "delivery", Kind: event.Push, Repository: event.Repository{FullName: "octo/shop"},
			Ref: "refs/heads/main", Commit: strings.Repeat("c", 40), Actor: "mona",
		},
		Stages: []pipeline.PlannedStage{
			{ID: "unit (race=true)", Kind: pipeline.KindRun},
			{ID: "unit (race=false)", Kind: pipeline.KindRun},
			{ID: "production/approval", Kind: pipeline.KindApprove, Approve: &pipeline.ApproveSpec{From: []string{"ops", "ada"}}},
			{ID: "production", Kind: pipeline.KindDeploy, Needs: []string{"production/approval"}},
			{ID: "anyone", Kind: pipeline.KindApprove, Approve: &pipeline.ApproveSpec{}},
		},
	}
}

func (f *fixture) create(id string) journal.Lease {
	ctx := f.t.Context()
	_, err := f.journal.Create(ctx, id, testPlan(), start)
	require.NoError(f.t, err)
	lease, ok, err := f.journal.Acquire(ctx, id, "worker", time.Now(), time.Hour)
	require.NoError(f.t, err)
	require.True(f.t, ok)
	f.append(lease, journal.Entry{Type: journal.RunStarted, Actor: "worker", Time: start})
	return lease
}

func (f *fixture) append(lease journal.Lease, entries ...journal.Entry) {
	for i := range entries {
		if entries[i].Time.IsZero() {
			entries[i].Time = start
		}
	}
	require.NoError(f.t, f.journal.Append(f.t.Context(), lease.RunID, &lease, entries...))
}

func (f *fixture) log(id, stage string, at time.Time, texts ...string) {
	for _, text := range texts {
		require.NoError(f.t, f.journal.AppendLog(f.t.Context(), id, journal.Line{Time: at, Stage: stage, Attempt: 1, Stream: "stdout", Text: text}))
	}
}

// journalRuns does what an engine does with these calls: it records them.
type journalRuns struct {
	journal journal.Journal
	reruns  int
	started []StartRequest
	decided []pipeline.Decision
	err     error
}

func (e *journalRuns) Cancel(ctx context.Context, runID, by, cause string) error {
	if e.err != nil {
		return e.err
	}
	return e.journal.Append(ctx, runID, nil, journal.Entry{Type: journal.CancelRequested, Time: start, Actor: by, Cause: pipeline.CauseCancelled, Message: cause})
}

func (e *journalRuns) Decide(ctx context.Context, runID, stageID string, decision pipeline.Decision) error {
	e.decided = append(e.decided, decision)
	return e.journal.Append(ctx, runID, nil, journal.Entry{Type: journal.DecisionMade, Time: start, Stage: stageID, Decision: &decision})
}

func (e *journalRuns) Rerun(ctx context.Context, runID, _ string, _ bool) (string, error) {
	entries, err := e.journal.Entries(ctx, runID, 0)
	if err != nil {
		return "", err
	}
	e.reruns++
	id := fmt.Sprintf("%s-rerun-%d", runID, e.reruns)
	_, err = e.journal.Create(ctx, id, entries[0].Plan, start)
	return id, err
}

func (e *journalRuns) Start(ctx context.Context, request StartRequest, _ string) ([]string, error) {
	if request.Repository != "octo/shop" {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "repository %q is not configured here", request.Repository)
	}
	e.started = append(e.started, request)
	_, err := e.journal.Create(ctx, "by-hand", testPlan(), start)
	return []string{"by-hand"}, err
}

func TestRolesPerRoute(t *testing.T) {
	f := newFixture(t, nil)
	f.create("run")
	for _, route := range []struct {
		method, path, body string
		wants              Role
	}{
		{"GET", "/whoami", "", RoleRead},
		{"GET", "/runs", "", RoleRead},
		{"GET", "/runs/run", "", RoleRead},
		{"GET", "/runs/run/stream", "", RoleRead},
		{"GET", "/runs/run/log", "", RoleRead},
		{"POST", "/runs", `{"repository":"octo/shop"}`, RoleOperate},
		{"POST", "/runs/run/stages/anyone/decision", `{"approved":true}`, RoleOperate},
		{"POST", "/runs/run/cancel", `{}`, RoleOperate},
	} {
		t.Run(route.method+" "+route.path, func(t *testing.T) {
			code, body := f.request("", route.method, route.path, route.body)
			require.Equal(t, http.StatusUnauthorized, code)
			require.Contains(t, body, `"unauthenticated"`)
			code, body = f.request("reader", route.method, route.path, route.body)
			if route.wants == RoleRead {
				require.Equal(t, http.StatusOK, code, body)
			} else {
				require.Equal(t, http.StatusForbidden, code)
				require.Contains(t, body, `"refused"`)
			}
			for _, token := range []string{"operator", "admin"} {
				code, body = f.request(token, route.method, route.path, route.body)
				require.Less(t, code, 300, body)
			}
		})
	}
}

func TestWrongCredentials(t *testing.T) {
	f := newFixture(t, nil)
	good := f.secrets["admin"]
	for name, header := range map[string]string{
		"none":           "",
		"another scheme": "Basic " + good,
		"no scheme":      good,
		"empty":          "Bearer ",
		"shorter":        "Bearer " + good[:len(good)-1],
		"longer":         "Bearer " + good + "0",
		"the hash":       "Bearer " + hashSecret(good),
	} {
		t.Run(name, func(t *testing.T) {
			request := httptest.NewRequestWithContext(t.Context(), "GET", Prefix+"/runs", nil)
			request.Header.Set("Authorization", header)
			recorder := httptest.NewRecorder()
			f.handler.ServeHTTP(recorder, request)
			require.Equal(t, http.StatusUnauthorized, recorder.Code)
			require.NotEmpty(t, recorder.Header().Get("WWW-Authenticate"))
		})
	}
	for _, entry := range f.logs.All() {
		require.NotContains(t, fmt.Sprint(entry.ContextMap()), good[len(tokenPrefix):len(tokenPrefix)+20], "a secret reached the log")
	}
}

func TestListAndShow(t *testing.T) {
	f := newFixture(t, nil)
	client := f.client("reader")
	runs, err := client.List(t.Context(), journal.Filter{})
	require.NoError(t, err)
	require.Empty(t, runs)

	f.create("abc-1")
	lease := f.create("abd-2")
	f.append(lease, journal.Entry{Type: journal.RunFinished, Status: journal.Failed, Cause: pipeline.CauseFailed})

	runs, err = client.List(t.Context(), journal.Filter{})
	require.NoError(t, err)
	require.Len(t, runs, 2)
	require.Equal(t, "abd-2", runs[0].ID, "newest first")
	runs, err = client.List(t.Context(), journal.Filter{Status: []journal.Status{journal.Failed, journal.Succeeded}, Repository: "octo/shop", Pipeline: "shop", Limit: 7})
	require.NoError(t, err)
	require.Len(t, runs, 1)

	run, err := client.Run(t.Context(), "abd")
	require.NoError(t, err)
	require.Equal(t, "abd-2", run.ID)
	require.Equal(t, journal.Failed, run.Status)
	require.Equal(t, "shop", run.State.Plan.Pipeline)
	require.Len(t, run.State.Stages, 5)

	_, err = client.Run(t.Context(), "ab")
	require.ErrorContains(t, err, `"ab" may mean abd-2, abc-1`)
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
	_, err = client.Run(t.Context(), "zzz")
	require.ErrorContains(t, err, `no run "zzz"`)
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))

	for _, query := range []string{"status=nope", "limit=0", "limit=1001", "limit=x", "follow=maybe"} {
		code, body := f.request("reader", "GET", "/runs?"+query, "")
		require.Equal(t, http.StatusBadRequest, code, query)
		require.Contains(t, body, `"invalid"`)
	}
}

func TestLog(t *testing.T) {
	f := newFixture(t, nil)
	f.create("run")
	f.log("run", "unit (race=true)", start, "one", "two")
	f.log("run", "unit (race=false)", start.Add(time.Second), "three")
	f.log("run", "production", start, "four")
	client := f.client("reader")
	for stage, want := range map[string]string{
		"":                 "unit (race=true) | one\nunit (race=true) | two\nunit (race=false) | three\nproduction | four\n",
		"unit (race=true)": "one\ntwo\n",
		"unit":             "unit (race=true) | one\nunit (race=true) | two\nunit (race=false) | three\n",
		"anyone":           "",
	} {
		var b strings.Builder
		require.NoError(t, client.Log(t.Context(), "run", stage, false, &b))
		require.Equal(t, want, b.String(), stage)
	}
	var b strings.Builder
	require.NoError(t, client.Log(t.Context(), "run", "production", true, &b))
	require.Equal(t, "2026-05-01T12:00:00.000Z four\n", b.String())
	err := client.Log(t.Context(), "run", "nope", false, &b)
	require.ErrorContains(t, err, "its stages are: unit (race=true), unit (race=false)")
}

func TestUnknownRoute(t *testing.T) {
	f := newFixture(t, nil)
	for _, path := range []string{"/nope", "/events"} { // no inbox was wired
		code, body := f.request("reader", "GET", path, "")
		require.Equal(t, http.StatusNotFound, code)
		require.Contains(t, body, "not_found")
	}
}
