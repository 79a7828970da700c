package rollout

import (
	_ "embed"
	"strings"
	"sync"

	"github.com/tidegate-ci/tidegate/rollout/health"
)

//go:embed RUNBOOK.md
var runbookText string

// runbook holds the sections of RUNBOOK.md by the reason that heads them.
var runbook = sync.OnceValue(func() map[string]string {
	sections := map[string]string{}
	for _, section := range strings.Split(runbookText, "\n### ")[1:] {
		reason, text, _ := strings.Cut(section, "\n")
		if end := strings.Index(text, "\n## "); end >= 0 {
			text = text[:end]
		}
		sections[strings.Trim(reason, "`")] = strings.TrimSpace(text)
	}
	return sections
})

// Runbook says what a reason means, where to look and what to do, as Markdown.
// It is part of the binary, so that it is there when nothing else is.
func Runbook(reason health.Reason) (text string, known bool) {
	text, known = runbook()[string(reason)]
	return text, known
}

// Reasons lists what Runbook explains, in no order.
func Reasons() []health.Reason {
	var reasons []health.Reason
	for reason := range runbook() {
		reasons = append(reasons, health.Reason(reason))
	}
	return reasons
}
