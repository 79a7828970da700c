package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// TTY shows running steps with spinners at the bottom of a terminal of the
// given width, and lets ended ones and warnings scroll away above.
func TTY(w io.Writer, width func() int, now func() time.Time) Renderer {
	r := &ttyRenderer{out: w, width: width, now: now, quit: make(chan struct{}), ended: make(chan struct{})}
	go r.spin()
	return r
}

const (
	frameTime = 100 * time.Millisecond
	// ttyLogLines is how many lines of output a running step shows, ttySteps how
	// many running steps are shown.
	ttyLogLines = 4
	ttySteps    = 8
)

var frames = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

type ttyStep struct {
	id, text     string
	start        time.Time
	bytes, total int64
	log          []string
}

type ttyRenderer struct {
	mu      sync.Mutex
	out     io.Writer
	width   func() int
	now     func() time.Time
	running []*ttyStep
	drawn   int // lines of the moving part on the screen
	frame   int
	quit    chan struct{}
	ended   chan struct{}
	once    sync.Once
}

func (r *ttyRenderer) spin() {
	defer close(r.ended)
	ticker := time.NewTicker(frameTime)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
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
		r.draw([]string{finished(e, text)})
	default:
		if line := Line(e); line != "" {
			r.draw([]string{line})
		}
	}
}

func finished(e Event, text string) string {
	mark, end := "\x1b[32m✔\x1b[0m", Seconds(e.Duration)+details(e)
	switch e.Kind {
	case Cached:
		mark, end = "\x1b[36m✔\x1b[0m", "cached"
	case Again:
		mark, end = "\x1b[33m↻\x1b[0m", Printable(e.Text)
	case Failed:
		mark = "\x1b[31m✘\x1b[0m"
		end = Seconds(e.Duration)
	}
	return fmt.Sprintf("%s [%s] %s \x1b[2m%s\x1b[0m", mark, Printable(e.Step), Printable(text), end)
}

// draw replaces the moving part: lines that stay, then the running steps.
func (r *ttyRenderer) draw(stay []string) {
	var b strings.Builder
	if r.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", r.drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, line := range stay {
		b.WriteString(line + "\n")
	}
	width := max(r.width(), 20)
	r.drawn = 0
	for n, s := range r.running {
		if n == ttySteps {
			fmt.Fprintf(&b, "  … and %d more\n", len(r.running)-n)
			r.drawn++
			break
		}
		amount := ""
		if s.total > 0 && s.bytes > 0 {
			amount = fmt.Sprintf(" %s of %s", Size(s.bytes), Size(s.total))
		}
		line := fmt.Sprintf("%s [%s] %s%s %s", frames[r.frame%len(frames)], Printable(s.id), Printable(s.text), amount, Seconds(r.now().Sub(s.start)))
		b.WriteString(cut(line, width-1) + "\n")
		r.drawn++
		for _, log := range s.log {
			b.WriteString("\x1b[2m" + cut("    "+strings.ReplaceAll(Printable(log), "\t", "    "), width-1) + "\x1b[0m\n")
			r.drawn++
		}
	}
	_, _ = io.WriteString(r.out, b.String()) // a terminal that has gone must not end the build
}

// cut shortens a line, so that it takes one row. Wide characters may still
// make it wrap, which only smudges the display.
func cut(line string, width int) string {
	runes := []rune(line)
	if len(runes) <= width {
		return line
	}
	return string(runes[:max(width-1, 0)]) + "…"
}
