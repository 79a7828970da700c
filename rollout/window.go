package rollout

import (
	"fmt"
	"time"
)

// RollbackWindow is how far back a rollback may go without being forced; zero
// fields set no bound.
type RollbackWindow struct {
	// Revisions counts verified releases before the present one: 1 is the last
	// one alone.
	Revisions int `json:"revisions,omitempty"`
	// Age is how long ago the revision may have been verified.
	Age time.Duration `json:"age,omitempty"`
}

func (w *RollbackWindow) check() error {
	if w != nil && (w.Revisions < 0 || w.Age < 0) {
		return fmt.Errorf("%w: the rollback window can't be negative", ErrInvalid)
	}
	return nil
}

// outside says why a rollback to the goal is outside the window; empty when it
// is within, or there is none.
func (r *Record) outside(goal *Rollout, now time.Time) string {
	w := r.Window
	if w == nil || goal.Revision == r.Verified {
		return ""
	}
	releases := map[string]bool{} // a rollback or a restart of a release is no step back
	if serving := r.Revision(r.Verified); serving != nil {
		releases[serving.Digest] = true
	}
	back := 0
	for i := range r.History {
		h := &r.History[i]
		if !h.Verified() || h.Revision < goal.Revision || releases[h.Digest] {
			continue
		}
		releases[h.Digest] = true
		back++
	}
	age := now.Sub(goal.Finished)
	switch {
	case w.Revisions > 0 && back > w.Revisions:
		return fmt.Sprintf("revision %d is %d releases back, and %d are allowed here", goal.Revision, back, w.Revisions)
	case w.Age > 0 && age > w.Age:
		return fmt.Sprintf("revision %d was verified %s ago, and %s is allowed here", goal.Revision, age.Round(time.Minute), w.Age)
	}
	return ""
}
