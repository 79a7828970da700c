// Package progress shows a run while it happens: as a tree redrawn in place on
// a terminal, as one line an event when piped, or as NDJSON for programs. It
// is fed journal entries and log lines, wherever they come from, and treats
// all text in them as hostile.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// Mode is how a run is shown.
type Mode string

// The modes.
const (
	// Auto is TTY on a terminal that can move its cursor, Plain elsewhere.
	Auto  Mode = "auto"
	TTY   Mode = "tty"
	Plain Mode = "plain"
	JSON  Mode = "json"
)

// Modes are the values a flag may have, for help and completion.
var Modes = []string{string(Auto), string(TTY), string(Plain), string(JSON)}

// Renderer shows one run. Its methods may be called from several goroutines.
// Entries, and likewise lines, must come in the order of their sequence
// numbers; those seen before are passed over. A line with number 0 has none.
type Renderer interface {
	Entry(entry journal.Entry)
	Line(line journal.Line)
	// Close draws the end of it, gives the terminal back, and returns the first
	// error of writing. Call it also when the work was cancelled. The second
	// call does nothing.
	Close() error
}

// Options are how a renderer sees the world; zero fields mean the real one.
type Options struct {
	// Now tells how long a stage has been running.
	Now func() time.Time
	// Tick starts a ticker and returns its channel and what stops it.
	Tick func(every time.Duration) (ticks <-chan time.Time, stop func())
	// Size tells the width and height of the terminal in cells; it is asked at
	// every redraw. Nil means 80 × 24.
	Size func() (width, height int)
	// Color allows colours. The cursor moves in TTY mode all the same.
	Color bool
	// Timestamps puts the time, in UTC, before each line in Plain mode.
	Timestamps bool
	// Tail is how many of the last log lines of a failed stage the end shows;
	// 0 means DefaultTail, below 0 none.
	Tail int
	// Quiet leaves log lines out in Plain mode.
	Quiet bool
}

const (
	// DefaultTail is enough for the usual stack trace or failed assertion.
	DefaultTail = 20
	// frameEvery is quick enough for a spinner and slow enough for a serial line.
	frameEvery = 100 * time.Millisecond
)

// ParseMode reads the value of a flag.
func ParseMode(text string) (Mode, error) {
	switch mode := Mode(text); mode {
	case Auto, TTY, Plain, JSON:
		return mode, nil
	}
	return "", fmt.Errorf("unknown progress mode %q: use %s", text, strings.Join(Modes, ", "))
}

// Detect resolves Auto for w and gives the options that fit it: size and
// colour as the terminal and the environment (NO_COLOR, TERM) allow.
func Detect(w io.Writer, mode Mode, getenv func(string) string) (Mode, Options) {
	var options Options
	file, ok := w.(*os.File)
	terminal := ok && term.IsTerminal(int(file.Fd()))
	if terminal {
		options.Size = func() (int, int) {
			width, height, err := term.GetSize(int(file.Fd()))
			if err != nil || width <= 0 || height <= 0 { // some serial lines tell 0 × 0
				return defaultWidth, defaultHeight
			}
			return width, height
		}
	}
	dumb := getenv("TERM") == "dumb"
	options.Color = terminal && !dumb && getenv("NO_COLOR") == ""
	if mode == Auto || mode == "" {
		mode = Plain
		if terminal && !dumb {
			mode = TTY
		}
	}
	return mode, options
}

const (
	defaultWidth  = 80
	defaultHeight = 24
)

// New returns a renderer that writes to w. Auto counts as Plain: see Detect.
func New(w io.Writer, mode Mode, options Options) Renderer {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Tick == nil {
		options.Tick = func(every time.Duration) (<-chan time.Time, func()) {
			ticker := time.NewTicker(every)
			return ticker.C, ticker.Stop
		}
	}
	if options.Size == nil {
		options.Size = func() (int, int) { return defaultWidth, defaultHeight }
	}
	switch {
	case options.Tail == 0:
		options.Tail = DefaultTail
	case options.Tail < 0:
		options.Tail = 0
	}
	switch mode {
	case TTY:
		return newTerminal(w, options)
	case JSON:
		return newStream(w)
	}
	return newPlain(w, options)
}
