package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/internal/progress"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
	"github.com/tidegate-ci/tidegate/pipeline/journal/sqlite"
)

var runsStart = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// runsServer is the real API over a real journal.
type runsServer struct {
	t         *testing.T
	journal   *sqlite.Journal
	url       string
	tokenFile string
	lease     journal.Lease
}

func newRunsServer(t *testing.T) *runsServer {
	t.Helper()
	for _, name := range []string{"TIDEGATE_SERVER", "TIDEGATE_TOKEN", "TIDEGATE_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	s := &runsServer{t: t, tokenFile: filepath.Join(t.TempDir(), "token")}
	var err error
	s.journal, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "journal.db"), sqlite.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.journal.Close()) })
	tokens, err := api.OpenTokens(filepath.Join(t.TempDir(), "tokens.json"), rand.Reader, time.Now)
	require.NoError(t, err)
	secret, err := tokens.Create(api.Token{Name: "laptop", User: "otto", Groups: []string{"ops"}, Role: api.RoleOperate})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(s.tokenFile, []byte(secret+"\n"), 0o600))
	server := httptest.NewServer(api.New(api.Settings{Journal: s.journal, Runs: s, Tokens: tokens}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// run executes the command line against the server.
func (s *runsServer) run(args ...string) (stdout, stderr string, code int) {
	return runCommand(s.t.Context(), append([]string{"runs", "--server", s.url, "--token-file", s.tokenFile}, args...)...)
}

func runCommand(ctx context.Context, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	err := root.ExecuteContext(ctx)
	if err != nil {
		errs.WriteString(err.Error())
	}
	return out.String(), errs.String(), exitCode(err)
}

func (s *runsServer) create(id string) {
	ctx := s.t.Context()
	plan := &pipeline.Plan{
		Pipeline: "shop",
		Event: event.Event{
			Kind: event.Push, Repository: event.Repository{FullName: "octo/shop"},
			Ref: "refs/heads/main\x1b[2J", Commit: strings.Repeat("c", 40), Actor: "mona",
		},
		Stages: []pipeline.PlannedStage{
			{ID: "unit (race=true)", Kind: pipeline.KindRun, Matrix: map[string]string{"race": "true"}},
			{ID: "approval", Kind: pipeline.KindApprove, Approve: &pipeline.ApproveSpec{From: []string{"ops"}}},
			{ID: "late", Kind: pipeline.KindApprove, Approve: &pipeline.ApproveSpec{From: []string{"boss"}}},
		},
	}
	_, err := s.journal.Create(ctx, id, plan, runsStart)
	require.NoError(s.t, err)
	var ok bool
	s.lease, ok, err = s.journal.Acquire(ctx, id, "worker", time.Now(), time.Hour)
	require.NoError(s.t, err)
	require.True(s.t, ok)
	s.append(journal.Entry{Type: journal.RunStarted, Actor: "worker"})
}

func (s *runsServer) append(entries ...journal.Entry) {
	for i := range entries {
		entries[i].Time = runsStart.Add(2 * time.Second)
	}
	require.NoError(s.t, s.journal.Append(s.t.Context(), s.lease.RunID, &s.lease, entries...))
}

func (s *runsServer) log(stage, text string) {
	require.NoError(s.t, s.journal.AppendLog(s.t.Context(), s.lease.RunID, journal.Line{Time: runsStart, Stage: stage, Attempt: 1, Text: text}))
}

func (s *runsServer) Cancel(ctx context.Context, runID, by, cause string) error {
	return s.journal.Append(ctx, runID, nil, journal.Entry{Type: journal.CancelRequested, Time: runsStart, Actor: by, Message: cause})
}

func (s *runsServer) Decide(ctx context.Context, runID, stageID string, decision pipeline.Decision) error {
	return s.journal.Append(ctx, runID, nil, journal.Entry{Type: journal.DecisionMade, Time: runsStart, Stage: stageID, Decision: &decision})
}

func (s *runsServer) Rerun(context.Context, string, string, bool) (string, error) {
	s.create("again")
	s.finish(journal.Refused)
	return "again", nil
}

func (s *runsServer) Start(_ context.Context, request api.StartRequest, _ string) ([]string, error) {
	if request.Inputs["version"] != "1=2" {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "input version is missing")
	}
	s.create("by-hand")
	s.finish(journal.Failed)
	return []string{"by-hand"}, nil
}

func (s *runsServer) finish(status journal.Status) {
	s.append(journal.Entry{Type: journal.RunFinished, Status: status, Message: "the end"})
}

func TestRunsList(t *testing.T) {
	s := newRunsServer(t)
	stdout, stderr, code := s.run("list")
	require.Equal(t, exitSuccess, code, stderr)
	require.Equal(t, "no runs\n", stderr)
	require.Empty(t, stdout)

	s.create("first")
	stdout, stderr, code = s.run("list")
	require.Equal(t, exitSuccess, code, stderr)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.Len(t, lines, 2)
	require.Equal(t, []string{"first", "shop", "octo/shop", "main", "ccccccc", "running"}, strings.Fields(lines[1])[:6])
	stdout, _, _ = s.run("list", "-o", "json", "--status", "failed")
	require.Equal(t, "[]\n", stdout)
	stdout, _, _ = s.run("list", "-o", "yaml", "--repository", "octo/shop")
	require.Contains(t, stdout, "  commit: ccc")

	_, stderr, code = s.run("list", "--status", "nope")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "use pending, running")
	_, _, code = s.run("list", "-o", "xml")
	require.Equal(t, exitUsage, code)
}

func TestRunsListWatch(t *testing.T) {
	s := newRunsServer(t)
	s.create("first")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := &triggerWriter{on: map[string]func(){
		"first  shop  octo/shop  main  ccccccc  running": func() { s.finish(journal.Succeeded) },
		"succeeded": cancel,
	}}
	root := newRootCommand()
	root.SetArgs([]string{"runs", "list", "--watch", "--server", s.url, "--token-file", s.tokenFile})
	root.SetOut(seen)
	require.NoError(t, root.ExecuteContext(ctx))
	require.Len(t, strings.Split(strings.TrimSpace(seen.String()), "\n"), 2)
}

func TestLiveList(t *testing.T) {
	var out bytes.Buffer
	ticks := make(chan time.Time)
	var gone atomic.Int64 // since runsStart
	live := &liveList{
		screen: progress.Screen{W: &out, Size: func() (int, int) { return 60, 3 }},
		now:    func() time.Time { return runsStart.Add(time.Duration(gone.Load())) }, stop: make(chan struct{}),
	}
	live.ended.Go(func() { live.redraw(ticks) })
	ticks <- runsStart // nothing to draw yet
	runs := []journal.Summary{{ID: "a\x1b[2J", Status: journal.Running, Created: runsStart, Started: runsStart}, {ID: "b"}, {ID: "c"}}
	require.NoError(t, live.show(runs))
	gone.Store(int64(5 * time.Second))
	ticks <- runsStart
	ticks <- runsStart // taken only after the one before was drawn
	require.NoError(t, live.close())
	text := out.String()
	require.Contains(t, text, "running  0.0s  0s")
	require.Contains(t, text, "running  5.0s  5s")
	require.NotContains(t, text, "[2J")
	require.NotContains(t, text, "\nb", "more than the screen holds is left out")
	require.True(t, strings.HasSuffix(text, "\x1b[?25h"))
}

// triggerWriter calls a function once its text has been written.
type triggerWriter struct {
	text strings.Builder // not embedded: io.WriteString would go past Write
	on   map[string]func()
}

func (w *triggerWriter) String() string { return w.text.String() }

func (w *triggerWriter) Write(p []byte) (int, error) {
	n, err := w.text.Write(p)
	for text, call := range w.on {
		if strings.Contains(w.String(), text) {
			delete(w.on, text)
			call()
		}
	}
	return n, err
}

func TestRunsShow(t *testing.T) {
	s := newRunsServer(t)
	s.create("first")
	s.append(
		journal.Entry{Type: journal.AttemptStarted, Stage: "unit (race=true)", Attempt: 1},
		journal.Entry{Type: journal.AttemptFinished, Stage: "unit (race=true)", Attempt: 1, Cause: pipeline.CauseTimeout, Message: "took too long"},
		journal.Entry{Type: journal.StageFinished, Stage: "unit (race=true)", Status: journal.Failed, Cause: pipeline.CauseTimeout, Message: "took\x1b[2J too long\nand more"},
		journal.Entry{Type: journal.AttemptStarted, Stage: "approval", Attempt: 1},
	)
	stdout, stderr, code := s.run("show", "fi")
	require.Equal(t, exitSuccess, code, stderr)
	require.NotContains(t, stdout, "\x1b")
	require.Regexp(t, `unit \(race=true\) +run +failed +1 +\S+ +0.0s +timeout: took too long\n`, stdout)
	require.Contains(t, stdout, `approval waits for approval from ops: tidegate runs approve first "approval"`)
	stdout, _, _ = s.run("show", "first", "-o", "json")
	require.Contains(t, stdout, `"seq": 6`)

	_, stderr, code = s.run("show", "other")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, `there is no run "other" (tidegate runs list shows the runs there are)`)
	_, stderr, code = s.run("show")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "name one run")
}

func TestRunsWatchExitsAsTheRunDid(t *testing.T) {
	for status, want := range map[journal.Status]int{
		journal.Succeeded: exitSuccess, journal.Failed: exitFailed, journal.Refused: exitRefused, journal.Cancelled: exitCancelled,
	} {
		t.Run(string(status), func(t *testing.T) {
			s := newRunsServer(t)
			s.create("first")
			seen := &triggerWriter{on: map[string]func(){"tidegate | started": func() { s.finish(status) }}}
			root := newRootCommand()
			root.SetArgs([]string{"runs", "show", "first", "--watch", "--server", s.url, "--token-file", s.tokenFile})
			root.SetOut(seen)
			require.Equal(t, want, exitCode(root.ExecuteContext(t.Context())))
			require.Contains(t, seen.String(), "shop "+string(status)+" in 0.0s")
		})
	}
}

func TestRunsWatchInterrupted(t *testing.T) {
	s := newRunsServer(t)
	s.create("first")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var errs bytes.Buffer
	root := newRootCommand()
	root.SetArgs([]string{"runs", "show", "first", "--watch", "-o", "json", "--server", s.url, "--token-file", s.tokenFile})
	root.SetOut(&triggerWriter{on: map[string]func(){`"run_started"`: cancel}})
	root.SetErr(&errs)
	require.Equal(t, exitCancelled, exitCode(root.ExecuteContext(ctx)))
	require.Contains(t, errs.String(), "the run goes on")
}

func TestRunsLogs(t *testing.T) {
	s := newRunsServer(t)
	s.create("first")
	s.log("unit (race=true)", "\x1b[31mred\x1b[0m")
	s.log("approval", "other")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"logs", "first"}, "unit (race=true) | red\napproval | other\n"},
		{[]string{"logs", "first", "--stage", "unit"}, "unit (race=true) | red\n"},
		{[]string{"logs", "first", "--stage", "unit (race=true)", "--timestamps"}, "2026-05-01T12:00:00.000Z red\n"},
		{[]string{"logs", "first", "--stage", "unit (race=true)", "--raw"}, "\x1b[31mred\x1b[0m\n"},
	} {
		stdout, stderr, code := s.run(c.args...)
		require.Equal(t, exitSuccess, code, stderr)
		require.Equal(t, c.want, stdout)
	}
	seen := &triggerWriter{on: map[string]func(){
		"other": func() { s.log("approval", "live") },
		"live":  func() { s.finish(journal.Failed) },
	}}
	root := newRootCommand()
	root.SetArgs([]string{"runs", "logs", "first", "-f", "--server", s.url, "--token-file", s.tokenFile})
	root.SetOut(seen)
	require.NoError(t, root.ExecuteContext(t.Context()))
	require.Equal(t, "unit (race=true) | red\napproval | other\napproval | live\n", seen.String())
}

func TestRunsDecide(t *testing.T) {
	s := newRunsServer(t)
	s.create("first")
	_, stderr, code := s.run("approve", "first")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "to answer ahead, name one: approval, late")
	s.append(journal.Entry{Type: journal.AttemptStarted, Stage: "approval", Attempt: 1})
	stdout, stderr, code := s.run("approve", "first", "--comment", "fine")
	require.Equal(t, exitSuccess, code, stderr)
	require.Equal(t, "approval of run first is approved\n", stdout)
	stdout, _, _ = s.run("approve", "first", "approval")
	require.Equal(t, "approval of run first is approved already\n", stdout)
	_, stderr, code = s.run("reject", "first", "late")
	require.Equal(t, exitRefused, code)
	require.Contains(t, stderr, `"late" wants its answer from boss; otto is not among them`)
	stdout, _, _ = s.run("show", "first")
	require.Contains(t, stdout, "approval approved by otto: fine")
	_, _, code = s.run("approve")
	require.Equal(t, exitUsage, code)
}

func TestRunsCancelRerunStart(t *testing.T) {
	s := newRunsServer(t)
	s.create("first")
	_, stderr, code := s.run("rerun", "first")
	require.Equal(t, exitRefused, code)
	require.Contains(t, stderr, "has not ended")
	stdout, _, code := s.run("cancel", "first", "--reason", "wrong branch")
	require.Equal(t, exitSuccess, code)
	require.Equal(t, "asked run first to stop\n", stdout)
	stdout, _, code = s.run("cancel", "first")
	require.Equal(t, exitSuccess, code)
	require.Contains(t, stdout, "already")
	s.finish(journal.Cancelled)
	_, stderr, code = s.run("rerun", "first", "--watch")
	require.Equal(t, exitRefused, code, stderr)

	_, stderr, code = s.run("start", "--repository", "octo/shop")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "input version is missing")
	stdout, _, code = s.run("start", "--repository", "octo/shop", "--input", "version=1=2")
	require.Equal(t, exitSuccess, code)
	require.Equal(t, "by-hand\n", stdout)
	for _, args := range [][]string{
		{"start"},
		{"start", "--repository", "x", "--input", "nope"},
		{"start", "--repository", "x", "--input", "a=1", "--input", "a=2"},
	} {
		_, _, code = s.run(args...)
		require.Equal(t, exitUsage, code, args)
	}
}

func TestRunsConnection(t *testing.T) {
	s := newRunsServer(t)
	_, stderr, code := runCommand(t.Context(), "runs", "list", "--server", s.url)
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "set TIDEGATE_TOKEN or give --token-file")

	secret, err := os.ReadFile(s.tokenFile)
	require.NoError(t, err)
	t.Setenv("TIDEGATE_SERVER", s.url)
	t.Setenv("TIDEGATE_TOKEN", string(secret))
	_, stderr, code = runCommand(t.Context(), "runs", "list")
	require.Equal(t, exitSuccess, code, stderr)
	_, stderr, code = runCommand(t.Context(), "runs", "list", "--token", "wrong")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "the token is not accepted")
	_, stderr, code = runCommand(t.Context(), "runs", "list", "--server", "http://127.0.0.1:1")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "can't reach the server at http://127.0.0.1:1: dial tcp")
	require.Contains(t, stderr, "is 'tidegate serve' running there?")
	_, stderr, code = runCommand(t.Context(), "runs", "list", "--server", "ftp://x")
	require.Equal(t, exitUsage, code, stderr)
	_, stderr, code = runCommand(t.Context(), "runs", "list", "--token-file", "/dev/zero")
	require.Equal(t, exitUsage, code, stderr)
	_, _, code = runCommand(t.Context(), "runs", "list", "--token-file", s.tokenFile, "--token", "x")
	require.Equal(t, exitUsage, code)
}

func TestRunsCompletion(t *testing.T) {
	s := newRunsServer(t)
	s.create("first")
	complete := func(args ...string) string {
		stdout, _, _ := runCommand(t.Context(), append([]string{"__complete", "runs", "--server", s.url, "--token-file", s.tokenFile}, args...)...)
		return stdout
	}
	require.Contains(t, complete("show", ""), "first\tshop main")
	require.NotContains(t, complete("rerun", ""), "first")
	require.Contains(t, complete("approve", "first", ""), "approval\tpending")
	require.NotContains(t, complete("approve", "first", ""), "unit")
	require.Contains(t, complete("logs", "first", "--stage", ""), "unit (race=true)\tpending")
	require.Contains(t, complete("list", "--status", ""), "waiting")
	s.url = "http://127.0.0.1:1"
	require.NotContains(t, complete("show", ""), "first")
}
