package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// audited returns the fields of the audit lines of an action.
func (f *fixture) audited(action string) []map[string]any {
	var found []map[string]any
	for _, entry := range f.logs.FilterMessage("audit").All() {
		if fields := entry.ContextMap(); fields["action"] == action {
			found = append(found, fields)
		}
	}
	return found
}

func TestCancel(t *testing.T) {
	f := newFixture(t, nil)
	lease := f.create("run-1")
	done, err := f.client("operator").Cancel(t.Context(), "run", "wrong\x1b[2J branch")
	require.NoError(t, err)
	require.Equal(t, Done{RunID: "run-1", Changed: true}, done)
	run, err := f.client("reader").Run(t.Context(), "run-1")
	require.NoError(t, err)
	require.Equal(t, "olaf", run.State.Cancel.By)
	require.Equal(t, "wrong branch", run.State.Cancel.Message)
	done, err = f.client("operator").Cancel(t.Context(), "run-1", "again")
	require.NoError(t, err)
	require.False(t, done.Changed)
	require.Len(t, f.audited("cancel"), 1)
	require.Equal(t, "olaf", f.audited("cancel")[0]["user"])

	f.append(lease, journal.Entry{Type: journal.RunFinished, Status: journal.Cancelled})
	_, err = f.client("operator").Cancel(t.Context(), "run-1", "")
	require.NoError(t, err, "it is what it should be")
	lease = f.create("other")
	f.append(lease, journal.Entry{Type: journal.RunFinished, Status: journal.Succeeded})
	_, err = f.client("operator").Cancel(t.Context(), "other", "")
	require.ErrorContains(t, err, "has ended already: it is succeeded")
	require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err))
}

func TestDecide(t *testing.T) {
	const approval = "production/approval"
	decide := func(by string, approved bool) journal.Entry {
		return journal.Entry{Type: journal.DecisionMade, Stage: approval, Decision: &pipeline.Decision{Approved: approved, By: by}}
	}
	begun := journal.Entry{Type: journal.AttemptStarted, Stage: approval, Attempt: 1}
	ended := func(status journal.Status) []journal.Entry {
		return []journal.Entry{
			{Type: journal.AttemptFinished, Stage: approval, Attempt: 1},
			{Type: journal.StageFinished, Stage: approval, Status: status},
		}
	}
	for name, c := range map[string]struct {
		before      []journal.Entry
		token       string
		stage       string
		approved    bool
		wantCode    string // empty: accepted
		wantChanged bool
	}{
		"by group":                    {[]journal.Entry{begun}, "ops", approval, true, "", true},
		"by user":                     {[]journal.Entry{begun}, "admin", approval, true, "", true},
		"by the stage it guards":      {[]journal.Entry{begun}, "ops", "production", true, "", true},
		"rejected":                    {[]journal.Entry{begun}, "ops", approval, false, "", true},
		"ahead of time":               {nil, "ops", approval, true, "", true},
		"not asked":                   {[]journal.Entry{begun}, "operator", approval, true, CodeRefused, false},
		"not asked, to reject":        {[]journal.Entry{begun}, "operator", approval, false, CodeRefused, false},
		"role too small":              {[]journal.Entry{begun}, "reader", "anyone", true, CodeRefused, false},
		"anyone who may operate":      {nil, "operator", "anyone", true, "", true},
		"no such stage":               {nil, "ops", "nope", true, CodeNotFound, false},
		"a stage that does not ask":   {nil, "ops", "unit (race=true)", true, CodeNotFound, false},
		"twice by the same":           {[]journal.Entry{begun, decide("otto", true)}, "ops", approval, true, "", false},
		"also by another":             {[]journal.Entry{begun, decide("ada", true)}, "ops", approval, true, "", true},
		"changed their mind in time":  {[]journal.Entry{begun, decide("otto", true)}, "ops", approval, false, "", true},
		"approved after it passed":    {append([]journal.Entry{begun, decide("ada", true)}, ended(journal.Succeeded)...), "ops", approval, true, "", false},
		"rejected after it passed":    {append([]journal.Entry{begun, decide("ada", true)}, ended(journal.Succeeded)...), "ops", approval, false, CodeConflict, false},
		"approved after it timed out": {append([]journal.Entry{begun}, ended(journal.Failed)...), "ops", approval, true, CodeConflict, false},
		"run has ended":               {[]journal.Entry{{Type: journal.RunFinished, Status: journal.Failed}}, "ops", approval, true, CodeConflict, false},
		"a rollout that runs":         {[]journal.Entry{{Type: journal.AttemptStarted, Stage: "production", Attempt: 1}}, "operator", "production", true, "", true},
		"its gate, rejected":          {[]journal.Entry{{Type: journal.AttemptStarted, Stage: "production", Attempt: 1}}, "operator", "production", false, "", true},
		"a rollout, role too small":   {[]journal.Entry{{Type: journal.AttemptStarted, Stage: "production", Attempt: 1}}, "reader", "production", true, CodeRefused, false},
		"not asked, and too late":     {append([]journal.Entry{begun}, ended(journal.Failed)...), "operator", approval, true, CodeRefused, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil)
			lease := f.create("run")
			f.append(lease, c.before...)
			done, err := f.client(c.token).Decide(t.Context(), "run", c.stage, DecisionRequest{Approved: c.approved, Comment: "because"})
			if c.wantCode != "" {
				var answer *Error
				require.ErrorAs(t, err, &answer)
				require.Equal(t, c.wantCode, answer.Code)
				require.Empty(t, f.audited("decide"))
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.wantChanged, done.Changed)
			if c.wantChanged {
				who, _, err := f.tokens.Authenticate(f.secrets[c.token])
				require.NoError(t, err)
				given := pipeline.Decision{Approved: c.approved, By: who.User, Comment: "because"}
				require.Equal(t, []pipeline.Decision{given}, f.engine.decided)
				run, err := f.client("reader").Run(t.Context(), "run")
				require.NoError(t, err)
				for _, stage := range run.State.Stages {
					// What a rollout was answered stands in its own record.
					if stage.ID == done.Stage && stage.Kind == pipeline.KindApprove {
						require.Equal(t, given, stage.Decisions[len(stage.Decisions)-1])
					}
				}
				require.Len(t, f.audited("decide"), 1)
			}
		})
	}
}

func TestRerunAndStart(t *testing.T) {
	f := newFixture(t, nil)
	lease := f.create("run")
	_, err := f.client("operator").Rerun(t.Context(), "run", false)
	require.ErrorContains(t, err, "has not ended")
	f.append(lease, journal.Entry{Type: journal.RunFinished, Status: journal.Succeeded})
	_, err = f.client("operator").Rerun(t.Context(), "run", true)
	require.ErrorContains(t, err, "has no failed stage")
	id, err := f.client("operator").Rerun(t.Context(), "run", false)
	require.NoError(t, err)
	require.Equal(t, "run-rerun-1", id)
	require.Equal(t, "run-rerun-1", f.audited("rerun")[0]["newRun"])

	request := StartRequest{Repository: "octo/shop", Pipeline: "shop", Ref: "main", Inputs: map[string]string{"version": "1"}}
	ids, err := f.client("operator").Start(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, []string{"by-hand"}, ids)
	require.Equal(t, []StartRequest{request}, f.engine.started)
	_, err = f.client("operator").Start(t.Context(), StartRequest{Repository: "octo/other"})
	require.ErrorContains(t, err, `repository "octo/other" is not configured here`)
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
}

func TestBodies(t *testing.T) {
	f := newFixture(t, nil)
	f.create("run")
	for name, c := range map[string]struct {
		path, body string
		wants      int
	}{
		"unknown field":        {"/runs/run/cancel", `{"reason":"x","force":true}`, 400},
		"not JSON":             {"/runs/run/cancel", `reason`, 400},
		"wrong type":           {"/runs/run/cancel", `{"reason":1}`, 400},
		"two values":           {"/runs/run/cancel", `{}{}`, 400},
		"long reason":          {"/runs/run/cancel", `{"reason":"` + strings.Repeat("x", maxComment+1) + `"}`, 400},
		"too large":            {"/runs/run/cancel", `{"reason":"` + strings.Repeat("x", maxBody) + `"}`, 413},
		"no decision":          {"/runs/run/stages/anyone/decision", `{}`, 400},
		"no decision, no body": {"/runs/run/stages/anyone/decision", ``, 400},
		"by in the body":       {"/runs/run/stages/anyone/decision", `{"approved":true,"by":"boss"}`, 400},
		"no repository":        {"/runs", `{}`, 400},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := f.request("operator", "POST", c.path, c.body)
			require.Equal(t, c.wants, code, body)
			require.Contains(t, body, `{"error":{"code":"`)
		})
	}
	request := httptest.NewRequestWithContext(t.Context(), "POST", Prefix+"/runs/run/cancel", strings.NewReader(`{"reason":"x"}`))
	request.Header.Set("Authorization", "Bearer "+f.secrets["operator"])
	request.Header.Set("Content-Type", "text/plain")
	recorder := httptest.NewRecorder()
	f.handler.ServeHTTP(recorder, request)
	require.Equal(t, http.StatusBadRequest, recorder.Code, "a form of another site can send text, not JSON")
}

func TestErrors(t *testing.T) {
	secret := "dial tcp 10.0.0.7: password=hunter2"
	for name, c := range map[string]struct {
		err   error
		code  string
		cause pipeline.Cause
	}{
		"refused":  {pipeline.Fail(pipeline.CauseRefused, "frozen until Monday"), CodeRefused, pipeline.CauseRefused},
		"invalid":  {pipeline.Fail(pipeline.CauseInvalid, "no such ref"), CodeInvalid, pipeline.CauseInvalid},
		"missing":  {fmt.Errorf("cancel: %w", journal.ErrNotFound), CodeNotFound, pipeline.CauseInvalid},
		"finished": {fmt.Errorf("cancel: %w", journal.ErrFinished), CodeConflict, pipeline.CauseRefused},
		"full":     {fmt.Errorf("cancel: %w", journal.ErrFull), CodeUnavailable, pipeline.CauseInfrastructure},
		"timeout":  {context.DeadlineExceeded, CodeUnavailable, pipeline.CauseInfrastructure},
		"unknown":  {errors.New(secret), CodeInternal, pipeline.CauseInfrastructure},
		"infra":    {pipeline.Fail(pipeline.CauseInfrastructure, "%s", secret), CodeInternal, pipeline.CauseInfrastructure},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil)
			f.create("run")
			f.engine.err = c.err
			_, err := f.client("operator").Cancel(t.Context(), "run", "")
			var answer *Error
			require.ErrorAs(t, err, &answer)
			require.Equal(t, c.code, answer.Code)
			require.Equal(t, c.cause, pipeline.CauseOf(err))
			require.NotContains(t, err.Error(), "hunter2")
			require.Empty(t, f.audited("cancel"))
		})
	}
}

type inbox struct{ redelivered []string }

func (i *inbox) List(_ context.Context, repository string, limit int) ([]EventRecord, error) {
	return []EventRecord{{Event: event.Event{ID: "e1", Repository: event.Repository{FullName: repository}}, Status: "done", Attempts: limit, Received: start}}, nil
}

func (i *inbox) Redeliver(_ context.Context, id, by string) error {
	if id != "a/b" {
		return pipeline.Fail(pipeline.CauseInvalid, "no such event")
	}
	i.redelivered = append(i.redelivered, id+" by "+by)
	return nil
}

func TestEvents(t *testing.T) {
	events := &inbox{}
	f := newFixture(t, func(s *Settings) { s.Events = events })
	records, err := f.client("reader").Events(t.Context(), "octo/shop", 7)
	require.NoError(t, err)
	require.Equal(t, "octo/shop", records[0].Event.Repository.FullName)
	require.Equal(t, 7, records[0].Attempts)
	require.NoError(t, f.client("operator").Redeliver(t.Context(), "a/b"))
	require.Equal(t, []string{"a/b by olaf"}, events.redelivered)
	require.Len(t, f.audited("redeliver"), 1)
	require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(f.client("reader").Redeliver(t.Context(), "a/b")))
	require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(f.client("operator").Redeliver(t.Context(), "nope")))
}

func TestClientAgainstStrangers(t *testing.T) {
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		wants string
	}{
		"a page":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "not what a Tidegate server sends"},
		"a 404 page": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "\x1b[2Jnope", http.StatusNotFound) }, "answered 404 Not Found, not as a Tidegate server does: nope"},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://other.example/", http.StatusFound)
		}, "use --server https://other.example/"},
		"hostile error": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"error":{"code":"refused","message":"\u001b[2Jno"}}`)
		}, "no"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.serve)
			defer server.Close()
			client, err := NewClient(server.URL+"/api/v1/", "secret")
			require.NoError(t, err)
			_, err = client.List(t.Context(), journal.Filter{})
			require.ErrorContains(t, err, c.wants)
			require.NotContains(t, err.Error(), "\x1b")
		})
	}
	for _, address := range []string{"", "127.0.0.1:8080", "ftp://x", "http://", "http://user:pw@host", "http://[::1"} {
		_, err := NewClient(address, "secret")
		require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err), address)
		require.NotContains(t, err.Error(), "pw")
	}
	_, err := (&Client{base: &url.URL{Scheme: "http", Host: "x"}}).List(t.Context(), journal.Filter{})
	require.ErrorContains(t, err, "TIDEGATE_TOKEN")
}

// TestClientNoticesSilence: a server that says nothing at all is taken for dead.
func TestClientNoticesSilence(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		if err := http.NewResponseController(w).Flush(); err == nil {
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	client, err := NewClient(server.URL, "secret")
	require.NoError(t, err)
	client.retry = Backoff{First: 1, Max: 1, GiveUp: 1, Silence: 10 * time.Millisecond}
	_, err = client.Stream(t.Context(), "run", StreamOptions{Follow: true}, func(StreamItem) error { return nil })
	require.ErrorContains(t, err, "was cut")
}
