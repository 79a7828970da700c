package rollout

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

// A process renews its lease after 3/10 of its time to live; when it could not
// for 7/10, it stops writing, which is before others may call it dead. The time
// to live is leaseTTL for a few leases, and more while a process holds many (one
// for each namespace), so that renewals stay some requests a second. It is
// written into the lease.
const (
	leaseTTL     = 10 * time.Second
	leaseMostTTL = 50 * time.Second
	leaseRenew   = leaseTTL * 3 / 10
	leasesAtOnce = 20 // for which leaseTTL holds
	// leaseKept is how long the lease of a dead process is of use: it tells those
	// who take its applications over until when they were looked after.
	leaseKept = time.Hour
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

// lives tells whether the process whose lease that is may still act; nil is a
// lease that somebody has deleted, which its process notices with its next
// renewal. seen is when this process first saw it so: expiry is judged by one
// clock alone.
func lives(object *coordinationv1.Lease, seen, now time.Time) bool {
	switch {
	case now.Sub(seen) >= timeToLive(object), object != nil && holderOf(object) == "":
		return false
	case object != nil && object.Spec.RenewTime != nil && now.Sub(object.Spec.RenewTime.Time) > 6*timeToLive(object):
		return false // long dead by any clock: no need to watch it die
	}
	return true
}

func holderOf(object *coordinationv1.Lease) string {
	if object.Spec.HolderIdentity == nil {
		return ""
	}
	return *object.Spec.HolderIdentity
}

func renewedAt(object *coordinationv1.Lease) time.Time {
	if object == nil || object.Spec.RenewTime == nil {
		return time.Time{}
	}
	return object.Spec.RenewTime.Time
}

// leaseName is that of a process's lease.
func leaseName(process string) string { return namePrefix + process }

// presence is this process's sign of life in a namespace: one
// coordination.k8s.io Lease, however many applications it owns there, which name
// it in their records. Every change to it is checked by resourceVersion.
type presence struct {
	leases  coordinationclient.LeaseInterface
	process string
	clock   func() time.Time
	log     *zap.Logger
	count   *atomic.Int64 // of this process's leases

	mu      sync.Mutex
	users   int
	object  *coordinationv1.Lease
	renewed time.Time // by the monotonic clock
	lost    error
	// unreleased are ownerships that could not be given up in their records: while
	// this process lives, nobody else would take them.
	unreleased map[string]*store // by claim

	stop func()
	done chan struct{}
}

// presences are those of this process, by namespace.
type presences struct {
	client coordinationclient.CoordinationV1Interface
	log    *zap.Logger
	count  atomic.Int64

	mu     sync.Mutex
	places map[string]*place
}

// place is a namespace. Whoever has its one token may make the presence there.
type place struct {
	making  chan struct{}
	present *presence // nil when there has been none
}

func newPresences(client coordinationclient.CoordinationV1Interface, log *zap.Logger) *presences {
	return &presences{client: client, log: log, places: map[string]*place{}}
}

// join makes the caller a user of this process's presence in the store's
// namespace; the first one makes it. The caller leaves it.
func (s *store) join(ctx context.Context, clock func() time.Time) (*presence, error) {
	all := s.presences
	all.mu.Lock()
	here := all.places[s.namespace]
	if here == nil {
		here = &place{making: make(chan struct{}, 1)}
		all.places[s.namespace] = here
	}
	all.mu.Unlock()
	select {
	case here.making <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-here.making }()
	if here.present != nil && here.present.join() {
		return here.present, nil
	}
	p := &presence{leases: all.client.Leases(s.namespace), process: newProcess(), clock: clock, log: all.log, count: &all.count, users: 1,
		unreleased: map[string]*store{}, done: make(chan struct{})}
	err := s.retry(ctx, "telling in namespace "+s.namespace+" that this process lives", p.create)
	if err != nil {
		return nil, err
	}
	renewing, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.count.Add(1)
	go func() {
		defer close(p.done)
		defer p.count.Add(-1)
		p.renew(renewing)
	}()
	here.present = p
	return p, nil
}

// stay is p, if the caller has joined it and it is not lost, or what join gives.
func (s *store) stay(ctx context.Context, p *presence, clock func() time.Time) (*presence, error) {
	if p != nil {
		if _, err := p.held(); err == nil {
			return p, nil
		}
		p.leave()
	}
	return s.join(ctx, clock)
}

func (p *presence) create(ctx context.Context) error {
	before := time.Now()
	seconds := int32(leaseTime(p.count.Load()+1) / time.Second)
	at := metav1.NewMicroTime(p.clock())
	object, err := p.leases.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: leaseName(p.process), Labels: map[string]string{labelRecord: "true"}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &p.process, LeaseDurationSeconds: &seconds, AcquireTime: &at, RenewTime: &at},
	}, metav1.CreateOptions{FieldManager: FieldManager})
	if apierrors.IsAlreadyExists(err) { // the answer to an earlier try got lost
		object, err = p.leases.Get(ctx, leaseName(p.process), metav1.GetOptions{})
	}
	p.object, p.renewed = object, before
	return err
}

// join counts one more user, unless the presence has ended.
func (p *presence) join() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users == 0 || p.lost != nil {
		return false
	}
	p.users++
	return true
}

// leave ends one use; with the last one the lease is deleted, so that nobody has
// to wait for its end.
func (p *presence) leave() {
	p.mu.Lock()
	p.users--
	last := p.users == 0
	p.mu.Unlock()
	if !last {
		return
	}
	p.stop()
	<-p.done
	if p.lost != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaseRenew)
	defer cancel()
	if err := ignoreNotFound(p.leases.Delete(ctx, leaseName(p.process), metav1.DeleteOptions{})); err != nil {
		p.log.Warn("the lease stays until it expires", zap.String("lease", leaseName(p.process)), zap.Error(err))
	}
}

// held returns nil while this process may write. away is for how long the lease
// could not be renewed, when that is why it may not.
func (p *presence) held() (away time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost != nil {
		return 0, p.lost
	}
	if since := time.Since(p.renewed); since > timeToLive(p.object)*7/10 {
		return since, nil
	}
	return 0, nil
}

func (p *presence) renew(ctx context.Context) {
	timer := time.NewTimer(p.pace())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			if p.renewOnce(ctx) {
				p.releaseLate(ctx)
				timer.Reset(p.pace())
			} else {
				timer.Reset(leaseRenew)
			}
		}
	}
}

// pace is how long after a renewal the next is due.
func (p *presence) pace() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return timeToLive(p.object) * 3 / 10
}

// renewOnce tells whether the lease was renewed.
func (p *presence) renewOnce(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, leaseRenew)
	defer cancel()
	p.mu.Lock()
	object := p.object.DeepCopy()
	p.mu.Unlock()
	before := time.Now()
	at := metav1.NewMicroTime(p.clock())
	seconds := int32(leaseTime(p.count.Load()) / time.Second)
	object.Spec.RenewTime, object.Spec.LeaseDurationSeconds = &at, &seconds
	written, err := p.leases.Update(ctx, object, metav1.UpdateOptions{FieldManager: FieldManager})
	if apierrors.IsConflict(err) {
		// Ours, if an answer got lost; someone has called us dead otherwise.
		written, err = p.leases.Get(ctx, object.Name, metav1.GetOptions{})
		if err == nil && holderOf(written) != p.process {
			p.lose(orUnknown(holderOf(written)))
			return false
		}
	}
	if apierrors.IsNotFound(err) {
		p.lose("nobody: the lease was deleted")
		return false
	}
	if err != nil {
		return false // the next time tries again
	}
	p.mu.Lock()
	p.object, p.renewed = written, before
	p.mu.Unlock()
	return true
}

func (p *presence) lose(to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = &lostError{owner: to}
}

// releaseLater has an ownership given up as soon as that can be written.
func (p *presence) releaseLater(s *store, claim string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unreleased[claim] = s
}

func (p *presence) releaseLate(ctx context.Context) {
	p.mu.Lock()
	owed := make(map[string]*store, len(p.unreleased))
	for claim, s := range p.unreleased {
		owed[claim] = s
	}
	p.mu.Unlock()
	for claim, s := range owed {
		bounded, cancel := context.WithTimeout(ctx, leaseRenew)
		err := s.disown(bounded, claim, p.clock())
		cancel()
		if err != nil {
			return // the next renewal tries again
		}
		p.mu.Lock()
		delete(p.unreleased, claim)
		p.mu.Unlock()
	}
}

// newProcess names this process, as nobody else is or has been.
func newProcess() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	// It is part of an object's name.
	host = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(host[:min(len(host), 63)]))
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), newID())
}
