package progress

import (
	"encoding/json"
	"io"
	"sync"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// item is one line of NDJSON, the same as the API's streams have.
type item struct {
	Entry *journal.Entry `json:"entry,omitempty"`
	Line  *journal.Line  `json:"line,omitempty"`
}

type stream struct {
	mu      sync.Mutex
	encoder *json.Encoder
	seen    int64
	lines   int64
	err     error
}

func newStream(w io.Writer) *stream { return &stream{encoder: json.NewEncoder(w)} }

func (s *stream) Entry(entry journal.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if entry.Seq != 0 && entry.Seq <= s.seen {
		return
	}
	s.seen = entry.Seq
	s.write(item{Entry: &entry})
}

func (s *stream) Line(line journal.Line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if line.Seq != 0 && line.Seq <= s.lines {
		return
	}
	s.lines = line.Seq
	s.write(item{Line: &line})
}

func (s *stream) write(value item) {
	if s.err == nil {
		s.err = s.encoder.Encode(value)
	}
}

func (s *stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
