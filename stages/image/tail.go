package image

import (
	"bytes"
	"io"
	"sync"

	"github.com/tidegate-ci/tidegate/stages/image/progress"
)

// tailLines and tailLine bound what a failure shows of a command's output.
const (
	tailLines = 20
	tailLine  = 400
)

// tail keeps the last lines written.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(line) > tailLine {
		line = line[:tailLine] + "…"
	}
	if len(t.lines) == tailLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, line)
}

func (t *tail) last() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}

// maxLine is where a line without end is cut into several.
const maxLine = 64 << 10

// lineWriter makes log events of a command's output.
type lineWriter struct {
	step   *stepRun
	stream string
	also   io.Writer
	buffer bytes.Buffer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	if w.also != nil {
		// The log's own trouble must not kill the command.
		_, _ = w.also.Write(p)
	}
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		switch {
		case i >= 0:
			w.buffer.Write(rest[:i])
			w.flush()
			rest = rest[i+1:]
		default:
			n := min(len(rest), maxLine-w.buffer.Len())
			w.buffer.Write(rest[:n])
			rest = rest[n:]
			if w.buffer.Len() >= maxLine {
				w.flush()
			}
		}
		if w.buffer.Len() > maxLine {
			w.flush()
		}
	}
	return len(p), nil
}

func (w *lineWriter) flush() {
	line := string(bytes.TrimSuffix(w.buffer.Bytes(), []byte("\r")))
	w.buffer.Reset()
	w.step.tail.add(line)
	w.step.emit(progress.Event{Kind: progress.Log, Step: w.step.id, Stream: w.stream, Text: line})
}

// Close sends a last line that has no end.
func (w *lineWriter) Close() {
	if w.buffer.Len() > 0 {
		w.flush()
	}
}
