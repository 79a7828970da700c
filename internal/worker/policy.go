package worker

import (
	"cmp"
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
	// member tells whether a user belongs to a group; nil: never.
	member func(user, group string) bool
	inner  pipeline.Kind
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
	if reason := p.refuse(name, environment, attempt.Event); reason != "" {
		return nil, pipeline.Fail(pipeline.CauseRefused, "%s", reason)
	}
	if promote := attempt.Stage.Deploy.Promote; promote != nil {
		if err := p.mayPromote(promote.From, attempt.Event); err != nil {
			return nil, err
		}
	}
	return p.inner.Run(ctx, attempt)
}

// mayPromote tells whether what another environment has proven may be taken:
// it must be one that the repository deploys to.
func (p policy) mayPromote(from string, e event.Event) error {
	environment, ok := p.environments[from]
	if !ok {
		return pipeline.Fail(pipeline.CauseInvalid, "there is no environment %q in the settings to promote from (known: %s)", from, strings.Join(slices.Sorted(maps.Keys(p.environments)), ", "))
	}
	if !environment.Allows(e.Repository.FullName) {
		return pipeline.Fail(pipeline.CauseRefused, "environment %s: repository %s may not deploy here, nor promote from it (allowed: %s)", from, e.Repository.FullName, strings.Join(environment.Repositories, ", "))
	}
	return nil
}

// refuse says why an event may not deploy to an environment; empty means it may.
func (p policy) refuse(name string, environment settings.Environment, e event.Event) string {
	if e.Trust != event.Own {
		return fmt.Sprintf("environment %s: code of a fork is never deployed", name)
	}
	if !environment.Allows(e.Repository.FullName) {
		return fmt.Sprintf("environment %s: repository %s may not deploy here (allowed: %s)", name, e.Repository.FullName, strings.Join(environment.Repositories, ", "))
	}
	if environment.Protected() {
		if reason := refuseRef(environment, e); reason != "" {
			return fmt.Sprintf("environment %s: %s (allowed: %s)", name, reason, protection(environment))
		}
	}
	if !p.mayDeploy(environment, e.Actor) {
		return fmt.Sprintf("environment %s: %s may not deploy here (allowed: %s); one of them has to start the run, or to run it again",
			name, cmp.Or(e.Actor, "someone unknown"), strings.Join(environment.Deployers, ", "))
	}
	return ""
}

// refuseRef says why what an event is about is not among the environment's
// branches and tags.
func refuseRef(environment settings.Environment, e event.Event) string {
	matches := func(patterns []string, name string) bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool {
			match, err := doublestar.Match(pattern, name)
			return err == nil && match
		})
	}
	switch {
	case e.Kind == event.PullRequest:
		return "a pull request may not deploy here"
	case e.Tag != "":
		if !matches(environment.Tags, e.Tag) {
			return fmt.Sprintf("tag %q may not deploy here", e.Tag)
		}
	case !matches(environment.Branches, e.Branch):
		return fmt.Sprintf("branch %q may not deploy here", e.Branch)
	}
	return ""
}

func protection(environment settings.Environment) string {
	var allowed []string
	if len(environment.Branches) > 0 {
		allowed = append(allowed, "branches "+strings.Join(environment.Branches, ", "))
	}
	if len(environment.Tags) > 0 {
		allowed = append(allowed, "tags "+strings.Join(environment.Tags, ", "))
	}
	return strings.Join(allowed, "; ")
}

// mayDeploy tells whether a person is one of the environment's deployers, by
// name or as a member of a group.
func (p policy) mayDeploy(environment settings.Environment, actor string) bool {
	return len(environment.Deployers) == 0 || actor != "" && slices.ContainsFunc(environment.Deployers, func(entry string) bool {
		return entry == actor || p.member != nil && p.member(actor, entry)
	})
}
