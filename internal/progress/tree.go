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
	timeColumn = 7 // "59m59s" and a space to spare
	minDetail  = 8 // less of a message tells nothing
)

// span is a piece of a line with one look.
type span struct {
	text  string
	paint func(string) string
}

// fit joins spans into a line of at most width cells.
func fit(width int, spans ...span) string {
	var b strings.Builder
	for _, s := range spans {
		text := termtext.Truncate(s.text, width)
		width -= termtext.Width(text)
		if s.paint != nil {
			text = s.paint(text)
		}
		b.WriteString(text)
	}
	return b.String()
}

// frame draws the run at a moment: a heading and a line a stage, none wider
// than width, and at most height of them (0: all).
func (m *model) frame(now time.Time, width, height int, look style) []string {
	if m.state.Plan == nil {
		return nil
	}
	lines := []string{m.heading(now, width, look)}
	rows, hidden := m.rows, []journal.StageState(nil)
	if height > 0 && len(rows)+1 > height {
		if height < 3 {
			return lines
		}
		rows, hidden = m.chooseRows(height - 2)
	}
	names := m.nameColumn(width)
	for _, r := range rows {
		lines = append(lines, m.rowLine(r, now, width, names, look))
	}
	if len(hidden) > 0 {
		lines = append(lines, fit(width, span{fmt.Sprintf("  … %d more: %s", len(hidden), counts(hidden)), look.dim}))
	}
	return lines
}

func (m *model) heading(now time.Time, width int, look style) string {
	s := &m.state
	status := s.Status
	spans := []span{
		{glyph(status, now) + " ", func(t string) string { return look.status(status, t) }},
		{termtext.Clean(s.Plan.Pipeline), look.bold},
	}
	if ref := shortRef(s.Plan.Event.Ref); ref != "" {
		spans = append(spans, span{"  " + ref, nil})
	}
	if commit := shortCommit(s.Plan.Event.Commit); commit != "" {
		spans = append(spans, span{" @ " + commit, look.dim})
	}
	if repository := termtext.Clean(s.Plan.Event.Repository.FullName); repository != "" {
		spans = append(spans, span{"  " + repository, look.dim})
	}
	if d, ok := elapsed(s.Started, s.Finished, now); ok {
		spans = append(spans, span{"  " + Duration(d), nil})
	}
	if s.Cancel != nil && !s.Status.Final() {
		spans = append(spans, span{"  cancelling for " + termtext.Clean(s.Cancel.By), func(t string) string { return look.status(journal.Cancelled, t) }})
	}
	return fit(width, spans...)
}

// nameColumn is as wide as the longest name, but leaves half the line.
func (m *model) nameColumn(width int) int {
	widest := 0
	for _, r := range m.rows {
		widest = max(widest, 2*r.depth+termtext.Width(r.label))
	}
	return max(min(widest, width/2), 1)
}

func (m *model) rowLine(r row, now time.Time, width, names int, look style) string {
	var status journal.Status
	var took time.Duration
	var timed bool
	var detail span
	if r.stage < 0 {
		status, took, timed = m.group(r.member, now)
	} else {
		stage := &m.state.Stages[r.stage]
		status = stage.Status
		took, timed = elapsed(stage.Started, stage.Finished, now)
		detail = m.detail(stage, look)
	}
	inStatus := func(t string) string { return look.status(status, t) }
	name := span{strings.Repeat("  ", r.depth) + r.label, nil}
	if status == journal.Skipped || status == journal.Pending {
		name.paint = look.dim
	}
	name.text = termtext.Pad(termtext.Truncate(name.text, names), names)
	duration := ""
	if timed && status != journal.Skipped {
		duration = Duration(took)
	}
	spans := []span{
		{"  ", nil},
		{glyph(status, now) + " ", inStatus},
		name,
		{strings.Repeat(" ", max(timeColumn-len(duration), 1)) + duration, nil},
	}
	if used := 4 + names + timeColumn + 2; detail.text != "" && width-used >= minDetail {
		detail.text = "  " + detail.text
		spans = append(spans, detail)
	}
	return strings.TrimRight(fit(width, spans...), " ")
}

// group is what the parts of a matrix come to together.
func (m *model) group(members []int, now time.Time) (status journal.Status, took time.Duration, timed bool) {
	var started, finished time.Time
	seen := map[journal.Status]bool{}
	final := true
	for _, i := range members {
		stage := &m.state.Stages[i]
		seen[stage.Status] = true
		final = final && stage.Status.Final()
		if !stage.Started.IsZero() && (started.IsZero() || stage.Started.Before(started)) {
			started = stage.Started
		}
		if stage.Finished.After(finished) {
			finished = stage.Finished
		}
	}
	order := []journal.Status{journal.Failed, journal.Refused, journal.Cancelled, journal.Succeeded, journal.Skipped}
	if !final {
		finished = time.Time{}
		order = []journal.Status{journal.Running, journal.Waiting}
		if !started.IsZero() {
			order = append(order, journal.Pending)
		}
	}
	status = journal.Pending
	for _, candidate := range order {
		if seen[candidate] {
			status = candidate
			break
		}
	}
	took, timed = elapsed(started, finished, now)
	return status, took, timed
}

// detail is what a stage has to say now.
func (m *model) detail(stage *journal.StageState, look style) span {
	attempts := ""
	if n := len(stage.Attempts); n > 1 {
		attempts = fmt.Sprintf("attempt %d", n)
		if stage.Status.Final() {
			attempts = fmt.Sprintf("%d attempts", n)
		}
	}
	join := func(text string) string {
		if attempts == "" || text == "" {
			return attempts + text
		}
		return attempts + " · " + text
	}
	message := termtext.Lines(stage.Message)[0]
	switch stage.Status {
	case journal.Running:
		if message == "" {
			message = m.logs[stage.ID].latest
		}
		return span{join(message), look.dim}
	case journal.Waiting:
		if message == "" && stage.Kind == pipeline.KindApprove {
			message = "waiting for approval"
		}
		return span{join(message), func(t string) string { return look.status(journal.Waiting, t) }}
	case journal.Failed, journal.Refused, journal.Cancelled:
		return span{join(reason(stage.Status, stage.Cause, stage.Message)), func(t string) string { return look.status(stage.Status, t) }}
	}
	return span{join(message), look.dim}
}

// chooseRows picks the rows worth a place when there is room for few: what
// moves or went wrong stays, what succeeded long ago goes first, then what has
// not begun.
func (m *model) chooseRows(room int) (shown []row, hidden []journal.StageState) {
	keep := make([]bool, len(m.rows))
	left := len(m.rows)
	for i := range keep {
		keep[i] = true
	}
	drop := func(i int) {
		if left > room && keep[i] {
			keep[i] = false
			left--
		}
	}
	is := func(i int, statuses ...journal.Status) bool {
		var status journal.Status
		if r := m.rows[i]; r.stage >= 0 {
			status = m.state.Stages[r.stage].Status
		} else {
			status, _, _ = m.group(r.member, time.Time{})
		}
		for _, s := range statuses {
			if s == status {
				return true
			}
		}
		return false
	}
	for i := range m.rows {
		if is(i, journal.Succeeded, journal.Skipped) {
			drop(i)
		}
	}
	for i := len(m.rows) - 1; i >= 0; i-- {
		if is(i, journal.Pending) {
			drop(i)
		}
	}
	for i := len(m.rows) - 1; i >= 0; i-- {
		drop(i)
	}
	for i, r := range m.rows {
		if keep[i] {
			shown = append(shown, r)
		} else if r.stage >= 0 {
			hidden = append(hidden, m.state.Stages[r.stage])
		}
	}
	return shown, hidden
}
