package progress

import (
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// maxFailures bounds how many failed stages the end tells about at length.
const maxFailures = 5

// summary is what is printed when a run is over: for each stage that went
// wrong the cause, the place in the pipeline file and the end of its log, then
// one line about the run.
func (m *model) summary(now time.Time, look style) []string {
	s := &m.state
	if s.Plan == nil {
		return nil
	}
	var lines []string
	told, more := 0, 0
	for i := range s.Stages {
		stage := &s.Stages[i]
		if stage.Status != journal.Failed && stage.Status != journal.Refused {
			continue
		}
		if told == maxFailures {
			more++
			continue
		}
		told++
		lines = append(lines, "")
		lines = append(lines, m.failure(i, now, look)...)
	}
	if more > 0 {
		lines = append(lines, "", look.dim(fmt.Sprintf("… and %d more stages that went wrong", more)))
	}
	return append(lines, "", m.verdict(now, look))
}

func (m *model) failure(i int, now time.Time, look style) []string {
	stage := &m.state.Stages[i]
	head := glyph(stage.Status, now) + " " + termtext.Clean(stage.ID) + " " + string(stage.Status)
	if d, ok := elapsed(stage.Started, stage.Finished, now); ok {
		head += " after " + Duration(d)
	}
	if n := len(stage.Attempts); n > 1 {
		head += fmt.Sprintf(" and %d attempts", n)
	}
	if why := reason(stage.Status, stage.Cause, stage.Message); why != "" {
		head += ": " + why
	}
	lines := []string{look.status(stage.Status, head)}
	if rest := termtext.Lines(stage.Message)[1:]; len(rest) > 0 {
		for _, text := range rest[:min(len(rest), m.limit)] {
			lines = append(lines, "  "+text)
		}
	}
	if pos := m.state.Plan.Stages[i].Pos; pos.Line > 0 {
		lines = append(lines, look.dim("  defined at "+termtext.Clean(pos.String())))
	}
	for _, text := range m.logs[stage.ID].lines {
		lines = append(lines, look.dim("  │ ")+text)
	}
	return lines
}

func (m *model) verdict(now time.Time, look style) string {
	s := &m.state
	text := string(s.Status)
	if !s.Status.Final() {
		text = "still " + text
	}
	if d, ok := elapsed(s.Started, s.Finished, now); ok {
		text += map[bool]string{true: " in ", false: " after "}[s.Status.Final()] + Duration(d)
	}
	line := look.status(s.Status, glyph(s.Status, now)+" "+termtext.Clean(s.Plan.Pipeline)+" "+text)
	if why := reason(s.Status, s.Cause, s.Message); why != "" && s.Status.Final() && s.Status != journal.Succeeded {
		line += look.status(s.Status, ": "+why)
	}
	if tally := counts(s.Stages); tally != "" {
		line += look.dim(" · " + tally)
	}
	return line
}
