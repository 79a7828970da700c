package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidegate-ci/tidegate/internal/termtext"
)

// Terminal describes where a moving display is shown.
type Terminal struct {
	// Width gives the columns, which may change.
	Width func() int
	// Color allows colours (NO_COLOR forbids them).
	Color bool
	Now   func() time.Time
	// Frames ticks for every redraw; nil means ten times a second.
	Frames <-chan time.Time
}

// TTY shows running steps at the bottom of a terminal, below a line that sums
// up, and lets ended ones and warnings scroll away above.
func TTY(w io.Writer, terminal Terminal) Renderer {
	r := &ttyRenderer{out: w, terminal: terminal, began: terminal.Now(), quit: make(chan struct{}), ended: make(chan struct{})}
	go r.spin()
	return r
}

const (
	frameTime = 100 * time.Millisecond
	// ttyLogLines is how many lines of output a running step shows, ttySteps how
	// many running steps are shown.
	ttyLogLines = 4
	ttySteps    = 8
	// ttyNarrow is the least width that lines are made for; barCells are those
	// of a transfer's bar, which needs barWidth columns beside it.
	ttyNarrow = 20
	barCells  = 16
	barWidth  = 70
)

var frames = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

type ttyStep struct {
	id, text     string
	start        time.Time
	bytes, total int64
	log          []string
}

type ttyRenderer struct {
	mu       sync.Mutex
	out      io.Writer
	terminal Terminal
	began    time.Time
	running  []*ttyStep
	// made, cached and failed count ended steps.
	made, cached, failed int
	drawn                int // lines of the moving part on the screen
	frame                int
	closed               bool
	quit                 chan struct{}
	ended                chan struct{}
	once                 sync.Once
}

func (r *ttyRenderer) spin() {
	defer close(r.ended)
	ticks := r.terminal.Frames
	if ticks == nil {
		ticker := time.NewTicker(frameTime)
		defer ticker.Stop()
		ticks = ticker.C
	}
	for {
		select {
		case <-ticks:
			r.mu.Lock()
			r.frame++
			r.draw(nil)
			r.mu.Unlock()
		case <-r.quit:
			return
		}
	}
}

func (r *ttyRenderer) Close() {
	r.once.Do(func() {
		close(r.quit)
		<-r.ended
		r.mu.Lock()
		defer r.mu.Unlock()
		r.running = nil
		r.draw(nil)
		r.closed = true
	})
}

func (r *ttyRenderer) Event(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.running, func(s *ttyStep) bool { return s.id == e.Step })
	switch e.Kind {
	case Start:
		r.running = append(r.running, &ttyStep{id: e.Step, text: e.Text, start: e.Time, total: e.Total})
	case Moved:
		if i >= 0 {
			r.running[i].bytes, r.running[i].total = e.Bytes, e.Total
		}
	case Log:
		if i >= 0 {
			s := r.running[i]
			s.log = append(s.log, e.Text)
			if len(s.log) > ttyLogLines {
				s.log = slices.Delete(s.log, 0, 1)
			}
		}
	case Cached, Done, Failed, Again:
		text := ""
		if i >= 0 {
			text = r.running[i].text
			r.running = slices.Delete(r.running, i, i+1)
		}
		r.count(e.Kind)
		r.draw([]string{r.finished(e, text)})
	default:
		if line := Line(e); line != "" {
			r.draw([]string{line})
		}
	}
}

func (r *ttyRenderer) count(kind Kind) {
	switch kind {
	case Cached:
		r.cached++
	case Done:
		r.made++
	case Failed:
		r.failed++
	}
}

func (r *ttyRenderer) paint(color, text string) string {
	if !r.terminal.Color {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

const (
	red, green, yellow, cyan, faint = "31", "32", "33", "36", "2"
)

func (r *ttyRenderer) finished(e Event, text string) string {
	mark, end := r.paint(green, "✔"), Seconds(e.Duration)+details(e)
	switch e.Kind {
	case Cached:
		mark, end = r.paint(cyan, "✔"), "CACHED"
	case Again:
		mark, end = r.paint(yellow, "↻"), Printable(e.Text)
	case Failed:
		mark, end = r.paint(red, "✘"), Seconds(e.Duration)
	}
	return fmt.Sprintf("%s [%s] %s %s", mark, Printable(e.Step), Printable(text), r.paint(faint, end))
}

// draw replaces the moving part: lines that stay, then the running steps.
func (r *ttyRenderer) draw(stay []string) {
	var b strings.Builder
	if !r.closed {
		if r.drawn > 0 {
			fmt.Fprintf(&b, "\x1b[%dA", r.drawn)
		}
		b.WriteString("\r\x1b[J")
	}
	for _, line := range stay {
		b.WriteString(line + "\n")
	}
	r.drawn = 0
	if !r.closed && len(r.running) > 0 {
		width := max(r.terminal.Width(), ttyNarrow) - 1
		for _, line := range r.moving(width) {
			b.WriteString(line + "\n")
			r.drawn++
		}
	}
	_, _ = io.WriteString(r.out, b.String()) // a terminal that has gone must not end the build
}

// moving are the lines of the moving part, each of one row.
func (r *ttyRenderer) moving(width int) []string {
	now := r.terminal.Now()
	lines := []string{termtext.Truncate(r.summary(now), width)}
	for n, s := range r.running {
		if n == ttySteps {
			return append(lines, fmt.Sprintf("  … and %d more", len(r.running)-n))
		}
		line := fmt.Sprintf("%s [%s] %s", frames[r.frame%len(frames)], Printable(s.id), Printable(s.text))
		end := s.amount(width) + " " + Seconds(now.Sub(s.start))
		// How far a step is matters more than the end of its text.
		line = termtext.Truncate(line, max(width-termtext.Width(end), width/2)) + end
		lines = append(lines, termtext.Truncate(line, width))
		for _, log := range s.log {
			lines = append(lines, r.paint(faint, termtext.Truncate("    "+termtext.Latest(log), width)))
		}
	}
	return lines
}

func (r *ttyRenderer) summary(now time.Time) string {
	text := fmt.Sprintf("Building %s: %d done", Seconds(now.Sub(r.began)), r.made)
	if r.cached > 0 {
		text += fmt.Sprintf(", %d cached", r.cached)
	}
	if r.failed > 0 {
		text += fmt.Sprintf(", %d failed", r.failed)
	}
	return text + fmt.Sprintf(", %d running", len(r.running))
}

// amount is how much a step has moved, with a bar where there is room.
func (s *ttyStep) amount(width int) string {
	if s.total <= 0 || s.bytes <= 0 {
		return ""
	}
	text := fmt.Sprintf(" %s of %s", Size(s.bytes), Size(s.total))
	if width < barWidth {
		return text
	}
	full := int(min(s.bytes, s.total) * barCells / s.total)
	return " [" + strings.Repeat("=", full) + strings.Repeat(" ", barCells-full) + "]" + text
}
