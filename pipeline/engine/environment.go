package engine

import (
	"strconv"
	"strings"

	"github.com/tidegate-ci/tidegate/pipeline"
)

// environmentOf is what commands see beside the stage's own variables. Values
// of the event are untrusted text: as variables they cannot become shell. What
// the caller adds goes over the built-in names, secrets go over both.
func environmentOf(w work, stage pipeline.PlannedStage, extra func(string, *pipeline.Plan, pipeline.PlannedStage) map[string]string, secrets map[string]string) map[string]string {
	e := w.plan.Event
	env := map[string]string{
		"CI":                  "true",
		"TIDEGATE":            "true",
		"TIDEGATE_RUN":        w.run,
		"TIDEGATE_PIPELINE":   w.plan.Pipeline,
		"TIDEGATE_STAGE":      stage.ID,
		"TIDEGATE_ATTEMPT":    strconv.Itoa(w.number),
		"TIDEGATE_EVENT":      string(e.Kind),
		"TIDEGATE_REPOSITORY": e.Repository.FullName,
		"TIDEGATE_REF":        e.Ref,
		"TIDEGATE_BRANCH":     e.Branch,
		"TIDEGATE_TAG":        e.Tag,
		"TIDEGATE_COMMIT":     e.Commit,
		"TIDEGATE_MESSAGE":    e.Message,
		"TIDEGATE_ACTOR":      e.Actor,
	}
	if p := e.PullRequest; p != nil {
		env["TIDEGATE_PULL_REQUEST"] = strconv.Itoa(p.Number)
		env["TIDEGATE_BASE_BRANCH"] = p.BaseBranch
		env["TIDEGATE_PULL_REQUEST_TITLE"] = p.Title
	}
	for name, value := range w.plan.Inputs {
		env["TIDEGATE_INPUT_"+variableName(name)] = value
	}
	if extra != nil {
		for name, value := range extra(w.run, w.plan, stage) {
			env[name] = value
		}
	}
	for name, value := range secrets {
		env[name] = value
	}
	return env
}

// variableName makes a name that shells accept.
func variableName(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z':
			return c - 'a' + 'A'
		case c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			return c
		}
		return '_'
	}, name)
}
