package rollout

import (
	"context"
	"time"
)

// How long a change of the record may wait to be written together with what
// follows. What waits is lost with the process, which then begins where the record
// stands; so everything that waits is written before any write that this would not
// make again.
const (
	postponed = time.Second
	// Nobody is shown that more pods are available than ever before: it moves a
	// deadline, for as long at most as its loss does.
	peakPostponed = time.Minute
)

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

// mayWait is how long what an action has changed in the record may wait.
func (a Action) mayWait() time.Duration {
	switch {
	case a.Kind == BeginHook:
		return 0
	case a.Kind == Mark && !a.Ready:
		return peakPostponed
	}
	return postponed
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

// postpone notes that the record has become different, to be written within a time.
func (d *driver) postpone(within time.Duration) {
	if due := time.Now().Add(within); d.dueBy.IsZero() || due.Before(d.dueBy) {
		d.dueBy = due
	}
}

// overdue tells whether what was postponed has waited long enough.
func (d *driver) overdue() bool {
	return !d.dueBy.IsZero() && !time.Now().Before(d.dueBy)
}

// flush writes what was postponed.
func (d *driver) flush(ctx context.Context) error {
	if d.dueBy.IsZero() {
		return nil
	}
	return d.save(ctx)
}

// saved notes that the record was written.
func (d *driver) saved(version string) {
	d.version, d.dueBy, d.pressing, d.unread = version, time.Time{}, false, false
	d.kept = map[int]bool{}
	for i := range d.record.History {
		d.kept[d.record.History[i].Revision] = true
	}
}
