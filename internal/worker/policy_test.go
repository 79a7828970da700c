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
	}
	own := func(repository, branch string) event.Event {
		return event.Event{Kind: event.Push, Trust: event.Own, Branch: branch, Repository: event.Repository{FullName: repository}}
	}
	fork := own("octo/shop", "main")
	fork.Trust = event.Fork
	pull := own("octo/shop", "main")
	pull.Kind = event.PullRequest
	for name, test := range map[string]struct {
		environment string
		event       event.Event
		cause       pipeline.Cause
		says        string
	}{
		"open to its own":       {"open", own("a/b", "any"), pipeline.CauseNone, ""},
		"never to forks":        {"open", fork, pipeline.CauseRefused, "fork"},
		"allowed branch":        {"strict", own("Octo/Shop", "release/1"), pipeline.CauseNone, ""},
		"other branch":          {"strict", own("octo/shop", "feature"), pipeline.CauseRefused, `"feature"`},
		"a longer branch":       {"strict", own("octo/shop", "release/1/x"), pipeline.CauseRefused, "release/1/x"},
		"other repository":      {"strict", own("octo/else", "main"), pipeline.CauseRefused, "octo/else"},
		"pull request":          {"strict", pull, pipeline.CauseRefused, "pull request"},
		"environment not there": {"moon", own("a/b", "main"), pipeline.CauseInvalid, "open, strict"},
	} {
		t.Run(name, func(t *testing.T) {
			inner := &recordingKind{}
			kind := policy{environments: environments, inner: inner}
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
