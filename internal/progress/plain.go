package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// runName stands where a stage's name would in lines about the run itself.
const runName = "tidegate"

type plain struct {
	w       io.Writer
	options Options
	mu      sync.Mutex
	model   *model
	closed  bool
	err     error
}

func newPlain(w io.Writer, options Options) *plain {
	return &plain{w: w, options: options, model: newModel(options.Tail)}
}

func (p *plain) Entry(entry journal.Entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.model.entry(entry) {
		return
	}
	if text := p.model.describe(entry); text != "" {
		name := entry.Stage
		if name == "" {
			name = runName
		}
		p.print(entry.Time, name, text)
	}
}

func (p *plain) Line(line journal.Line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.model.line(line) && !p.options.Quiet {
		p.print(line.Time, line.Stage, termtext.Clean(line.Text))
	}
}

func (p *plain) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.err
	}
	p.closed = true
	for _, line := range p.model.summary(p.options.Now(), style(p.options.Color)) {
		p.write(line + "\n")
	}
	return p.err
}

func (p *plain) print(at time.Time, name, text string) {
	line := termtext.Clean(name) + " | " + text + "\n"
	if p.options.Timestamps {
		line = at.UTC().Format("2006-01-02T15:04:05.000Z ") + line
	}
	p.write(line)
}

func (p *plain) write(text string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, text)
	}
}

// describe puts an entry that was just folded in into words; empty when it
// tells nothing new.
func (m *model) describe(entry journal.Entry) string {
	message := strings.Join(termtext.Lines(entry.Message), "; ")
	switch entry.Type {
	case journal.RunCreated:
		if m.state.Plan == nil {
			return ""
		}
		e := m.state.Plan.Event
		text := fmt.Sprintf("run %s of %s, %d stages", termtext.Clean(m.state.RunID), termtext.Clean(m.state.Plan.Pipeline), len(m.state.Stages))
		if e.Repository.FullName != "" {
			text += ", " + termtext.Clean(e.Repository.FullName)
		}
		if ref := shortRef(e.Ref); ref != "" {
			text += " " + ref
		}
		if e.Commit != "" {
			text += " @ " + shortCommit(e.Commit)
		}
		return text
	case journal.RunStarted:
		if m.state.Takeovers > 0 {
			return "taken over by worker " + termtext.Clean(entry.Actor)
		}
		return "started"
	case journal.AttemptStarted:
		if entry.Attempt > 1 {
			return fmt.Sprintf("started attempt %d", entry.Attempt)
		}
		return "started"
	case journal.AttemptInterrupted:
		return strings.TrimSuffix("interrupted: "+message, ": ")
	case journal.AttemptFinished:
		if entry.Cause == "" {
			return "" // the stage's own end says it
		}
		return fmt.Sprintf("attempt %d: %s", entry.Attempt, reason("", entry.Cause, entry.Message))
	case journal.StageProgress:
		return message
	case journal.StageFinished:
		text := string(entry.Status)
		if stage := m.state.Stage(entry.Stage); stage != nil && entry.Status != journal.Skipped {
			if d, ok := elapsed(stage.Started, stage.Finished, stage.Finished); ok {
				text += " in " + Duration(d)
			}
		}
		return strings.TrimSuffix(text+": "+reason(entry.Status, entry.Cause, message), ": ")
	case journal.DecisionMade:
		if entry.Decision == nil {
			return ""
		}
		verb := "rejected"
		if entry.Decision.Approved {
			verb = "approved"
		}
		return strings.TrimSuffix(verb+" by "+termtext.Clean(entry.Decision.By)+": "+strings.Join(termtext.Lines(entry.Decision.Comment), "; "), ": ")
	case journal.CancelRequested:
		return strings.TrimSuffix("cancel requested by "+termtext.Clean(entry.Actor)+": "+message, ": ")
	}
	return "" // the end of the run is what the summary tells
}
