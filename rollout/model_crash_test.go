package rollout

import (
	"encoding/json"
	"time"

	"pgregory.net/rapid"
)

// store writes the record, as the driver does: at once, before it writes to
// anything else, or soon.
func (m *model) store() {
	encoded, err := json.Marshal(m.record)
	if err != nil {
		m.t.Fatal(err)
	}
	m.stored = encoded
}

// crash loses all that is not written, and time passes. A command that waits is
// written by whoever gave it.
func (m *model) crash() {
	watched, command := m.now, m.record.Command
	gap := time.Duration(rapid.IntRange(-3600, 3600).Draw(m.t, "clock moves by")) * time.Second
	m.now = m.now.Add(gap)
	m.record = &Record{}
	if err := json.Unmarshal(m.stored, m.record); err != nil {
		m.t.Fatal(err)
	}
	m.record.Command = command
	m.since = map[string]time.Time{}
	if m.record.Live() {
		before := watched.Sub(m.record.Current.StateSince)
		m.record.Current.resume(watched, m.now)
		if after := m.now.Sub(m.record.Current.StateSince); after > before+maxUnwatched || after < min(before, 0) {
			m.t.Fatalf("a deadline's time went from %s to %s over a restart", before, after)
		}
		m.store() // by whoever takes over, before anything else
	}
}
