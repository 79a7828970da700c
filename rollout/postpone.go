package rollout

import (
	"context"
	"time"
)

// postponed is how long a change of the record may wait to be written together
// with what follows. What waits is lost with the process, which then begins where
// the record stands; so everything that waits is written before any write that
// this would not make again.
const postponed = time.Second

// writes tells whether an action changes something beside the record. Prune sees
// to what must be recorded first by itself, since most often there is nothing to
// delete.
func (k ActionKind) writes() bool {
	switch k {
	case Wait, Obey, Advance, Mark, BeginHook, Prune:
		return false
	}
	return true
}

// needsRecord tells whether what led to an action must be recorded before it.
func (r *Rollout) needsRecord(a Action) bool {
	// Without the record of its end, the rollout is found with the stable workloads
	// all new, and ends again: nobody misses the canary.
	if r.State == Finishing && a.Kind == RemoveCanary {
		return false
	}
	return a.Kind.writes()
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
