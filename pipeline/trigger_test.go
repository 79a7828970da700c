package pipeline

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

func TestMatch(t *testing.T) {
	changed := func(e event.Event, paths ...string) event.Event {
		e.ChangedPaths, e.PathsKnown = paths, true
		return e
	}
	tag := func(name string) event.Event {
		return event.Event{Kind: event.Tag, Tag: name, Ref: "refs/tags/" + name}
	}
	pull := func(base, head string) event.Event {
		return event.Event{Kind: event.PullRequest, Branch: head, PullRequest: &event.PullRequestInfo{Number: 1, BaseBranch: base, HeadBranch: head}}
	}
	for _, test := range []struct {
		name, on string
		event    event.Event
		want     bool
		reason   string
	}{
		{"any push", "push", push("main"), true, `branch "main" matches`},
		{"no pushes", "pull_request", push("main"), false, "does not start on pushes"},
		{"branch named", "{push: {branches: main}}", push("main"), true, ""},
		{"branch not named", "{push: {branches: main}}", push("maintenance"), false, "matches none of branches"},
		{"branch glob in one directory", "{push: {branches: release/*}}", push("release/1.0"), true, ""},
		{"branch glob not across directories", "{push: {branches: release/*}}", push("release/1.0/x"), false, ""},
		{"branch glob across directories", "{push: {branches: release/**}}", push("release/1.0/x"), true, ""},
		{"branch alternatives", `{push: {branches: "{main,dev}"}}`, push("dev"), true, ""},
		{"branch taken back", `{push: {branches: ["**", "!wip/**"]}}`, push("wip/x"), false, ""},
		{"branch let in again", `{push: {branches: ["**", "!wip/**", wip/ci]}}`, push("wip/ci"), true, ""},
		{"branch ignored", "{push: {branches-ignore: wip/**}}", push("wip/x"), false, "branches-ignore"},
		{"branch not ignored", "{push: {branches-ignore: wip/**}}", push("main"), true, ""},

		{"tag without tags", "push", tag("v1"), false, "does not start on tags"},
		{"tag named", `{push: {tags: "v*"}}`, tag("v1.2"), true, ""},
		{"tag not named", `{push: {tags: "v*"}}`, tag("x1"), false, "matches none of on.push.tags"},
		{"branch with tags alone", `{push: {tags: "v*"}}`, push("main"), false, "tags only"},
		{"branch with tags and branches", `{push: {tags: "v*", branches: main}}`, push("main"), true, ""},
		{"path filters do not apply to tags", `{push: {tags: "v*", paths: web/**}}`, changed(tag("v1"), "api/x"), true, ""},

		{"path changed", "{push: {paths: web/**}}", changed(push("main"), "api/a", "web/b/c"), true, ""},
		{"no such path changed", "{push: {paths: web/**}}", changed(push("main"), "api/a"), false, "no path changed"},
		{"paths not known", "{push: {paths: web/**}}", push("main"), true, "not known"},
		{"only ignored paths", "{push: {paths-ignore: [docs/**, '**/*.md']}}", changed(push("main"), "docs/a", "x/README.md"), false, ""},
		{"not only ignored paths", "{push: {paths-ignore: docs/**}}", changed(push("main"), "docs/a", "b"), true, ""},
		{"wanted and ignored path", "{push: {paths: web/**, paths-ignore: '**/*.md'}}", changed(push("main"), "web/a.md", "api/b"), false, ""},
		{"nothing changed", "{push: {paths: web/**}}", changed(push("main")), false, ""},

		{"pull request into branch", "{pull_request: {branches: main}}", pull("main", "fix"), true, ""},
		{"pull request from branch", "{pull_request: {branches: main}}", pull("dev", "main"), false, ""},
		{"no pull requests", "push", pull("main", "fix"), false, "does not start on pull requests"},

		{"schedule", `{schedule: "0  3 * * *"}`, event.Event{Kind: event.Schedule, Schedule: "0 3 * * *"}, true, ""},
		{"other schedule", `{schedule: "0 3 * * *"}`, event.Event{Kind: event.Schedule, Schedule: "0 4 * * *"}, false, ""},
		{"by hand", "manual", event.Event{Kind: event.Manual}, true, ""},
		{"not by hand", "push", event.Event{Kind: event.Manual}, false, "on.manual"},
		{"unknown kind", "push", event.Event{Kind: "comment"}, false, "start no pipeline"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := Parse("ci.yaml", []byte("version: 1\nname: p\non: "+test.on+"\nstages: {a: {run: x}}"))
			require.NoError(t, err)
			ok, reason := p.On.Match(test.event)
			require.Equal(t, test.want, ok, reason)
			require.Contains(t, reason, test.reason)
			require.NotEmpty(t, reason)
		})
	}
}
