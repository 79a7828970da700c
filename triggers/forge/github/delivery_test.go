package github_test

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/forge/github"
	"github.com/tidegate-ci/tidegate/triggers/inbox"
)

const (
	first  = "1111111111111111111111111111111111111111"
	second = "2222222222222222222222222222222222222222"
	third  = "3333333333333333333333333333333333333333"
)

var secret = []byte("a secret of the tests")

func payload(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	require.NoError(t, err)
	return data
}

func header(kind string, body []byte) http.Header {
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set(github.HeaderDelivery, "72d3162e-cc78-11e3-81ab-4c9367dc0958")
	h.Set(github.HeaderEvent, kind)
	h.Set(github.HeaderSignature, github.Sign(body, secret))
	return h
}

func TestEvent(t *testing.T) {
	shop := event.Repository{FullName: "octo/shop", CloneURL: "https://github.com/octo/shop.git", DefaultBranch: "main"}
	base := event.Event{ID: "72d3162e-cc78-11e3-81ab-4c9367dc0958", Forge: "github", Repository: shop}
	with := func(change func(*event.Event)) event.Event {
		ev := base
		change(&ev)
		return ev
	}
	push := with(func(ev *event.Event) {
		ev.Kind, ev.Trust = event.Push, event.Own
		ev.Ref, ev.Branch, ev.Before, ev.Commit = "refs/heads/main", "main", first, third
		ev.Message, ev.Actor = "Do not sell coffee\n\nNobody drinks it.", "octo"
		ev.ChangedPaths, ev.PathsKnown = []string{"coffee.go", "main.go", "tea.go"}, true
	})
	request := with(func(ev *event.Event) {
		ev.Kind, ev.Trust = event.PullRequest, event.Own
		ev.Ref, ev.Branch, ev.Commit = "refs/pull/7/head", "tea", third
		ev.Message, ev.Actor = "Sell $(reboot) `tea`", "mallory"
		ev.PullRequest = &event.PullRequestInfo{Number: 7, BaseBranch: "main", HeadBranch: "tea", Title: "Sell $(reboot) `tea`"}
	})
	from := func(ev event.Event, change func(*event.Event)) event.Event { change(&ev); return ev }

	for _, c := range []struct {
		name, kind, file string
		want             event.Event
		ignored          string
	}{
		{name: "push", kind: "push", file: "push", want: push},
		{name: "new branch", kind: "push", file: "push_new_branch", want: from(push, func(ev *event.Event) {
			ev.Ref, ev.Branch, ev.Before, ev.ChangedPaths, ev.PathsKnown = "refs/heads/feature/tea", "feature/tea", "", nil, false
		})},
		{name: "forced", kind: "push", file: "push_forced", want: from(push, func(ev *event.Event) { ev.ChangedPaths, ev.PathsKnown = nil, false })},
		{name: "list of commits cut short", kind: "push", file: "push_truncated", want: from(push, func(ev *event.Event) { ev.ChangedPaths, ev.PathsKnown = nil, false })},
		{name: "deleted branch", kind: "push", file: "push_deleted", ignored: "deleting refs/heads/main starts nothing"},
		{name: "annotated tag", kind: "push", file: "push_tag", want: from(push, func(ev *event.Event) {
			ev.Kind, ev.Ref, ev.Branch, ev.Tag, ev.Before = event.Tag, "refs/tags/v1.2.0", "", "v1.2.0", ""
			ev.ChangedPaths, ev.PathsKnown = nil, false
		})},
		{name: "deleted tag", kind: "push", file: "push_tag_deleted", ignored: "deleting refs/tags/v1.2.0 starts nothing"},
		{name: "pull request", kind: "pull_request", file: "pull_request_opened", want: request},
		{name: "from a fork", kind: "pull_request", file: "pull_request_opened_fork", want: from(request, func(ev *event.Event) { ev.Trust = event.Fork })},
		{name: "from a fork that is gone", kind: "pull_request", file: "pull_request_reopened_deleted_fork", want: from(request, func(ev *event.Event) { ev.Trust = event.Fork })},
		{name: "synchronize", kind: "pull_request", file: "pull_request_synchronize", want: from(request, func(ev *event.Event) { ev.Before = second })},
		{name: "closed", kind: "pull_request", file: "pull_request_closed", ignored: "pull_request closed starts nothing"},
		{name: "other event", kind: "issues", file: "issues_opened", ignored: "events of type issues start nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := payload(t, c.file)
			d, err := github.Forge{}.Open(header(c.kind, body))
			require.NoError(t, err)
			require.True(t, d.Verify(body, secret))
			name, err := d.RepositoryName(body)
			require.NoError(t, err)
			require.Equal(t, "octo/shop", name)
			got, ignored, err := d.Event(body)
			require.NoError(t, err)
			require.Equal(t, c.ignored, ignored)
			require.Empty(t, cmp.Diff(c.want, got))
		})
	}
}

func TestForm(t *testing.T) {
	body := []byte("payload=" + url.QueryEscape(string(payload(t, "push"))))
	h := header("push", body)
	h.Set("Content-Type", "application/x-www-form-urlencoded")
	d, err := github.Forge{}.Open(h)
	require.NoError(t, err)
	require.True(t, d.Verify(body, secret))
	got, _, err := d.Event(body)
	require.NoError(t, err)
	require.Equal(t, third, got.Commit)
}

func TestOpenRefuses(t *testing.T) {
	set := func(key, value string) func(http.Header) {
		return func(h http.Header) {
			h.Del(key)
			if value != "" {
				h.Set(key, value)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(http.Header)
		status int
		reason string
	}{
		"no delivery id":       {set(github.HeaderDelivery, ""), 400, "missing"},
		"id of another sort":   {set(github.HeaderDelivery, "schedule:octo/shop"), 400, "no id"},
		"no event":             {set(github.HeaderEvent, ""), 400, "missing"},
		"XML":                  {set("Content-Type", "text/xml"), 415, "application/json"},
		"not signed":           {set(github.HeaderSignature, ""), 401, "set a secret"},
		"signature too short":  {set(github.HeaderSignature, "sha256=00"), 401, "no SHA-256"},
		"signature of another": {set(github.HeaderSignature, "sha1=00"), 401, "no SHA-256"},
		"SHA-1 only": {func(h http.Header) {
			h.Del(github.HeaderSignature)
			h.Set("X-Hub-Signature", "sha1=0123456789012345678901234567890123456789")
		}, 401, "SHA-1 only"},
	} {
		t.Run(name, func(t *testing.T) {
			h := header("push", nil)
			c.change(h)
			_, err := github.Forge{}.Open(h)
			var refusal *inbox.Refusal
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, c.status, refusal.Status)
			require.Contains(t, refusal.Reason, c.reason)
		})
	}
}

func TestVerify(t *testing.T) {
	body := []byte("{}")
	d, err := github.Forge{}.Open(header("push", body))
	require.NoError(t, err)
	require.True(t, d.Verify(body, secret))
	require.False(t, d.Verify([]byte("{} "), secret))
	require.False(t, d.Verify(body, []byte("another secret")))

	h := header("push", body)
	h.Set(github.HeaderSignature, github.Sign(body, nil))
	d, err = github.Forge{}.Open(h)
	require.NoError(t, err)
	require.False(t, d.Verify(body, nil), "an empty secret verifies nothing")
}

// Whatever the bytes, the parser returns a valid event, a reason or a refusal.
func FuzzEvent(f *testing.F) {
	for _, name := range []string{"push", "push_tag", "push_deleted", "push_truncated", "ping"} {
		f.Add("push", payload(f, name))
	}
	for _, name := range []string{"pull_request_opened", "pull_request_opened_fork", "pull_request_reopened_deleted_fork"} {
		f.Add("pull_request", payload(f, name))
	}
	f.Add("push", []byte(`{"ref":"refs/heads/../x","after":"0","commits":[null]}`))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		d, err := github.Forge{}.Open(header(kind, body))
		if err != nil {
			return
		}
		_, _ = d.RepositoryName(body)
		ev, ignored, err := d.Event(body)
		var refusal *inbox.Refusal
		switch {
		case err != nil:
			require.ErrorAs(t, err, &refusal)
		case ignored == "":
			require.Regexp(t, `^refs/(heads|tags|pull)/[^~^:?*\[\\ ]+$`, ev.Ref)
			require.Regexp(t, `^([0-9a-f]{40}|[0-9a-f]{64})$`, ev.Commit)
			require.LessOrEqual(t, len(ev.Message), 8<<10)
			require.LessOrEqual(t, len(ev.ChangedPaths), 3000)
		}
	})
}
