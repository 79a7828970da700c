package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Bounds of what is remembered.
const (
	maxRecent      = 1024
	maxRecentBytes = 8 << 20 // of JSON; some times that in memory
)

// recent remembers what the cluster held of applications when rollouts of this
// process ended, so that the next one reads nothing again. It cannot mislead: a
// remembered lease is taken only if nobody has owned the application since, and
// a remembered record is replaced only if it is still the same.
type recent struct {
	mu    sync.Mutex
	known map[Target]*remembered
	order []Target // oldest first
	bytes int
}

// remembered is one application as its last owner, this process, left it.
type remembered struct {
	lease   *coordinationv1.Lease
	record  []byte
	version string
	release *manifest.Release // the verified one; may be nil
	bytes   int
}

// take returns what is known of an application, and forgets it.
func (r *recent) take(target Target) *remembered {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.drop(target)
}

func (r *recent) drop(target Target) *remembered {
	known := r.known[target]
	if known == nil {
		return nil
	}
	delete(r.known, target)
	r.order = slices.DeleteFunc(r.order, func(t Target) bool { return t == target })
	r.bytes -= known.bytes
	return known
}

// put remembers an application, and forgets those that were not used for long.
func (r *recent) put(target Target, known *remembered) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(target)
	if known.bytes > maxRecentBytes/8 {
		return // one that takes the place of hundreds
	}
	r.known[target] = known
	r.order = append(r.order, target)
	r.bytes += known.bytes
	for len(r.order) > maxRecent || r.bytes > maxRecentBytes {
		r.drop(r.order[0])
	}
}

// remember keeps what the driver leaves behind, its lease given up.
func (d *driver) remember(lease *coordinationv1.Lease) {
	if lease == nil || d.version == "" || !d.owed.IsZero() || d.record == nil || d.record.Current == nil || d.record.Live() || d.record.Command != nil {
		return
	}
	encoded, err := json.Marshal(d.record)
	if err != nil {
		return
	}
	known := &remembered{lease: lease, record: encoded, version: d.version, bytes: len(encoded)}
	for _, release := range []*manifest.Release{d.release, d.base} {
		if release != nil && release.Digest == d.record.digest(d.record.Verified) {
			known.release = release
			for _, u := range release.Objects {
				encoded, err := json.Marshal(u)
				if err != nil {
					return
				}
				known.bytes += len(encoded)
			}
			break
		}
	}
	d.recent.put(Target{d.app, d.namespace}, known)
}

// errForgotten tells that a remembered record is not in the cluster any more as
// it was; nothing has been changed, and it has to be read.
var errForgotten = fmt.Errorf("%w: the record is not as this process left it", ErrLost)

// misled gives up what was remembered.
func (d *driver) misled() error {
	d.version, d.unread = "", false
	return errForgotten
}

// ownAgain makes this process the owner of an application that it was the last
// to own; nil when it is not known to have been.
func (c *Controller) ownAgain(ctx context.Context, s *store, progress func(Progress)) *driver {
	known := s.recent.take(Target{s.app, s.namespace})
	if known == nil {
		return nil
	}
	record := &Record{}
	if err := json.Unmarshal(known.record, record); err != nil {
		return nil
	}
	identity := identity()
	taken, err := s.take(ctx, known.lease, identity, c.clock())
	if err != nil {
		return nil // whatever it is, the long way finds out
	}
	d := c.driver(s, taken, identity, progress)
	d.record, d.base = record, known.release
	d.saved(known.version)
	// Written with the first change: there was no owner between who could be late.
	d.record.Fence++
	d.unread = true
	c.subscribe(d)
	return d
}

// identity names this process and one of its ownerships.
func identity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), newID())
}
