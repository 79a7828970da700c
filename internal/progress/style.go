package progress

import (
	"time"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// style paints clean text with SGR codes, or not at all.
type style bool

func (s style) paint(code, text string) string {
	if !s || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(text string) string { return s.paint("1", text) }
func (s style) dim(text string) string  { return s.paint("2", text) }

// status paints text in the colour of a status.
func (s style) status(status journal.Status, text string) string {
	switch status {
	case journal.Succeeded:
		return s.paint("32", text)
	case journal.Failed:
		return s.paint("31", text)
	case journal.Refused, journal.Waiting:
		return s.paint("33", text)
	case journal.Cancelled:
		return s.paint("35", text)
	case journal.Running:
		return s.paint("36", text)
	}
	return s.dim(text)
}

var glyphs = map[journal.Status]string{
	journal.Pending:   "·",
	journal.Waiting:   "◇",
	journal.Succeeded: "✓",
	journal.Failed:    "✗",
	journal.Cancelled: "■",
	journal.Skipped:   "-",
	journal.Refused:   "⊘",
}

var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// glyph is one cell that tells a status; running ones turn with the clock.
func glyph(status journal.Status, now time.Time) string {
	if status == journal.Running {
		return spinner[int(now.UnixMilli()/frameEvery.Milliseconds())%len(spinner)]
	}
	if mark, ok := glyphs[status]; ok {
		return mark
	}
	return "·"
}
