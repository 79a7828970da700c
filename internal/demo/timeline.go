package demo

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Timeline prints what happens with the time since the story began.
type Timeline struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
	now   func() time.Time
}

// NewTimeline starts a timeline now; a nil writer prints nothing.
func NewTimeline(out io.Writer, now func() time.Time) *Timeline {
	if out == nil {
		out = io.Discard
	}
	return &Timeline{out: out, start: now(), now: now}
}

// Act begins a part of the story.
func (t *Timeline) Act(format string, args ...any) { t.print("\n%6.1fs  ▸ ", format, args...) }

// Say adds a line to the current part.
func (t *Timeline) Say(format string, args ...any) { t.print("%6.1fs    ", format, args...) }

func (t *Timeline) print(prefix, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, prefix, t.now().Sub(t.start).Seconds())
	fmt.Fprintf(t.out, format+"\n", args...)
}
