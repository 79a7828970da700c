package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Log is the full output of a build, kept like anything else: under the cap,
// until nothing was used longer ago.
type Log struct {
	mu     sync.Mutex
	buffer *bufio.Writer
	file   *logFile
}

// logBuffer is how much of a log is written at once: each time asks for room.
const logBuffer = 256 << 10

// OpenLog begins a log.
func (s *Store) OpenLog() (*Log, error) {
	pattern := s.now().UTC().Format("20060102T150405Z") + "-*.log"
	file, err := os.CreateTemp(filepath.Join(s.dir, logsDir), pattern)
	if err != nil {
		return nil, fmt.Errorf("keep the build's log: %w", err)
	}
	f := &logFile{store: s, file: file}
	return &Log{buffer: bufio.NewWriterSize(f, logBuffer), file: f}, nil
}

// Path is where the log is.
func (l *Log) Path() string { return l.file.file.Name() }

// Write implements io.Writer. Once there is no room, or writing failed, the rest
// is left out and Close says so.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

// Flush writes what is buffered.
func (l *Log) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.buffer.Flush() // Close tells
}

// Close ends the log. The error says why it is not whole.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.buffer.Flush()
	if closeErr := l.file.file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("the build's log %s is not whole: %w", l.Path(), err)
	}
	return nil
}

type logFile struct {
	store *Store
	file  *os.File
}

// logTimeout bounds the wait for the store's lock.
const logTimeout = time.Minute

func (f *logFile) Write(p []byte) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), logTimeout)
	defer cancel()
	unlock, err := f.store.exclusive(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	running, err := f.store.running()
	if err != nil {
		return 0, err
	}
	wanted := int64(len(p))
	kept, err := f.store.makeRoom(ctx, running, wanted)
	if err != nil {
		return 0, err
	}
	if kept+running.granted+wanted > f.store.maxBytes {
		return 0, &FullError{Cap: f.store.maxBytes, Wanted: wanted, InUse: kept, Granted: running.granted, Builds: running.builds}
	}
	return f.file.Write(p)
}
