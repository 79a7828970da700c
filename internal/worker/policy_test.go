package worker

import (
	"context"
	"strings"
	"testing"

	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
)

type recordingKind struct{ runs int }

func (*recordingKind) Takeover() pipeline.Takeover { return pipeline.TakeoverContinue }
func (k *recordingKind) Run(context.Context, pipeline.Attempt) (pipeline.Outputs, error) {
	k.runs++
	return nil, nil
}

func TestPolicy(t *testing.T) {
	environments := map[string]settings.Environment{
		"open":   {},
		"strict": {Repositories: []string{"octo/shop"}, Branches: []string{"main", "release/*"}},
		"tagged": {Tags: []string{"v*"}},
		"few":    {Branches: []string{"main"}, Deployers: []string{"ann", "ops"}},
	}
	own := func(repository, branch string) event.Event {
		return event.Event{Kind: event.Push, Trust: event.Own, Branch: branch, Repository: event.Repository{FullName: repository}}
	}
	fork := own("octo/shop", "main")
	fork.Trust = event.Fork
	pull := own("octo/shop", "main")
	pull.Kind = event.PullRequest
	by := func(e event.Event, actor string) event.Event {
		e.Actor = actor
		return e
	}
	tag := own("octo/shop", "")
	tag.Kind, tag.Tag = event.Tag, "v1.2"
	for name, test := range map[string]struct {
		environment string
		event       event.Event
		cause       pipeline.Cause
		says        string
	}{
		"open to its own":                 {"open", own("a/b", "any"), pipeline.CauseNone, ""},
		"never to forks":                  {"open", fork, pipeline.CauseRefused, "fork"},
		"allowed branch":                  {"strict", own("Octo/Shop", "release/1"), pipeline.CauseNone, ""},
		"other branch":                    {"strict", own("octo/shop", "feature"), pipeline.CauseRefused, `"feature"`},
		"a longer branch":                 {"strict", own("octo/shop", "release/1/x"), pipeline.CauseRefused, "release/1/x"},
		"other repository":                {"strict", own("octo/else", "main"), pipeline.CauseRefused, "octo/else"},
		"pull request":                    {"strict", pull, pipeline.CauseRefused, "pull request"},
		"environment not there":           {"moon", own("a/b", "main"), pipeline.CauseInvalid, "few, open, strict, tagged"},
		"a tag where branches are named":  {"strict", tag, pipeline.CauseRefused, `tag "v1.2" may not deploy here (allowed: branches main, release/*)`},
		"a tag":                           {"tagged", tag, pipeline.CauseNone, ""},
		"a tag anywhere":                  {"open", tag, pipeline.CauseNone, ""},
		"a branch where tags are named":   {"tagged", own("octo/shop", "main"), pipeline.CauseRefused, `branch "main" may not deploy here (allowed: tags v*)`},
		"a branch named like a tag":       {"tagged", own("octo/shop", "v1.2"), pipeline.CauseRefused, `branch "v1.2"`},
		"a deployer":                      {"few", by(own("octo/shop", "main"), "ann"), pipeline.CauseNone, ""},
		"a member of a group":             {"few", by(own("octo/shop", "main"), "bob"), pipeline.CauseNone, ""},
		"somebody else":                   {"few", by(own("octo/shop", "main"), "eve"), pipeline.CauseRefused, "eve may not deploy here (allowed: ann, ops)"},
		"one who is named like the group": {"few", by(own("octo/shop", "main"), "ops"), pipeline.CauseNone, ""},
		"nobody known":                    {"few", own("octo/shop", "main"), pipeline.CauseRefused, "someone unknown"},
		"a deployer's other branch":       {"few", by(own("octo/shop", "dev"), "ann"), pipeline.CauseRefused, `"dev"`},
		"a fork of a deployer":            {"few", by(fork, "ann"), pipeline.CauseRefused, "fork"},
	} {
		t.Run(name, func(t *testing.T) {
			inner := &recordingKind{}
			member := func(user, group string) bool { return user == "bob" && group == "ops" }
			kind := policy{environments: environments, member: member, inner: inner}
			_, err := kind.Run(t.Context(), pipeline.Attempt{Event: test.event, Stage: pipeline.PlannedStage{Deploy: &pipeline.DeploySpec{Environment: test.environment}}})
			if pipeline.CauseOf(err) != test.cause || (err != nil && !strings.Contains(err.Error(), test.says)) {
				t.Fatalf("got %v (cause %q), want cause %q and %q", err, pipeline.CauseOf(err), test.cause, test.says)
			}
			if ran := inner.runs == 1; ran != (test.cause == pipeline.CauseNone) {
				t.Fatalf("the deploy ran: %t", ran)
			}
		})
	}
}

func TestPromotionNeedsTheEnvironmentThatItTakesFrom(t *testing.T) {
	environments := map[string]settings.Environment{"open": {}, "theirs": {Repositories: []string{"octo/else"}}}
	for from, want := range map[string]pipeline.Cause{"open": pipeline.CauseNone, "theirs": pipeline.CauseRefused, "moon": pipeline.CauseInvalid} {
		kind := policy{environments: environments, inner: &recordingKind{}}
		e := event.Event{Kind: event.Push, Trust: event.Own, Branch: "main", Repository: event.Repository{FullName: "octo/shop"}}
		_, err := kind.Run(t.Context(), pipeline.Attempt{Event: e, Stage: pipeline.PlannedStage{Deploy: &pipeline.DeploySpec{Environment: "open", Promote: &pipeline.PromoteSpec{From: from}}}})
		if pipeline.CauseOf(err) != want {
			t.Errorf("from %s: %v", from, err)
		}
	}
}
