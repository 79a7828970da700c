package engine

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/internal/mask"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	// maxLine is where a line is split, in bytes.
	maxLine = 64 << 10
	// flushBytes and flushEvery bound what waits to be stored.
	flushBytes = 128 << 10
	flushEvery = 100 * time.Millisecond
	// maxPending is how far an attempt may write ahead of the storage before
	// its writes wait.
	maxPending = 4 << 20
)

// attemptLog collects the lines of one attempt and stores them in batches. A
// log that cannot be stored does not fail the work that wrote it.
type attemptLog struct {
	journal journal.Journal
	run     string
	stage   string
	attempt int
	now     func() time.Time
	log     *zap.Logger

	mu      sync.Mutex
	room    *sync.Cond
	lines   []journal.Line
	bytes   int
	kick    chan struct{} // a batch is full
	closing chan struct{}
	flusher sync.WaitGroup // started by the first line
	started bool
}

func newAttemptLog(j journal.Journal, run, stage string, attempt int, now func() time.Time, log *zap.Logger) *attemptLog {
	l := &attemptLog{journal: j, run: run, stage: stage, attempt: attempt, now: now, log: log}
	l.room = sync.NewCond(&l.mu)
	return l
}

func (l *attemptLog) add(stream, text string) {
	text = strings.ToValidUTF8(text, "\uFFFD")
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.started {
		l.started = true
		l.kick, l.closing = make(chan struct{}, 1), make(chan struct{})
		l.flusher.Go(l.flush)
	}
	for l.bytes > maxPending {
		l.room.Wait()
	}
	l.lines = append(l.lines, journal.Line{Time: l.now(), Stage: l.stage, Attempt: l.attempt, Stream: stream, Text: text})
	l.bytes += len(text) + 1
	if len(l.lines) == 1 || l.bytes >= flushBytes {
		select {
		case l.kick <- struct{}{}:
		default:
		}
	}
}

// note adds lines of Tidegate's own.
func (l *attemptLog) note(text string) {
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		for len(line) > maxLine {
			l.add("tidegate", line[:maxLine])
			line = line[maxLine:]
		}
		l.add("tidegate", line)
	}
}

// flush stores batches: after a line came it waits a little for more.
func (l *attemptLog) flush() {
	timer := time.NewTimer(flushEvery)
	defer timer.Stop()
	for {
		select {
		case <-l.kick:
		case <-l.closing:
			l.store()
			return
		}
		timer.Reset(flushEvery)
		for waiting := true; waiting; {
			select {
			case <-timer.C:
				waiting = false
			case <-l.closing:
				waiting = false
			case <-l.kick:
				l.mu.Lock()
				waiting = l.bytes < flushBytes
				l.mu.Unlock()
			}
		}
		l.store()
	}
}

func (l *attemptLog) store() {
	l.mu.Lock()
	lines := l.lines
	l.lines, l.bytes = nil, 0
	l.room.Broadcast()
	l.mu.Unlock()
	if len(lines) == 0 {
		return
	}
	// The lines of a cancelled attempt are wanted too.
	if err := l.journal.AppendLog(context.Background(), l.run, lines...); err != nil {
		l.log.Error("store log lines; they are lost", zap.String("run", l.run), zap.String("stage", l.stage), zap.Int("lines", len(lines)), zap.Error(err))
	}
}

// close stores what is left. Nothing may write any more.
func (l *attemptLog) close() {
	l.mu.Lock()
	started := l.started
	l.mu.Unlock()
	if started {
		close(l.closing)
		l.flusher.Wait()
	}
}

// stream turns what a command writes into masked lines. It is safe for
// concurrent use, as processes may share it.
type stream struct {
	mu     sync.Mutex
	masked io.WriteCloser
	lines  *lineSplitter
	closed bool
}

func (l *attemptLog) stream(name string, masker *mask.Masker) *stream {
	lines := &lineSplitter{emit: func(line string) { l.add(name, line) }}
	return &stream{masked: masker.Writer(lines), lines: lines}
}

func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, io.ErrClosedPipe
	}
	return s.masked.Write(p)
}

// Close gives out what was held back: a line without an end, and what might
// have become a secret.
func (s *stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.masked.Close()
	s.lines.close()
	return err
}

// lineSplitter cuts at line ends, and at maxLine where there is none.
type lineSplitter struct {
	emit    func(string)
	partial []byte
	cut     bool // the line's beginning was given out already
}

func (s *lineSplitter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		end := bytes.IndexByte(p, '\n')
		part := p
		if end >= 0 {
			part = p[:end]
		}
		for len(s.partial)+len(part) > maxLine {
			take := maxLine - len(s.partial)
			s.partial = append(s.partial, part[:take]...)
			s.emit(string(s.partial))
			s.partial, part, s.cut = s.partial[:0], part[take:], true
		}
		s.partial = append(s.partial, part...)
		if end < 0 {
			return n, nil
		}
		if len(s.partial) > 0 || !s.cut {
			s.emit(strings.TrimSuffix(string(s.partial), "\r"))
		}
		s.partial, s.cut = s.partial[:0], false
		p = p[end+1:]
	}
}

func (s *lineSplitter) close() {
	if len(s.partial) > 0 {
		s.emit(string(s.partial))
		s.partial = s.partial[:0]
	}
}
