package rollout

import (
	"context"
	"time"
)

// postponed is how long a mark of progress may wait to be written together with
// what follows. A move waits for no time, but for the write that it leads to.
// What waits is lost with the process, which then begins where the record
// stands; so everything that waits is written before any other write.
const postponed = 500 * time.Millisecond

// writes tells whether an action changes something beside the record. What led
// to it must be recorded first. Prune sees to that by itself, since most often
// there is nothing to delete.
func (k ActionKind) writes() bool {
	switch k {
	case Wait, Obey, Advance, Mark, BeginHook, Prune:
		return false
	}
	return true
}

// postpone notes that the record has become different.
func (d *driver) postpone() {
	if d.owed.IsZero() {
		d.owed = time.Now()
	}
}

// overdue tells whether what was postponed has waited long enough.
func (d *driver) overdue() bool {
	return !d.owed.IsZero() && time.Since(d.owed) >= postponed
}

// flush writes what was postponed.
func (d *driver) flush(ctx context.Context) error {
	if d.owed.IsZero() {
		return nil
	}
	return d.save(ctx)
}

// saved notes that the record was written.
func (d *driver) saved(version string) {
	d.version, d.owed, d.pressing, d.unread = version, time.Time{}, false, false
	d.kept = map[int]bool{}
	for i := range d.record.History {
		d.kept[d.record.History[i].Revision] = true
	}
}
