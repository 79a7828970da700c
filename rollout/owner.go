package rollout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Owner is who may write a record. An ownership begins and ends with a write of
// the record that is checked by resourceVersion, and ends with its process.
type Owner struct {
	// Process is the one whose lease tells whether the owner lives.
	Process string `json:"process"`
	// Claim tells this ownership from others, also of the same process.
	Claim string `json:"claim"`
}

// sighting is a lease as this process saw it, and when it first saw it so. The
// zero value is none.
type sighting struct {
	process, version string
	at               time.Time
}

func (s *sighting) see(process string, object *coordinationv1.Lease, now time.Time) {
	version := ""
	if object != nil {
		version = object.ResourceVersion
	}
	if s.process != process || s.version != version {
		*s = sighting{process: process, version: version, at: now}
	}
}

func (s *store) getLease(ctx context.Context, process string) (*coordinationv1.Lease, error) {
	var object *coordinationv1.Lease
	err := s.retry(ctx, "reading the lease of "+process, func(ctx context.Context) (err error) {
		object, err = s.presences.client.Leases(s.namespace).Get(ctx, leaseName(process), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			object, err = nil, nil
		}
		return err
	})
	return object, err
}

// owner is the living process that owns the application, as far as one look can
// tell; "" when there is none.
func (s *store) owner(ctx context.Context, record *Record, now time.Time) (string, error) {
	if record.Owner == nil {
		return "", nil
	}
	object, err := s.getLease(ctx, record.Owner.Process)
	if err != nil || object == nil || !lives(object, now, now) || now.Sub(renewedAt(object)) > timeToLive(object) {
		return "", err
	}
	return record.Owner.Process, nil
}

// tenure is what is known of an owner.
type tenure struct {
	lives bool
	// left is for how long a living owner is not called dead.
	left time.Duration
	// watched is until when an owner that is gone looked after its application, by
	// its own clock.
	watched time.Time
}

// tenure looks at the owner in the record. One whose lease has ended is called
// dead in the lease itself, so that it stops to act should it only have slept.
func (s *store) tenure(ctx context.Context, record *Record) (tenure, error) {
	gone := tenure{watched: record.Driven}
	if record.Owner == nil {
		return gone, nil
	}
	object, err := s.getLease(ctx, record.Owner.Process)
	if err != nil {
		return gone, err
	}
	now := time.Now()
	s.sighting.see(record.Owner.Process, object, now)
	if lives(object, s.sighting.at, now) {
		return tenure{lives: true, left: s.sighting.at.Add(timeToLive(object)).Sub(now)}, nil
	}
	if at := renewedAt(object); at.After(gone.watched) {
		gone.watched = at
	}
	if object == nil || holderOf(object) == "" {
		return gone, nil
	}
	buried, nobody := object.DeepCopy(), ""
	buried.Spec.HolderIdentity = &nobody
	err = s.retry(ctx, "calling "+record.Owner.Process+" dead", func(ctx context.Context) error {
		_, err := s.presences.client.Leases(s.namespace).Update(ctx, buried, metav1.UpdateOptions{FieldManager: FieldManager})
		return ignoreNotFound(err)
	})
	if isConflict(err) { // it has come back, or somebody else was faster
		return tenure{lives: true}, nil
	}
	if err == nil {
		s.sweepLeases(ctx)
	}
	return gone, err
}

// isConflict sees through what retry adds.
func isConflict(err error) bool {
	status := apierrors.APIStatus(nil)
	return errors.As(err, &status) && status.Status().Reason == metav1.StatusReasonConflict
}

// sweepLeases deletes the leases of processes that died long ago. It is not
// important: what cannot be deleted stays.
func (s *store) sweepLeases(ctx context.Context) {
	leases := s.presences.client.Leases(s.namespace)
	list, err := leases.List(ctx, metav1.ListOptions{LabelSelector: labelRecord + "=true"})
	if err != nil {
		s.log.Debug("leases of dead processes stay", zap.Error(err))
		return
	}
	now := time.Now()
	for i := range list.Items {
		if object := &list.Items[i]; now.Sub(renewedAt(object)) > leaseKept {
			err := leases.Delete(ctx, object.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &object.UID, ResourceVersion: &object.ResourceVersion}})
			if err != nil {
				s.log.Debug("the lease of a dead process stays", zap.String("lease", object.Name), zap.Error(err))
			}
		}
	}
}

// own makes this process the owner of the application. While another lives that
// owns it, ask is shown the record again and again: the owner is given the command
// that it makes, once for a live rollout, and its error ends the wait.
func (c *Controller) own(ctx context.Context, s *store, ask func(*Record) (*Command, error), progress func(Progress)) (_ *driver, err error) {
	var p *presence
	claim, unclear := newID(), false
	defer func() {
		if err == nil || p == nil {
			return
		}
		if unclear {
			p.releaseLater(s, claim)
		}
		p.leave()
	}()
	asked := 0
	for {
		record, version, err := s.load(ctx)
		if err != nil {
			return nil, err
		}
		if record.Owner != nil && record.Owner.Claim == claim { // the answer to our write got lost
			return c.owning(s, p, claim, record, version, progress), nil
		}
		owner, err := s.tenure(ctx, record)
		if err != nil {
			return nil, err
		}
		if owner.lives {
			if asked, err = c.askOwner(ctx, s, record, ask, asked, progress); err != nil {
				return nil, err
			}
			if err := s.awaitTurn(ctx, version, owner.left); err != nil {
				return nil, err
			}
			continue
		}
		if p, err = s.stay(ctx, p, c.clock); err != nil {
			return nil, fmt.Errorf("taking over %s: %w", s.app, err)
		}
		if record.Live() {
			record.Current.resume(owner.watched, c.clock())
		}
		record.claim(p.process, claim, c.clock())
		written, err := s.save(ctx, record, version)
		switch {
		case err == nil:
			return c.owning(s, p, claim, record, written, progress), nil
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err) && version != "":
			continue
		case !transient(err):
			return nil, fmt.Errorf("taking over %s: %w", s.app, err)
		}
		unclear = true
		if err := pause(ctx, retryFirst); err != nil {
			return nil, err
		}
	}
}

// claim makes a process the owner; it counts once the record is written.
func (r *Record) claim(process, claim string, now time.Time) {
	r.Fence++
	r.Owner, r.Driven = &Owner{Process: process, Claim: claim}, now
}

// askOwner gives the owner the command that ask makes of the record. asked is the
// revision that was asked about last.
func (c *Controller) askOwner(ctx context.Context, s *store, record *Record, ask func(*Record) (*Command, error), asked int, progress func(Progress)) (int, error) {
	if ask == nil {
		return asked, nil
	}
	command, err := ask(record)
	if err != nil || command == nil || asked == record.Current.Revision {
		return asked, err
	}
	if err := s.command(ctx, *command); err != nil {
		return asked, err
	}
	progress(Progress{Time: c.clock(), Revision: record.Current.Revision, State: record.Current.State,
		Message: fmt.Sprintf("asked %s to make way for this release", record.Owner.Process)})
	return record.Current.Revision, nil
}

// awaitTurn returns when the record changes from what it was at version, or after at most.
func (s *store) awaitTurn(ctx context.Context, version string, most time.Duration) error {
	bounded, cancel := context.WithTimeout(ctx, max(most, retryFirst))
	defer cancel()
	s.awaitChange(bounded, version)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// owning is the driver of an application whose record names claim. It has joined p.
func (c *Controller) owning(s *store, p *presence, claim string, record *Record, version string, progress func(Progress)) *driver {
	d := &driver{store: s, presence: p, claim: claim, record: record, clock: c.clock, progress: progress, notify: c.notify,
		reach: c.reach, member: c.member, reacted: c.reacted, receivers: c.receivers}
	d.saved(version)
	c.subscribe(d)
	return d
}

// subscribe makes the controller's receivers those that the record tells.
func (c *Controller) subscribe(d *driver) {
	if c.receivers != nil && !d.record.subscribed(namesOf(c.receivers)) {
		d.record.subscribe(namesOf(c.receivers), newID)
	}
}

// disown ends the ownership in the record, if it is still that.
func (s *store) disown(ctx context.Context, claim string, now time.Time) error {
	for {
		record, version, err := s.load(ctx)
		if err != nil || record.Owner == nil || record.Owner.Claim != claim {
			return err
		}
		record.Owner, record.Driven = nil, now
		if _, err = s.save(ctx, record, version); !apierrors.IsConflict(err) {
			return ignoreNotFound(err)
		}
	}
}

// close gives the application up.
func (d *driver) close() {
	d.dropLog()
	if d.sampler != nil {
		d.sampler.stop()
	}
	if d.prober != nil {
		d.prober.stop()
	}
	if d.hook != nil {
		d.hook.stop()
	}
	if d.watch != nil {
		d.watch.stop()
	}
	d.lastPost()
	d.giveUp() // and records what was told
	d.remember()
	d.presence.leave()
}

// giveUp ends the ownership, unless the last write has or it is lost.
func (d *driver) giveUp() {
	if _, err := d.presence.held(); err != nil || d.version == "" || d.unread || d.record.Owner == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaseRenew)
	defer cancel()
	var err error
	if d.record.empty() {
		err = d.deleteRecord(ctx)
	} else {
		d.record.Owner = nil
		err = d.save(ctx)
	}
	if err == nil || errors.Is(err, ErrLost) {
		return
	}
	d.log.Warn("the application is given up later", zap.String("app", d.app), zap.Error(err))
	d.presence.releaseLater(d.store, d.claim)
}
