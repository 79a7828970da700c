package waves

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate-ci/tidegate/rollout"
)

// Controller is what a cluster is moved by: a rollout.Controller.
type Controller interface {
	Status(ctx context.Context, target rollout.Target) (*rollout.Record, string, error)
	Start(ctx context.Context, request rollout.Request, progress func(rollout.Progress)) (rollout.Result, error)
	Continue(ctx context.Context, target rollout.Target, progress func(rollout.Progress)) (rollout.Result, error)
	AbortRevision(ctx context.Context, target rollout.Target, revision int, by string, progress func(rollout.Progress)) (rollout.Reply, error)
	ForceRollback(ctx context.Context, target rollout.Target, to int, by string, progress func(rollout.Progress)) (rollout.Result, error)
	Hold(ctx context.Context, target rollout.Target, revision int, until time.Time) error
}

// Cluster is one to be moved, with the release as it is rendered for it.
type Cluster struct {
	Name       string
	Controller Controller
	Request    rollout.Request
}

// Progress is what happens, in which cluster; none for what concerns all.
type Progress struct {
	Cluster string
	rollout.Progress
}

// Result is how each cluster ended, by name.
type Result map[string]rollout.Rollout

// deploy is one under way.
type deploy struct {
	plan     Plan
	clusters map[string]Cluster
	by       string
	progress func(Progress)

	mu     sync.Mutex
	result Result
	// failure is the first error of a rollout in this process, which tells more
	// than its record: whether a manifest was rejected, say.
	failure error
	// unwell are clusters that could not begin, or did not stay well while they
	// were held, and why: their records don't say it.
	unwell map[string]string
}

// Run moves the clusters and returns when all are verified, or what this deploy
// moved has been taken back (then the error wraps the rollout package's). All
// clusters are in the plan, and their requests have the same RunID, which is
// not empty. When ctx ends, Run leaves everything as it is; Run with the same
// arguments goes on, in this process or another.
func Run(ctx context.Context, plan Plan, clusters []Cluster, progress func(Progress)) (Result, error) {
	return run(ctx, plan, clusters, "", progress)
}

// GiveUp takes back what a deploy has moved, for the reason given.
func GiveUp(ctx context.Context, plan Plan, clusters []Cluster, why string, progress func(Progress)) (Result, error) {
	return run(ctx, plan, clusters, why, progress)
}

func run(ctx context.Context, plan Plan, clusters []Cluster, unwanted string, progress func(Progress)) (Result, error) {
	if err := plan.Check(); err != nil {
		return nil, err
	}
	d := &deploy{plan: plan, clusters: map[string]Cluster{}, result: Result{}, unwell: map[string]string{}, progress: progress}
	for _, c := range clusters {
		d.clusters[c.Name], d.by = c, c.Request.By
		if c.Request.RunID == "" {
			return nil, fmt.Errorf("%w: a deploy to several clusters needs a run", rollout.ErrInvalid)
		}
	}
	for _, name := range plan.clusters() {
		if _, known := d.clusters[name]; !known {
			return nil, fmt.Errorf("%w: cluster %s is in a wave and not known", rollout.ErrInvalid, name)
		}
	}
	for {
		seen, err := d.look(ctx)
		if err != nil {
			return d.result, err
		}
		next := Decide(plan, seen, unwanted)
		switch next.Kind {
		case Done:
			return d.result, nil
		case Lost:
			return d.result, fmt.Errorf("%w: %s", rollout.ErrSuperseded, next.Why)
		case GaveUp:
			return d.result, d.gaveUp(unwanted, next.Why)
		case Abort:
			err = d.each(ctx, next.Clusters, d.abort(seen, next.Why))
		case TakeBack:
			err = d.each(ctx, next.Clusters, d.takeBack(seen, next.Why))
		case Start:
			err = d.start(ctx, next, seen)
		}
		if err != nil {
			return d.result, err
		}
	}
}

// gaveUp is the error of a deploy that was given up.
func (d *deploy) gaveUp(unwanted, why string) error {
	kind := rollout.ErrFailed
	for _, known := range []error{rollout.ErrAborted, rollout.ErrRejected, rollout.ErrRefused, rollout.ErrInvalid} {
		if errors.Is(d.failure, known) {
			kind = known
		}
	}
	if unwanted != "" {
		kind = rollout.ErrAborted
	}
	return fmt.Errorf("%w: %s", kind, why)
}

// look reads all records. A cluster that can't be read stops the deploy where it
// is: nothing is decided from half of what there is.
func (d *deploy) look(ctx context.Context) (map[string]Seen, error) {
	seen := map[string]Seen{}
	err := d.each(ctx, d.plan.clusters(), func(ctx context.Context, c Cluster) error {
		record, _, err := c.Controller.Status(ctx, c.target())
		if err != nil && !errors.Is(err, rollout.ErrNotFound) {
			return err
		}
		s := See(record, c.Request.RunID, c.Request.Release.Digest)
		d.mu.Lock()
		defer d.mu.Unlock()
		if why, unwell := d.unwell[c.Name]; unwell && s.Phase != Overtaken {
			if s.Why = why; s.Phase != Returning {
				s.Phase = Failed
			}
		}
		if record != nil {
			if r := record.Revision(s.Revision); r != nil {
				d.result[c.Name] = *r
			}
		}
		seen[c.Name] = s
		return nil
	})
	return seen, err
}

func (c Cluster) target() rollout.Target {
	return rollout.Target{App: c.Request.App, Namespace: c.Request.Namespace}
}

// each does something in several clusters at once, and waits for all of them.
func (d *deploy) each(ctx context.Context, names []string, do func(context.Context, Cluster) error) error {
	var group errgroup.Group
	for _, name := range names {
		c := d.clusters[name]
		group.Go(func() error {
			if err := do(ctx, c); err != nil {
				return fmt.Errorf("cluster %s: %w", c.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (d *deploy) tell(c Cluster) func(rollout.Progress) {
	return func(p rollout.Progress) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.progress(Progress{Cluster: c.Name, Progress: p})
	}
}

// say tells what concerns more than one cluster; held, that time passes as planned.
func (d *deploy) say(held bool, format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.progress(Progress{Progress: rollout.Progress{Message: fmt.Sprintf(format, args...), Held: held}})
}

// abort takes a rollout that is under way back, and waits until it is.
func (d *deploy) abort(seen map[string]Seen, why string) func(context.Context, Cluster) error {
	return func(ctx context.Context, c Cluster) error {
		d.say(false, "taking back what is under way in %s: %s", c.Name, why)
		_, err := c.Controller.AbortRevision(ctx, c.target(), seen[c.Name].Revision, d.by, d.tell(c))
		if err != nil && !errors.Is(err, rollout.ErrRefused) { // refused: it has just passed, and is looked at again
			return ended(err)
		}
		return d.finish(ctx, c, seen[c.Name].Revision)
	}
}

// finish waits for the end of a rollout that another process may drive.
func (d *deploy) finish(ctx context.Context, c Cluster, revision int) error {
	record, _, err := c.Controller.Status(ctx, c.target())
	if err != nil || !record.Live() || record.Current.Revision != revision {
		return err
	}
	_, err = c.Controller.Continue(ctx, c.target(), d.tell(c))
	return ended(err)
}

// takeBack returns a cluster to what it ran before the deploy.
func (d *deploy) takeBack(seen map[string]Seen, why string) func(context.Context, Cluster) error {
	return func(ctx context.Context, c Cluster) error {
		s := seen[c.Name]
		d.say(false, "taking %s back to revision %d: %s", c.Name, s.Base, why)
		if s.Phase == Returning {
			_, err := c.Controller.Continue(ctx, c.target(), d.tell(c))
			return ended(err)
		}
		_, err := c.Controller.ForceRollback(ctx, c.target(), s.Base, d.by, d.tell(c))
		return ended(err)
	}
}

// ended takes the end of a rollout, whatever it was, for no error: the record says it.
func ended(err error) error {
	for _, end := range []error{rollout.ErrFailed, rollout.ErrAborted, rollout.ErrSuperseded, rollout.ErrRejected} {
		if errors.Is(err, end) {
			return nil
		}
	}
	return err
}

// start holds the clusters that have moved, and then moves those of a wave.
func (d *deploy) start(ctx context.Context, next Next, seen map[string]Seen) error {
	if len(next.Earlier) > 0 {
		if well, err := d.hold(ctx, next, seen); !well || err != nil {
			return err
		}
	}
	if len(d.plan.Waves) > 1 {
		d.say(false, "wave %d of %d: %s", next.Wave+1, len(d.plan.Waves), strings.Join(next.Clusters, ", "))
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	w := &wave{deploy: d, next: next, fail: fail, entered: make(chan struct{})}
	if !next.Asks {
		w.enter()
	}
	return d.each(ctx, next.Clusters, w.move)
}

// hold watches the earlier clusters and tells whether they have stayed well.
// One that has not is taken back at once: from then on its record tells everyone
// that this deploy has failed.
func (d *deploy) hold(ctx context.Context, next Next, seen map[string]Seen) (bool, error) {
	if d.plan.Hold > 0 {
		d.say(true, "holding %s until %s before wave %d of %d", strings.Join(next.Earlier, ", "), next.Until.UTC().Format("15:04:05 MST"), next.Wave+1, len(d.plan.Waves))
	}
	watched, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var back []string
	err := d.each(watched, next.Earlier, func(ctx context.Context, c Cluster) error {
		err := c.Controller.Hold(ctx, c.target(), seen[c.Name].Revision, next.Until)
		switch {
		case err == nil || errors.Is(context.Cause(ctx), errUnwell):
			return nil
		case !errors.Is(err, rollout.ErrFailed) && !errors.Is(err, rollout.ErrSuperseded):
			return err
		}
		d.say(false, "cluster %s did not stay well: %s", c.Name, err)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.unwell[c.Name] = err.Error()
		if s := seen[c.Name]; s.Mine && s.Base != 0 && errors.Is(err, rollout.ErrFailed) {
			back = append(back, c.Name)
		}
		stop(errUnwell)
		return nil
	})
	if err != nil || !errors.Is(context.Cause(watched), errUnwell) {
		return err == nil, err
	}
	return false, d.each(ctx, back, d.takeBack(seen, "it did not stay well"))
}

// Why the clusters of a wave, or those that are held, are left alone: another
// one of them has failed, and what is next is decided anew.
var (
	errUnwell     = errors.New("another cluster did not stay well")
	errWaveFailed = errors.New("another cluster of the wave failed")
)

// wave is the moving of one.
type wave struct {
	*deploy
	next    Next
	fail    context.CancelCauseFunc // lets go of the other clusters
	enterer sync.Once
	entered chan struct{} // closed when someone has let it begin, or nobody had to
}

func (w *wave) enter() { w.enterer.Do(func() { close(w.entered) }) }

// move moves one cluster. Of a wave that has to be let in, the first asks, and
// the others wait for its answer.
func (w *wave) move(ctx context.Context, c Cluster) error {
	request := c.Request
	if w.next.Asks && c.Name == w.next.Clusters[0] {
		approval := *w.plan.Approval
		approval.Message = fmt.Sprintf("wave %d of %d (%s)", w.next.Wave+1, len(w.plan.Waves), strings.Join(w.next.Clusters, ", "))
		if said := w.plan.Approval.Message; said != "" {
			approval.Message += ": " + said
		}
		request.Entry, request.EntryTimeout = &approval, w.plan.ApprovalTimeout
	} else {
		select {
		case <-ctx.Done():
			return w.letGo(ctx)
		case <-w.entered:
		}
	}
	tell := w.tell(c)
	result, err := c.Controller.Start(ctx, request, func(p rollout.Progress) {
		if p.State != rollout.Pending {
			w.enter()
		}
		tell(p)
	})
	if err != nil && ctx.Err() != nil {
		return w.letGo(ctx)
	}
	if err == nil {
		w.enter() // it may have run the release already
	} else {
		w.fail(errWaveFailed)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if result.Rollout.Revision != 0 {
		w.result[c.Name] = result.Rollout
	}
	if err != nil && w.failure == nil {
		w.failure = err
	}
	if errors.Is(err, rollout.ErrInvalid) || errors.Is(err, rollout.ErrRefused) {
		w.unwell[c.Name] = err.Error() // no record tells of it
		return nil
	}
	return ended(err)
}

// letGo is no error when another cluster's failure is the cause: what was begun
// here is taken back with it.
func (w *wave) letGo(ctx context.Context) error {
	if cause := context.Cause(ctx); !errors.Is(cause, errWaveFailed) {
		return cause
	}
	return nil
}
