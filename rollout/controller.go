package rollout

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/internal/netguard"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Options of a controller; the zero value is usable.
type Options struct {
	// Clock tells the time; nil means one that is immune to steps of the
	// machine's clock while the process lives.
	Clock func() time.Time
	Log   *zap.Logger
	// Notify is called when a rollout ends and when it begins to go back.
	Notify func(Record)
	// Patience is how long an API server that does not answer is waited for; 0
	// means ten minutes.
	Patience time.Duration
	// PrivateWebhooks lets webhook gates reach private networks and this machine;
	// otherwise the public internet only.
	PrivateWebhooks bool
	// Reacted is told, before a write, how long ago what it answers was seen; for
	// measurements. Time in which the driver waited for an earlier write does not
	// count. Nil: nobody is told.
	Reacted func(time.Duration)
	// Member tells whether a person belongs to a group that an approval names; nil: never.
	Member func(user, group string) bool
	// Receivers are told of every transition. Nil leaves those that the record
	// names to a process that knows them; empty, but not nil, means nobody.
	Receivers []Receiver
}

// Controller rolls out releases in one cluster. It is safe for concurrent use.
type Controller struct {
	clients *clients
	clock   func() time.Time
	notify  func(Record)
	reach   func(netip.Addr) bool
	member  func(user, group string) bool
	reacted func(time.Duration)

	receivers []Receiver
}

// New makes a controller. It makes no request.
func New(cluster Cluster, options Options) (*Controller, error) {
	if options.Log == nil {
		options.Log = zap.NewNop()
	}
	if options.Patience == 0 {
		options.Patience = defaultPatience
	}
	if options.Clock == nil {
		start := time.Now()
		options.Clock = func() time.Time { return start.Add(time.Since(start)).UTC() }
	}
	if options.Notify == nil {
		options.Notify = func(Record) {}
	}
	clients, err := newClients(cluster, options.Log, options.Patience)
	if err != nil {
		return nil, err
	}
	c := &Controller{clients: clients, clock: options.Clock, notify: options.Notify, reach: netguard.Public, member: options.Member,
		reacted: options.Reacted, receivers: options.Receivers}
	if options.PrivateWebhooks {
		c.reach = netguard.Inside
	}
	if c.member == nil {
		c.member = func(string, string) bool { return false }
	}
	return c, nil
}

// Target names an application in a namespace.
type Target struct {
	App       string `json:"app"`
	Namespace string `json:"namespace"`
}

func (c *Controller) store(t Target) *store {
	return &store{clients: c.clients, app: t.App, namespace: t.Namespace}
}

// Result is how a rollout ended.
type Result struct {
	Rollout Rollout
	// Unchanged is true when the release ran and was verified already.
	Unchanged bool
}

// Start rolls a release out and returns when it is verified, or has been taken
// back (then the error is ErrFailed, ErrAborted, ErrSuperseded or ErrRejected
// wrapped in the reason). A rollout of another release that is under way is
// superseded. When ctx ends, Start stops to act and leaves the rollout as it
// is; Start with the same release and RunID, or Continue, goes on.
func (c *Controller) Start(ctx context.Context, request Request, progress func(Progress)) (Result, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	if err := request.check(); err != nil {
		return Result{}, err
	}
	result, err := c.start(ctx, request, progress)
	if errors.Is(err, errForgotten) {
		result, err = c.start(ctx, request, progress)
	}
	return result, err
}

func (c *Controller) start(ctx context.Context, request Request, progress func(Progress)) (Result, error) {
	s := c.store(Target{request.App, request.Namespace})
	supersede := func(record *Record) *Command {
		if !record.Live() || sameWork(record.Current, request) {
			return nil
		}
		return &Command{ID: newID(), Kind: CommandSupersede, Revision: record.Current.Revision, By: request.describe(), At: c.clock()}
	}
	ask := func(record *Record) (*Command, error) { return supersede(record), nil }
	var err error
	d := c.ownAgain(ctx, s, progress)
	if d == nil {
		d, err = c.own(ctx, s, ask, progress)
	}
	if apierrors.IsNotFound(err) { // there is no such namespace
		if err := c.ensureNamespace(ctx, request); err != nil {
			return Result{}, err
		}
		d, err = c.own(ctx, s, ask, progress)
	}
	if err != nil {
		return Result{}, err
	}
	defer d.close()
	if d.record.Live() {
		mine := sameWork(d.record.Current, request)
		if !mine {
			d.record.Command = supersede(d.record)
		}
		d.parting = mine
		if err := d.finishCurrent(ctx, nil); err != nil {
			return Result{}, err
		}
		if mine {
			return resultOf(*d.record.Current)
		}
	}
	if done := d.record.already(request); done != nil {
		result, err := resultOf(*done)
		result.Unchanged = err == nil && (request.RunID == "" || done.RunID != request.RunID)
		return result, err
	}
	if err := d.begin(ctx, request, ""); err != nil {
		return Result{}, err
	}
	d.parting = true
	if err := d.finishCurrent(ctx, nil); err != nil {
		return Result{}, err
	}
	return resultOf(*d.record.Current)
}

// sameWork tells whether r is the rollout that the request asks for.
func sameWork(r *Rollout, request Request) bool {
	return r != nil && r.Digest == request.Release.Digest && r.RunID == request.RunID && r.RollbackTo == 0
}

// already finds the ended rollout that makes the request needless: the same
// run's, or one of the same release that serves and is verified.
func (r *Record) already(request Request) *Rollout {
	if request.RunID != "" && sameWork(r.Current, request) {
		return r.Current
	}
	if r.Stable != r.Verified || r.Verified == 0 || request.Force {
		return nil // with Force, drift is to be put right
	}
	if serving := r.Revision(r.Verified); serving != nil && serving.Digest == request.Release.Digest {
		return serving
	}
	return nil
}

func (r Request) describe() string {
	text := orUnknown(r.By)
	if r.Commit != "" {
		text += " (commit " + r.Commit[:min(len(r.Commit), 10)] + ")"
	}
	return text
}

func resultOf(r Rollout) (Result, error) {
	result := Result{Rollout: r}
	switch {
	case r.State == Verified:
		return result, nil
	case r.State == Superseded:
		return result, fmt.Errorf("%w: %s", ErrSuperseded, r.Sentence())
	case r.Ending == EndedByAbort:
		return result, fmt.Errorf("%w: %s", ErrAborted, r.Sentence())
	case r.Failure != nil && r.Failure.Reason == ManifestRejected:
		return result, fmt.Errorf("%w: %s", ErrRejected, r.Sentence())
	}
	return result, fmt.Errorf("%w: %s", ErrFailed, r.Sentence())
}

// Continue drives the rollout that is under way, for instance after the process
// that did has died, and returns like Start. It waits for a live owner's lease.
func (c *Controller) Continue(ctx context.Context, target Target, progress func(Progress)) (Result, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	s := c.store(target)
	d, err := c.own(ctx, s, nil, progress)
	if err != nil {
		return Result{}, err
	}
	defer d.close()
	if d.record.Current == nil {
		return Result{}, fmt.Errorf("%w: %s in namespace %s", ErrNotFound, target.App, target.Namespace)
	}
	d.parting = true
	if err := d.finishCurrent(ctx, nil); err != nil {
		return Result{}, err
	}
	return resultOf(*d.record.Current)
}

// Status returns the record, and who drives it now ("" when nobody does).
func (c *Controller) Status(ctx context.Context, target Target) (*Record, string, error) {
	s := c.store(target)
	record, version, err := s.load(ctx)
	if err != nil {
		return nil, "", err
	}
	if version == "" || record.empty() {
		return nil, "", fmt.Errorf("%w: %s in namespace %s", ErrNotFound, target.App, target.Namespace)
	}
	owner, err := s.owner(ctx, record, c.clock())
	return record, owner, err
}

// History lists the rollouts that the record remembers, newest first.
func (c *Controller) History(ctx context.Context, target Target) ([]Rollout, error) {
	record, _, err := c.Status(ctx, target)
	if err != nil {
		return nil, err
	}
	rollouts := slices.Clone(record.History)
	if record.Live() {
		rollouts = slices.Insert(rollouts, 0, *record.Current)
	}
	return rollouts, nil
}

// List returns the records of a namespace, or of all with "".
func (c *Controller) List(ctx context.Context, namespace string) ([]Record, error) {
	var records []Record
	err := c.clients.retry(ctx, "listing applications", func(ctx context.Context) error {
		list, err := c.clients.kube.CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{LabelSelector: labelRecord + "=true"})
		if err != nil {
			return err
		}
		records = nil
		for i := range list.Items {
			record, err := decodeRecord(&list.Items[i])
			if err != nil {
				return err
			}
			if !record.empty() {
				records = append(records, *record)
			}
		}
		return nil
	})
	return records, err
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// finishCurrent drives the current rollout until it has ended or done says so.
func (d *driver) finishCurrent(ctx context.Context, done func(*Record) bool) error {
	r := d.record.Current
	if r.State.Final() && d.record.Command == nil {
		return nil
	}
	var err error
	if d.release == nil || d.release.Digest != r.Digest {
		if d.release, d.jobs, err = d.store.releaseWithJobs(ctx, r.Revision); err != nil {
			return err
		}
	}
	if r.Base == 0 {
		d.base = nil
	} else if d.base == nil || d.base.Digest != d.record.digest(r.Base) {
		if d.base, err = d.store.release(ctx, r.Base); err != nil {
			return err
		}
	}
	watch, err := d.observe(ctx, len(r.Services) > 0, d.release, d.base)
	if err != nil {
		return err
	}
	if d.watch != nil { // only now, so that informers which both use go on
		d.watch.stop()
	}
	d.watch = watch
	if err := d.watch.follow(ctx, r); err != nil {
		return err
	}
	return d.run(ctx, done)
}

// ensureNamespace creates the target namespace if the release itself brings it;
// otherwise it must exist.
func (c *Controller) ensureNamespace(ctx context.Context, request Request) error {
	return c.clients.retry(ctx, "looking for the namespace", func(ctx context.Context) error {
		_, err := c.clients.kube.CoreV1().Namespaces().Get(ctx, request.Namespace, metav1.GetOptions{})
		if apierrors.IsForbidden(err) {
			return nil // may work in it all the same
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
		for _, u := range request.Release.Objects {
			if u.GetKind() == "Namespace" && u.GetName() == request.Namespace {
				_, err := c.clients.apply(ctx, manifest.Stamped(u, request.App, 0, request.Release.Digest), FieldManager, true, false)
				return err
			}
		}
		return fmt.Errorf("%w: namespace %s does not exist; create it, or add it to the manifests", ErrInvalid, request.Namespace)
	})
}
