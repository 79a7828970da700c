package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Bounds of what is remembered.
const (
	maxRecent      = 1024
	maxRecentBytes = 8 << 20 // of JSON; some times that in memory
)

// recent remembers what the cluster held of applications when rollouts of this
// process ended, so that the next one reads nothing again. It cannot mislead: a
// remembered record is replaced only if it is still the same, and who owns the
// application meanwhile has written it.
type recent struct {
	mu    sync.Mutex
	known map[Target]*remembered
	order []Target // oldest first
	bytes int
}

// remembered is one application as its last owner, this process, left it.
type remembered struct {
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

// remember keeps what the driver leaves behind.
func (d *driver) remember() {
	if d.record.Owner != nil || d.version == "" || !d.dueBy.IsZero() || d.record.Current == nil || d.record.Live() || d.record.Command != nil {
		return
	}
	encoded, err := json.Marshal(d.record)
	if err != nil {
		return
	}
	known := &remembered{record: encoded, version: d.version, bytes: len(encoded)}
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
// to own; nil when it is not known to have been. That is written with the first
// change: until then, who takes it has it.
func (c *Controller) ownAgain(ctx context.Context, s *store, progress func(Progress)) *driver {
	known := s.recent.take(Target{s.app, s.namespace})
	if known == nil {
		return nil
	}
	record := &Record{}
	if err := json.Unmarshal(known.record, record); err != nil {
		return nil
	}
	p, err := s.join(ctx, c.clock)
	if err != nil {
		return nil // whatever it is, the long way finds out
	}
	claim := newID()
	record.claim(p.process, claim, c.clock())
	d := c.owning(s, p, claim, record, known.version, progress)
	d.base, d.unread = known.release, true
	return d
}
