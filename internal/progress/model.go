package progress

import (
	"fmt"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	// maxKept bounds the text kept of one log line.
	maxKept = 4096
	// maxEarly bounds the stages whose lines are kept before the plan is known.
	maxEarly = 100
)

// model is all that is shown of a run: its state and the ends of its logs.
type model struct {
	state journal.State
	// logs are by stage; once the plan is known, only those of its stages.
	logs  map[string]*tail
	limit int
	rows  []row
	// lineSeen is the sequence number of the newest log line.
	lineSeen int64
}

// tail is the end of a stage's log, cleaned.
type tail struct {
	attempt int
	lines   []string
	latest  string
}

// row is a line of the tree: a stage, or the heading of a matrix when stage
// is below 0.
type row struct {
	label  string
	stage  int // index in the state
	depth  int
	member []int // of a heading: its stages
}

func newModel(limit int) *model {
	return &model{logs: map[string]*tail{}, limit: limit}
}

// entry folds one in and tells whether it was new.
func (m *model) entry(entry journal.Entry) bool {
	if entry.Seq != 0 && entry.Seq <= m.state.Seq {
		return false
	}
	m.state.Apply(entry)
	if entry.Type == journal.RunCreated && m.state.Plan != nil {
		m.rows = rowsOf(m.state.Plan)
		early := m.logs
		m.logs = make(map[string]*tail, len(m.state.Stages))
		for _, stage := range m.state.Stages {
			m.logs[stage.ID] = &tail{}
			if log := early[stage.ID]; log != nil {
				m.logs[stage.ID] = log
			}
		}
	}
	return true
}

// line takes a log line in and tells whether it was new. Lines without a
// sequence number always are.
func (m *model) line(line journal.Line) bool {
	if line.Seq != 0 && line.Seq <= m.lineSeen {
		return false
	}
	m.lineSeen = max(m.lineSeen, line.Seq)
	log := m.logs[line.Stage]
	if log == nil && m.state.Plan == nil && len(m.logs) < maxEarly {
		log = &tail{}
		m.logs[line.Stage] = log
	}
	if log != nil {
		log.add(line, m.limit)
	}
	return true
}

func (log *tail) add(line journal.Line, limit int) {
	text := line.Text
	if len(text) > maxKept {
		text = text[:maxKept]
	}
	if line.Attempt > log.attempt { // a retry's log is a new one
		log.attempt, log.lines, log.latest = line.Attempt, nil, ""
	}
	latest := termtext.Latest(text)
	if latest != "" {
		log.latest = latest
	}
	if limit == 0 {
		return
	}
	if len(log.lines) >= limit {
		log.lines = append(log.lines[:0], log.lines[len(log.lines)-limit+1:]...)
	}
	log.lines = append(log.lines, latest)
}

// rowsOf lays the tree out: the plan's order, with the parts of a matrix
// gathered where the first of them stands.
func rowsOf(plan *pipeline.Plan) []row {
	members := map[string][]int{}
	for i, stage := range plan.Stages {
		if base, _, ok := matrixParts(stage); ok {
			members[base] = append(members[base], i)
		}
	}
	var rows []row
	for i, stage := range plan.Stages {
		base, _, ok := matrixParts(stage)
		group := members[base]
		if !ok || len(group) < 2 {
			rows = append(rows, row{label: termtext.Clean(stage.ID), stage: i})
			continue
		}
		if group[0] != i {
			continue
		}
		rows = append(rows, row{label: termtext.Clean(base), stage: -1, member: group})
		for _, j := range group {
			_, part, _ := matrixParts(plan.Stages[j])
			rows = append(rows, row{label: termtext.Clean(part), stage: j, depth: 1})
		}
	}
	return rows
}

// matrixParts splits "unit (race=true)" into its name and what sets it apart.
func matrixParts(stage pipeline.PlannedStage) (base, part string, ok bool) {
	if len(stage.Matrix) == 0 {
		return "", "", false
	}
	base, part, ok = strings.Cut(stage.ID, " (")
	return base, strings.TrimSuffix(part, ")"), ok
}

// elapsed is how long a stage took or has taken so far. A clock that is behind
// the server's gives no negative times.
func elapsed(started, finished, now time.Time) (time.Duration, bool) {
	if started.IsZero() {
		return 0, false
	}
	if finished.IsZero() {
		finished = now
	}
	return max(finished.Sub(started), 0), true
}

// Duration renders a duration for people: 0.4s, 12.3s, 4m05s, 2h03m.
func Duration(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 59950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour-500*time.Millisecond:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

// shortRef is a ref as people say it.
func shortRef(ref string) string {
	for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
		if rest, ok := strings.CutPrefix(ref, prefix); ok {
			return termtext.Clean(rest)
		}
	}
	return termtext.Clean(ref)
}

func shortCommit(commit string) string {
	const length = 7
	commit = termtext.Clean(commit)
	return commit[:min(len(commit), length)]
}

// reason is why a stage or run ended as it did, in one line.
func reason(status journal.Status, cause pipeline.Cause, message string) string {
	text := termtext.Lines(message)[0]
	why := termtext.Clean(string(cause))
	if cause == pipeline.CauseNone || string(cause) == string(status) {
		return text
	}
	if text == "" {
		return why
	}
	return why + ": " + text
}

// counts tells how many stages stand where: "3 succeeded, 1 failed".
func counts(stages []journal.StageState) string {
	var parts []string
	for _, status := range []journal.Status{
		journal.Succeeded, journal.Failed, journal.Refused, journal.Cancelled,
		journal.Skipped, journal.Running, journal.Waiting, journal.Pending,
	} {
		n := 0
		for i := range stages {
			if stages[i].Status == status {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, status))
		}
	}
	return strings.Join(parts, ", ")
}
