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

const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	clearLine  = "\x1b[K" // to the end of the line
	clearBelow = "\x1b[J"
)

// Screen redraws a few lines in place at the bottom of what a terminal shows;
// what was printed before stays. The zero value with W and Size set is ready.
// It is not safe for concurrent use.
type Screen struct {
	W    io.Writer
	Size func() (width, height int)

	drawn  []string
	hidden bool
	err    error
}

// Draw puts lines in place of those drawn last, in one write. Each must fit
// the width, and all of them the height, that Size told.
func (s *Screen) Draw(lines []string) {
	if s.hidden && equal(lines, s.drawn) {
		return
	}
	var b strings.Builder
	if !s.hidden {
		b.WriteString(hideCursor)
		s.hidden = true
	}
	s.home(&b)
	for _, line := range lines {
		b.WriteString(line + clearLine + "\n")
	}
	b.WriteString(clearBelow)
	s.write(b.String())
	s.drawn = lines
}

// Close draws lines for good, however many, and gives the cursor back. It
// returns the first error of writing.
func (s *Screen) Close(lines []string) error {
	var b strings.Builder
	s.home(&b)
	if s.hidden {
		b.WriteString(clearBelow)
	}
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	if s.hidden {
		b.WriteString(showCursor)
	}
	s.write(b.String())
	s.drawn, s.hidden = nil, false
	return s.err
}

// home moves the cursor to where the last drawing began. A terminal that was
// made narrower since has broken long lines into several.
func (s *Screen) home(b *strings.Builder) {
	width, _ := s.Size()
	rows := 0
	for _, line := range s.drawn {
		rows++
		if width > 0 {
			rows += max(termtext.Width(line)-1, 0) / width
		}
	}
	if rows > 0 {
		fmt.Fprintf(b, "\x1b[%dA\r", rows)
	}
}

func (s *Screen) write(text string) {
	if s.err == nil {
		_, s.err = io.WriteString(s.W, text)
	}
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// terminal redraws the tree at most once a tick; a goroutine of its own does
// so until Close.
type terminal struct {
	now    func() time.Time
	look   style
	stop   chan struct{}
	ended  sync.WaitGroup
	mu     sync.Mutex
	model  *model
	screen *Screen
	closed bool
	err    error
}

func newTerminal(w io.Writer, options Options) *terminal {
	t := &terminal{
		now:    options.Now,
		look:   style(options.Color),
		stop:   make(chan struct{}),
		model:  newModel(options.Tail),
		screen: &Screen{W: w, Size: options.Size},
	}
	ticks, stopTicks := options.Tick(frameEvery)
	t.ended.Go(func() {
		defer stopTicks()
		for {
			select {
			case <-ticks:
				t.draw()
			case <-t.stop:
				return
			}
		}
	})
	return t
}

func (t *terminal) Entry(entry journal.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.model.entry(entry)
}

func (t *terminal) Line(line journal.Line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.model.line(line)
}

func (t *terminal) draw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	width, height := t.screen.Size()
	// One column stays free: some terminals wrap a full line, and the last row
	// is where the cursor rests.
	if lines := t.model.frame(t.now(), max(width-1, 1), max(height-1, 1), t.look); lines != nil {
		t.screen.Draw(lines)
	}
}

func (t *terminal) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return t.err
	}
	t.closed = true
	t.mu.Unlock()
	close(t.stop)
	t.ended.Wait()

	t.mu.Lock()
	defer t.mu.Unlock()
	width, _ := t.screen.Size()
	lines := t.model.frame(t.now(), max(width-1, 1), 0, t.look)
	t.err = t.screen.Close(append(lines, t.model.summary(t.now(), t.look)...))
	return t.err
}
