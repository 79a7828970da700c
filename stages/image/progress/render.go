package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/tidegate-ci/tidegate/internal/termtext"
)

// Renderer shows events. Close shows what is left and ends it.
type Renderer interface {
	Event(Event)
	Close()
}

// JSON writes one event a line.
func JSON(w io.Writer) Renderer { return &jsonRenderer{encoder: json.NewEncoder(w)} }

type jsonRenderer struct {
	mu      sync.Mutex
	encoder *json.Encoder
}

func (r *jsonRenderer) Event(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.encoder.Encode(e) // a reader that has gone must not end the build
}

func (r *jsonRenderer) Close() {}

// Plain writes lines that read well in a log.
func Plain(w io.Writer) Renderer { return &plainRenderer{out: w} }

type plainRenderer struct {
	mu  sync.Mutex
	out io.Writer
}

func (r *plainRenderer) Event(e Event) {
	line := Line(e)
	if line == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = fmt.Fprintln(r.out, line) // a reader that has gone must not end the build
}

func (r *plainRenderer) Close() {}

// Quiet shows nothing: what went wrong is in the build's error.
func Quiet() Renderer { return quietRenderer{} }

type quietRenderer struct{}

func (quietRenderer) Event(Event) {}
func (quietRenderer) Close()      {}

// Line is an event as a line of text, with nothing in it that could play with a
// terminal; empty for events that are only worth a moving display.
func Line(e Event) string {
	prefix := ""
	if e.Step != "" {
		prefix = "[" + Printable(e.Step) + "] "
	}
	switch e.Kind {
	case Start:
		return prefix + Printable(e.Text)
	case Log:
		return prefix + "| " + termtext.Latest(e.Text)
	case Cached:
		return prefix + "CACHED"
	case Done:
		return prefix + "done in " + Seconds(e.Duration) + details(e)
	case Failed:
		return prefix + "FAILED after " + Seconds(e.Duration) + ": " + Printable(e.Text)
	case Again:
		return prefix + "again: " + Printable(e.Text)
	case Warning:
		at := ""
		if e.Position != "" {
			at = Printable(e.Position) + ": "
		}
		return "warning: " + at + Printable(e.Text)
	case Result:
		return Printable(e.Text)
	}
	return ""
}

func details(e Event) string {
	text := ""
	if e.Bytes > 0 {
		text += ", " + Size(e.Bytes)
	}
	if e.Text != "" {
		text += ", " + Printable(e.Text)
	}
	return text
}

// Seconds writes a duration for people.
func Seconds(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// Size writes a number of bytes for people.
func Size(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	value := float64(n)
	unit := 0
	for value >= 1000 && unit < len(units)-1 {
		value /= 1000
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

// Printable takes out of untrusted text what a terminal would obey or hide.
func Printable(text string) string { return termtext.Clean(text) }
