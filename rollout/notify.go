package rollout

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// ErrUndeliverable is what a Receiver's error wraps when trying again is of no
// use: the transition is left out for it.
var ErrUndeliverable = errors.New("undeliverable")

// Receiver is told of every transition, in their order, one at a time, at least
// once. Implementations are safe for use by several rollouts at once.
type Receiver interface {
	// Name is the same for the same receiver after a restart.
	Name() string
	// Tell returns when the receiver has the notification. After an error it is
	// called again later with the same one, unless that wraps ErrUndeliverable.
	// Errors are logged: they carry no secret.
	Tell(ctx context.Context, n Notification) error
}

// Source is where what is rolled out came from. All of it but Forge is untrusted text.
type Source struct {
	Forge      string `json:"forge"`      // such as "github"
	Repository string `json:"repository"` // owner and name
	Branch     string `json:"branch,omitempty"`
	Tag        string `json:"tag,omitempty"`
	Message    string `json:"message,omitempty"` // the first line of the commit's
}

// Notification is a transition with what people want to know of its rollout.
type Notification struct {
	// ID is the same when a notification is repeated, and unique otherwise.
	ID string `json:"id"`
	// Rollout is the same for all notifications of one rollout, and unique otherwise.
	Rollout string `json:"rollout"`
	Target
	Transition
	Base     int         `json:"base,omitempty"` // the revision to go back to
	By       string      `json:"by,omitempty"`
	Commit   string      `json:"commit,omitempty"`
	RunID    string      `json:"runID,omitempty"`
	Images   []string    `json:"images,omitempty"`
	Source   *Source     `json:"source,omitempty"`
	Promoted *Provenance `json:"promoted,omitempty"`
	Failure  *Failure    `json:"failure,omitempty"`
	Ending   Ending      `json:"ending,omitempty"`
	// BaseCommit is that of the revision to go back to, OnRollback what the
	// release asks for after a rollback that nobody asked for.
	BaseCommit string     `json:"baseCommit,omitempty"`
	OnRollback OnRollback `json:"-"`
}

// OnRollback is what a release asks for when it is taken back by itself.
type OnRollback string

// RevertPullRequest asks for a pull request that takes the commit back.
const RevertPullRequest OnRollback = "revert-pull-request"

// notification fills in what the record knows of the rollout.
func (r *Record) notification(t Transition) Notification {
	n := Notification{ID: fmt.Sprintf("%s-%d", r.Outbox.ID, t.Sequence), Rollout: fmt.Sprintf("%s-r%d", r.Outbox.ID, t.Revision),
		Target: Target{App: r.App, Namespace: r.Namespace}, Transition: t}
	c := r.Revision(t.Revision)
	if c == nil {
		return n
	}
	n.Base, n.By, n.Commit, n.RunID, n.Images, n.Source, n.Promoted, n.OnRollback = c.Base, c.By, c.Commit, c.RunID, c.Images, c.Source, c.From, c.OnRollback
	if base := r.Revision(c.Base); base != nil {
		n.BaseCommit = base.Commit
	}
	if t.Reason != "" {
		n.Failure = c.Failure
	}
	if t.To.Final() || t.To == RollingBack || t.To == Withdrawing {
		n.Ending = c.Ending
	}
	return n
}

// Waits between tries, and how long the end of a process waits for receivers.
const (
	tellAgainFirst = time.Second
	tellAgainMost  = time.Minute
	tellTimeout    = 30 * time.Second
	lastWords      = 3 * time.Second
)

// courier tells one receiver, one notification after another.
type courier struct {
	receiver Receiver
	log      *zap.Logger
	clock    func() time.Time

	mu      sync.Mutex
	waiting []Notification
	offered int64 // sequence of the last that was put into waiting
	told    int64 // sequence of the last that was told
	idle    chan struct{}
	wake    chan struct{}
}

// offer gives the courier what it has not had.
func (c *courier) offer(record *Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range record.Outbox.untold(c.receiver.Name()) {
		if t.Sequence > c.offered {
			c.waiting = append(c.waiting, record.notification(t))
			c.offered = t.Sequence
		}
	}
	if extra := len(c.waiting) - MaxOutbox; extra > 0 {
		c.waiting = c.waiting[extra:]
	}
	if len(c.waiting) > 0 {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// next is the oldest that waits; false when none does.
func (c *courier) next() (Notification, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		return Notification{}, false
	}
	return c.waiting[0], true
}

// done takes the notification off, if it is still the oldest.
func (c *courier) done(n Notification) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = max(c.told, n.Sequence)
	if len(c.waiting) > 0 && c.waiting[0].Sequence == n.Sequence {
		c.waiting = c.waiting[1:]
	}
	if len(c.waiting) == 0 {
		select {
		case c.idle <- struct{}{}:
		default:
		}
	}
}

// run tells what waits until ctx ends.
func (c *courier) run(ctx context.Context) {
	wait := tellAgainFirst
	for ctx.Err() == nil {
		n, ok := c.next()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-c.wake:
			}
			continue
		}
		err := c.tell(ctx, n)
		if err == nil || errors.Is(err, ErrUndeliverable) {
			if err != nil {
				c.log.Warn("a notification is left out", zap.String("receiver", c.receiver.Name()), zap.String("app", n.App), zap.Int64("sequence", n.Sequence), zap.Error(err))
			}
			c.done(n)
			wait = tellAgainFirst
			continue
		}
		if ctx.Err() != nil {
			return
		}
		c.log.Warn("a notification is told again later", zap.String("receiver", c.receiver.Name()), zap.String("app", n.App), zap.Duration("in", wait), zap.Error(err))
		if pause(ctx, wait) != nil {
			return
		}
		wait = min(2*wait, tellAgainMost)
	}
}

// tell tries once, unless it is too late for that.
func (c *courier) tell(ctx context.Context, n Notification) error {
	if c.clock().Sub(n.At) >= MaxOutboxAge {
		return fmt.Errorf("%w: it is older than %s", ErrUndeliverable, MaxOutboxAge)
	}
	bounded, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	return c.receiver.Tell(bounded, n)
}

// couriers tell all receivers of one application, while it is owned.
type couriers struct {
	all  []*courier
	stop func() // ends them and waits for them
}

func newCouriers(receivers []Receiver, record *Record, clock func() time.Time, log *zap.Logger) *couriers {
	ctx, cancel := context.WithCancel(context.Background())
	c := &couriers{}
	var running sync.WaitGroup
	for _, receiver := range receivers {
		told := record.Outbox.Told[receiver.Name()]
		one := &courier{receiver: receiver, log: log, clock: clock, offered: told, told: told, idle: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
		c.all = append(c.all, one)
		running.Go(func() { one.run(ctx) })
	}
	c.stop = func() {
		cancel()
		running.Wait()
	}
	return c
}

// collect writes down what has been told.
func (c *couriers) collect(record *Record) {
	for _, one := range c.all {
		one.mu.Lock()
		told := one.told
		one.mu.Unlock()
		if record.Outbox != nil {
			record.Outbox.mark(one.receiver.Name(), told)
		}
	}
}

// flush waits until all have been told everything, or ctx ends.
func (c *couriers) flush(ctx context.Context) {
	for _, one := range c.all {
		for {
			if _, waiting := one.next(); !waiting {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-one.idle:
			}
		}
	}
}

// post hands new transitions to the couriers and takes over what they have
// told. That is written with the record's next save: it is worth no write of its own.
func (d *driver) post() {
	if len(d.receivers) == 0 || d.record.Outbox == nil {
		return
	}
	if d.couriers == nil {
		if len(d.record.Outbox.Transitions) == 0 {
			return
		}
		d.couriers = newCouriers(d.receivers, d.record, d.clock, d.log)
	}
	d.couriers.collect(d.record)
	for _, one := range d.couriers.all {
		one.offer(d.record)
	}
}

// lastPost gives receivers a moment before the application is given up. What they
// have not been told by then stays in the outbox.
func (d *driver) lastPost() {
	if d.version == "" || d.unread {
		return // nothing was recorded
	}
	d.post()
	if d.couriers == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	d.couriers.flush(ctx)
	d.couriers.stop()
	d.couriers.collect(d.record)
}

// names of receivers.
func namesOf(receivers []Receiver) []string {
	names := make([]string, len(receivers))
	for i, r := range receivers {
		names[i] = r.Name()
	}
	return names
}
