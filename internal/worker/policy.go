package worker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// policy refuses deploys that an environment does not allow, before anything
// of them is looked at.
type policy struct {
	environments map[string]settings.Environment
	inner        pipeline.Kind
}

func (p policy) Takeover() pipeline.Takeover { return p.inner.Takeover() }

func (p policy) Run(ctx context.Context, attempt pipeline.Attempt) (pipeline.Outputs, error) {
	if attempt.Stage.Deploy == nil {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "stage %s: no deploy section", attempt.Stage.ID)
	}
	name := attempt.Stage.Deploy.Environment
	environment, ok := p.environments[name]
	if !ok {
		known := strings.Join(slices.Sorted(maps.Keys(p.environments)), ", ")
		return nil, pipeline.Fail(pipeline.CauseInvalid, "there is no environment %q in the settings (known: %s)", name, known)
	}
	if reason := refuse(name, environment, attempt.Event); reason != "" {
		return nil, pipeline.Fail(pipeline.CauseRefused, "%s", reason)
	}
	return p.inner.Run(ctx, attempt)
}

// refuse says why an event may not deploy to an environment; empty means it may.
func refuse(name string, environment settings.Environment, e event.Event) string {
	if e.Trust != event.Own {
		return fmt.Sprintf("environment %s: code of a fork is never deployed", name)
	}
	if len(environment.Repositories) > 0 && !slices.ContainsFunc(environment.Repositories, func(r string) bool {
		return strings.EqualFold(r, e.Repository.FullName)
	}) {
		return fmt.Sprintf("environment %s: repository %s may not deploy here (allowed: %s)", name, e.Repository.FullName, strings.Join(environment.Repositories, ", "))
	}
	if e.Kind == event.PullRequest && len(environment.Branches) > 0 {
		return fmt.Sprintf("environment %s: a pull request may not deploy here, only branches %s", name, strings.Join(environment.Branches, ", "))
	}
	if len(environment.Branches) > 0 && !slices.ContainsFunc(environment.Branches, func(pattern string) bool {
		match, err := doublestar.Match(pattern, e.Branch)
		return err == nil && match
	}) {
		return fmt.Sprintf("environment %s: branch %q may not deploy here (allowed: %s)", name, e.Branch, strings.Join(environment.Branches, ", "))
	}
	return ""
}
