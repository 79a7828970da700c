package notify

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/triggers/forge/github"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// hostile is a failed release whose every text tries to be markup.
func hostile() rollout.Notification {
	return rollout.Notification{
		ID: "a1-5", Rollout: "a1-r3", Target: rollout.Target{App: "shop", Namespace: "shop-production"},
		Transition: rollout.Transition{Sequence: 5, Revision: 3, From: rollout.RollingBack, To: rollout.RolledBack, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
			Text: "revision 3 was rolled back to revision 2: <!channel> *all* `broken` & <https://evil|click>\u202e", Reason: "CrashLoop"},
		Base: 2, By: "eve <@U1>", Commit: "0123456789012345678901234567890123456789", BaseCommit: "abcdefabcdefabcdefabcdefabcdefabcdefabcd",
		Source:     &rollout.Source{Forge: "github", Repository: "octo/shop", Branch: "main", Message: "Fix @all [x](https://evil) _now_ <b>"},
		Ending:     rollout.EndedByFailure,
		Failure:    &rollout.Failure{Reason: "CrashLoop", Message: "3 of 3 pods crash: ```@octo/all <script>", Container: &health.Container{Pod: "shop-1", Name: "shop", ExitCode: 1}, Log: []string{"panic: ````", "<!here> \x1b[31mred\x1b[0m", "@everyone ```"}},
		OnRollback: rollout.RevertPullRequest,
	}
}

func TestSlackMessage(t *testing.T) {
	n := hostile()
	n.To = rollout.RollingBack
	encoder := &strings.Builder{}
	e := json.NewEncoder(encoder)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	require.NoError(t, e.Encode(slackMessage("production", n)))
	golden(t, "slack.json", encoder.String())
	for _, bad := range []string{"<!", "<@", "<https", "\u202e", "\u001b"} {
		require.NotContains(t, encoder.String(), bad)
	}
	n.Text = strings.Repeat("&", 10_000)
	text := slackMessage("production", n).Blocks[0].Text.Text
	require.Less(t, len([]rune(text)), 3000)
	require.True(t, strings.HasSuffix(text, "&amp;…") || strings.HasSuffix(text, ";…"), text[len(text)-20:])
}

func TestRevertIsWorded(t *testing.T) {
	r := revertOf("production", hostile())
	require.Equal(t, "tidegate/revert-0123456789-a1-r3", r.Head)
	golden(t, "revert.md", r.Title+"\n\n"+r.Body+"\n----\n"+r.Message)
	// Within the fences nothing mentions anybody or becomes markup; nothing of it is outside.
	fence, outside := "", strings.Builder{}
	for _, line := range strings.Split(r.Body, "\n") {
		switch {
		case fence == "" && strings.HasPrefix(line, "```"):
			fence = strings.TrimSuffix(line, "text")
		case line == fence && fence != "":
			fence = ""
		case fence == "":
			outside.WriteString(line + "\n")
		}
	}
	require.Empty(t, fence, "every fence is closed")
	for _, bad := range []string{"@", "<", "panic", "evil"} {
		require.NotContains(t, outside.String(), bad)
	}
}

func receivers(t *testing.T, file string) *Receivers {
	t.Helper()
	s, err := settings.Parse("server.yaml", []byte(file))
	require.NoError(t, err)
	r, err := New(s)
	require.NoError(t, err)
	return r
}

func TestWebhookIsSignedAndGuarded(t *testing.T) {
	t.Setenv("NOTIFY_KEY", "k3y")
	answer, requests := http.StatusNoContent, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		body, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.Equal(t, rollout.Sign("k3y", body), r.Header.Get(rollout.HeaderSignature))
		require.Equal(t, "a1-5", r.Header.Get(HeaderDelivery))
		var message map[string]any
		require.NoError(t, json.Unmarshal(body, &message))
		require.Equal(t, "production", message["environment"])
		require.Equal(t, "shop", message["app"])
		require.Equal(t, "rolled_back", message["to"])
		require.Equal(t, "CrashLoop", message["reason"])
		require.NotContains(t, string(body), "k3y")
		if answer >= 300 && answer < 400 {
			http.Redirect(w, r, "/elsewhere", answer)
			return
		}
		w.WriteHeader(answer)
	}))
	defer server.Close()
	file := "environments: {production: {}, staging: {}}\nnotifications: [{name: audit, PRIVATE webhook: {url: '" + server.URL + "/?token=s3cret', secret: {env: NOTIFY_KEY}}, environments: [production]}]\n"
	inside := receivers(t, strings.Replace(file, "PRIVATE", "private: true,", 1))
	require.Empty(t, inside.Of("staging", ""))
	require.NotNil(t, inside.Of("staging", ""), "nobody, rather than not known")
	one := inside.Of("production", "")[0]
	require.Equal(t, "audit", one.Name())
	require.NoError(t, one.Tell(t.Context(), hostile()))

	for status, forever := range map[int]bool{302: false, 307: false, 400: true, 401: false, 404: false, 410: true, 413: true, 429: false, 500: false, 503: false} {
		answer, requests = status, 0
		err := one.Tell(t.Context(), hostile())
		require.Error(t, err, status)
		require.Equal(t, forever, errors.Is(err, rollout.ErrUndeliverable), "%d: %v", status, err)
		require.Equal(t, 1, requests, "no redirect is followed")
		require.NotContains(t, err.Error(), "s3cret")
	}

	requests = 0
	err := receivers(t, strings.Replace(file, "PRIVATE", "", 1)).Of("production", "")[0].Tell(t.Context(), hostile())
	require.ErrorContains(t, err, "private network")
	require.NotContains(t, err.Error(), "s3cret")
	require.Zero(t, requests)
}

func TestSlackIsToldOfTheStatesItAskedFor(t *testing.T) {
	told := 0
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var payload slackPayload
		require.NoError(t, json.NewDecoder(r.Body).Decode(&payload))
		require.NotEmpty(t, payload.Text)
		told++
	}))
	defer server.Close()
	t.Setenv("NOTIFY_SLACK", server.URL+"/services/T0/B0/s3cret")
	one := receivers(t, "notifications: [{name: chat, private: true, states: [rolled_back], slack: {url: {env: NOTIFY_SLACK}}}]\n").Of("production", "")[0]
	require.NoError(t, one.Tell(t.Context(), hostile()))
	n := hostile()
	n.To = rollout.Canary
	require.NoError(t, one.Tell(t.Context(), n))
	require.Equal(t, 1, told)
	server.Close()
	err := one.Tell(t.Context(), hostile())
	require.Error(t, err)
	require.NotContains(t, err.Error(), "s3cret")
}

func TestDeploymentStates(t *testing.T) {
	for _, state := range rollout.States() {
		want := github.DeploymentInProgress
		switch state {
		case rollout.Pending:
			want = github.DeploymentQueued
		case rollout.Verified:
			want = github.DeploymentSuccess
		case rollout.RollingBack, rollout.RolledBack, rollout.Failed:
			want = github.DeploymentFailure
		case rollout.Superseded:
			want = github.DeploymentInactive
		}
		require.Equal(t, want, deploymentState(rollout.Notification{Transition: rollout.Transition{To: state}}), state)
	}
	aborted := rollout.Notification{Transition: rollout.Transition{To: rollout.RolledBack}, Ending: rollout.EndedByAbort}
	require.Equal(t, github.DeploymentError, deploymentState(aborted))
}

// GitHub is told of what came from it, by the token of its repository, and of
// nothing else; a revert is proposed only for what was asked for and failed.
func TestGitHubIsTold(t *testing.T) {
	var calls []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "Bearer ghp_1", r.Header.Get("Authorization"))
		calls = append(calls, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/repos/octo/shop/"))
		switch {
		case r.Method == http.MethodGet:
			_, _ = w.Write([]byte(`[]`))
		case strings.HasSuffix(r.URL.Path, "/deployments"):
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(`{"id": 3}`))
		default:
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(`{}`))
		}
	}))
	defer server.Close()
	t.Setenv("NOTIFY_TOKEN", "ghp_1")
	of := receivers(t, "github: {deployments: true, api: '"+server.URL+"'}\nrepositories: [{name: Octo/Shop, webhook-secret: {env: X}, token: {env: NOTIFY_TOKEN}}]\n").Of("production", "")
	require.Len(t, of, 2)
	for range 2 {
		require.NoError(t, of[0].Tell(t.Context(), hostile()))
	}
	require.Equal(t, []string{"GET deployments", "POST deployments", "POST deployments/3/statuses", "POST deployments/3/statuses"}, calls)

	calls = nil
	for name, change := range map[string]func(*rollout.Notification){
		"another repository": func(n *rollout.Notification) { n.Source = &rollout.Source{Forge: "github", Repository: "octo/else"} },
		"a working tree":     func(n *rollout.Notification) { n.Source = &rollout.Source{Forge: "local", Repository: "octo/shop"} },
		"nothing known":      func(n *rollout.Notification) { n.Source = nil },
	} {
		n := hostile()
		change(&n)
		require.NoError(t, of[0].Tell(t.Context(), n), name)
		require.ErrorIs(t, of[1].Tell(t.Context(), n), rollout.ErrUndeliverable, name)
	}
	for name, change := range map[string]func(*rollout.Notification){
		"not asked for": func(n *rollout.Notification) { n.OnRollback = "" },
		"aborted":       func(n *rollout.Notification) { n.Ending = rollout.EndedByAbort },
		"on its way":    func(n *rollout.Notification) { n.To = rollout.RollingBack },
		"verified":      func(n *rollout.Notification) { n.To = rollout.Verified },
	} {
		n := hostile()
		change(&n)
		require.NoError(t, of[1].Tell(t.Context(), n), name)
	}
	for name, change := range map[string]func(*rollout.Notification){
		"a tag":         func(n *rollout.Notification) { n.Source.Branch, n.Source.Tag = "", "v1" },
		"no old commit": func(n *rollout.Notification) { n.BaseCommit = "" },
	} {
		n := hostile()
		change(&n)
		require.ErrorIs(t, of[1].Tell(t.Context(), n), rollout.ErrUndeliverable, name)
	}
	require.Empty(t, calls)
}
