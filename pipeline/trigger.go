package pipeline

import (
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// Match tells whether the event starts the pipeline, and why or why not, in
// words for people. It does not look at the trust of the event.
func (t *Triggers) Match(e event.Event) (ok bool, reason string) {
	switch e.Kind {
	case event.Push:
		if t.Push == nil {
			return false, "the pipeline does not start on pushes"
		}
		if len(t.Push.Tags) > 0 && len(t.Push.Branches) == 0 && len(t.Push.BranchesIgnore) == 0 {
			return false, "the pipeline starts on tags only"
		}
		return t.Push.matchBranch(e, e.Branch)
	case event.Tag:
		if t.Push == nil || len(t.Push.Tags) == 0 {
			return false, "the pipeline does not start on tags"
		}
		if !matchesAny(t.Push.Tags, e.Tag) {
			return false, fmt.Sprintf("tag %q matches none of on.push.tags", e.Tag)
		}
		return true, fmt.Sprintf("tag %q matches on.push.tags", e.Tag)
	case event.PullRequest:
		if t.PullRequest == nil {
			return false, "the pipeline does not start on pull requests"
		}
		base := ""
		if e.PullRequest != nil {
			base = e.PullRequest.BaseBranch
		}
		return t.PullRequest.matchBranch(e, base)
	case event.Schedule:
		for _, schedule := range t.Schedule {
			if sameFields(schedule.Cron, e.Schedule) {
				return true, fmt.Sprintf("schedule %q", schedule.Cron)
			}
		}
		return false, fmt.Sprintf("the pipeline has no schedule %q", e.Schedule)
	case event.Manual:
		if t.Manual == nil {
			return false, "the pipeline cannot be started by hand: it has no on.manual"
		}
		return true, "started by hand"
	}
	return false, fmt.Sprintf("events of kind %q start no pipeline", e.Kind)
}

func (t *PushTrigger) matchBranch(e event.Event, branch string) (bool, string) {
	switch {
	case len(t.Branches) > 0 && !matchesAny(t.Branches, branch):
		return false, fmt.Sprintf("branch %q matches none of branches", branch)
	case matchesAny(t.BranchesIgnore, branch):
		return false, fmt.Sprintf("branch %q matches branches-ignore", branch)
	case len(t.Paths) == 0 && len(t.PathsIgnore) == 0:
		return true, fmt.Sprintf("branch %q matches", branch)
	case !e.PathsKnown:
		return true, "which paths changed is not known"
	case !pathsCount(e.ChangedPaths, t.Paths, t.PathsIgnore):
		return false, "no path changed that the filters let count"
	}
	return true, fmt.Sprintf("branch %q and the changed paths match", branch)
}

// pathsCount tells whether a changed path is wanted (by any of paths; all are
// when it is empty) and not ignored.
func pathsCount(changed, paths, ignored []string) bool {
	for _, path := range changed {
		if (len(paths) == 0 || matchesAny(paths, path)) && !matchesAny(ignored, path) {
			return true
		}
	}
	return false
}

// matchesAny applies globs in order: one that begins with ! takes back what
// earlier ones let in.
func matchesAny(globs []string, name string) bool {
	matched := false
	for _, glob := range globs {
		pattern, negated := strings.CutPrefix(glob, "!")
		if matched == negated && doublestar.MatchUnvalidated(pattern, name) {
			matched = !negated
		}
	}
	return matched
}

func sameFields(a, b string) bool {
	return strings.Join(strings.Fields(a), " ") == strings.Join(strings.Fields(b), " ")
}
