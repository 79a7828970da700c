package rollout

import (
	"context"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// An owner renews its lease after 3/10 of its time to live; when it could not
// for 7/10, it stops writing, which is before others may take it. The time to
// live is leaseTTL for a few leases, and more while a process holds many, so
// that renewals stay some requests a second. It is written into the lease.
const (
	leaseTTL     = 10 * time.Second
	leaseMostTTL = 50 * time.Second
	leaseRenew   = leaseTTL * 3 / 10
	leasesAtOnce = 20 // for which leaseTTL holds
)

// leaseTime is the time to live of each of held leases of one process.
func leaseTime(held int64) time.Duration {
	return leaseTTL * time.Duration(min(max((held+leasesAtOnce-1)/leasesAtOnce, 1), int64(leaseMostTTL/leaseTTL)))
}

// timeToLive is that of a lease as it says itself, within bounds.
func timeToLive(object *coordinationv1.Lease) time.Duration {
	if object == nil || object.Spec.LeaseDurationSeconds == nil {
		return leaseTTL
	}
	return min(max(time.Duration(*object.Spec.LeaseDurationSeconds)*time.Second, leaseTTL), leaseMostTTL)
}

// lease is the right to act on one application, held as a
// coordination.k8s.io Lease. Every change to it is checked by resourceVersion.
type lease struct {
	*store
	identity string
	clock    func() time.Time

	mu      sync.Mutex
	object  *coordinationv1.Lease
	renewed time.Time // by the monotonic clock
	lost    error

	stop func()
	done chan struct{}
}

// sighting is a version of the lease, and when this process first saw it so: a
// holder that has not renewed it for leaseTTL since is dead. The zero value is none.
type sighting struct {
	version string
	at      time.Time
}

// heldBy tells who holds the lease now; "" when nobody does. seen is when this
// process first saw the lease as it is: expiry is judged by one clock alone.
func heldBy(object *coordinationv1.Lease, seen, now time.Time) string {
	if object == nil || object.Spec.HolderIdentity == nil || *object.Spec.HolderIdentity == "" {
		return ""
	}
	if now.Sub(seen) >= timeToLive(object) {
		return ""
	}
	// Long dead by any clock: no need to watch it die.
	if at := object.Spec.RenewTime; at != nil && now.Sub(at.Time) > 6*timeToLive(object) {
		return ""
	}
	return *object.Spec.HolderIdentity
}

func (s *store) getLease(ctx context.Context) (*coordinationv1.Lease, error) {
	var object *coordinationv1.Lease
	err := s.retry(ctx, "reading the lease of "+s.app, func(ctx context.Context) (err error) {
		object, err = s.kube.CoordinationV1().Leases(s.namespace).Get(ctx, s.name(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			object, err = nil, nil
		}
		return err
	})
	return object, err
}

// take tries once to make identity the holder. It returns the time the last
// holder renewed (zero when there was none).
func (s *store) take(ctx context.Context, object *coordinationv1.Lease, identity string, now time.Time) (*coordinationv1.Lease, error) {
	seconds := int32(leaseTime(s.leases.Load()+1) / time.Second)
	at := metav1.NewMicroTime(now)
	if object == nil {
		return s.kube.CoordinationV1().Leases(s.namespace).Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: s.name(), Namespace: s.namespace,
				Labels: map[string]string{manifest.LabelApp: s.app, labelRecord: "true"}},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &identity, LeaseDurationSeconds: &seconds, AcquireTime: &at, RenewTime: &at},
		}, metav1.CreateOptions{FieldManager: FieldManager})
	}
	object = object.DeepCopy()
	transitions := int32(1)
	if object.Spec.LeaseTransitions != nil {
		transitions = *object.Spec.LeaseTransitions + 1
	}
	object.Spec = coordinationv1.LeaseSpec{HolderIdentity: &identity, LeaseDurationSeconds: &seconds,
		AcquireTime: &at, RenewTime: &at, LeaseTransitions: &transitions}
	return s.kube.CoordinationV1().Leases(s.namespace).Update(ctx, object, metav1.UpdateOptions{FieldManager: FieldManager})
}

// holdLease starts to renew an object that this process has just taken.
func (s *store) holdLease(object *coordinationv1.Lease, identity string, clock func() time.Time) *lease {
	ctx, cancel := context.WithCancel(context.Background())
	l := &lease{store: s, identity: identity, clock: clock, object: object, renewed: time.Now(), stop: cancel, done: make(chan struct{})}
	s.leases.Add(1)
	go func() {
		defer close(l.done)
		defer s.leases.Add(-1)
		l.renew(ctx)
	}()
	return l
}

func (l *lease) renew(ctx context.Context) {
	timer := time.NewTimer(l.pace())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			if l.renewOnce(ctx) {
				timer.Reset(l.pace())
			} else {
				timer.Reset(leaseRenew)
			}
		}
	}
}

// pace is how long after a renewal the next is due.
func (l *lease) pace() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return timeToLive(l.object) * 3 / 10
}

// renewOnce tells whether the lease was renewed.
func (l *lease) renewOnce(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, leaseRenew)
	defer cancel()
	l.mu.Lock()
	object := l.object.DeepCopy()
	l.mu.Unlock()
	before := time.Now()
	at := metav1.NewMicroTime(l.clock())
	seconds := int32(leaseTime(l.leases.Load()) / time.Second)
	object.Spec.RenewTime, object.Spec.LeaseDurationSeconds = &at, &seconds
	written, err := l.kube.CoordinationV1().Leases(l.namespace).Update(ctx, object, metav1.UpdateOptions{FieldManager: FieldManager})
	if apierrors.IsConflict(err) {
		// Ours, if an answer got lost; someone else's otherwise.
		written, err = l.kube.CoordinationV1().Leases(l.namespace).Get(ctx, l.name(), metav1.GetOptions{})
		if err == nil && (written.Spec.HolderIdentity == nil || *written.Spec.HolderIdentity != l.identity) {
			holder := "nobody"
			if written.Spec.HolderIdentity != nil {
				holder = *written.Spec.HolderIdentity
			}
			l.mu.Lock()
			l.lost = &lostError{owner: holder}
			l.mu.Unlock()
			return false
		}
	}
	if apierrors.IsNotFound(err) {
		l.mu.Lock()
		l.lost = &lostError{owner: "nobody: the lease was deleted"}
		l.mu.Unlock()
		return false
	}
	if err != nil {
		return false // the next time tries again
	}
	l.mu.Lock()
	l.object, l.renewed = written, before
	l.mu.Unlock()
	return true
}

// held returns nil while this process may write. away is for how long the lease
// could not be renewed, when that is why it may not.
func (l *lease) held() (away time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return 0, l.lost
	}
	if since := time.Since(l.renewed); since > timeToLive(l.object)*7/10 {
		return since, nil
	}
	return 0, nil
}

// release gives the lease up, so that the next owner need not wait, and returns
// it as it is then; nil when it was lost.
func (l *lease) release() (*coordinationv1.Lease, error) {
	l.stop()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost != nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaseRenew)
	defer cancel()
	nobody, at := "", metav1.NewMicroTime(l.clock())
	object := l.object.DeepCopy()
	object.Spec.HolderIdentity, object.Spec.RenewTime = &nobody, &at
	written, err := l.kube.CoordinationV1().Leases(l.namespace).Update(ctx, object, metav1.UpdateOptions{FieldManager: FieldManager})
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("giving up the lease of %s: %w", l.app, err)
	}
	return written, nil
}
