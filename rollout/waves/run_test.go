package waves

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// world is a few clusters whose rollouts end as the test says.
type world struct {
	mu      sync.Mutex
	records map[string]*rollout.Record
	said    []string
	ends    map[string]rollout.State // Verified when not said
	errs    map[string]error         // of Start, before anything begins
	unwell  map[string]error         // of Hold
	blocked map[string]chan struct{} // Start waits for it
	approve chan rollout.State       // what the entry is answered with: Rolling or Failed
	waiting chan string              // a cluster that waits in Start, or for its entry
	stuck   map[string]bool          // a rollback fails
}

func newWorld(serving ...string) *world {
	w := &world{records: map[string]*rollout.Record{}, ends: map[string]rollout.State{}, errs: map[string]error{}, unwell: map[string]error{}, blocked: map[string]chan struct{}{},
		approve: make(chan rollout.State, 1), waiting: make(chan string, 10), stuck: map[string]bool{}}
	for _, name := range serving {
		w.records[name] = &rollout.Record{Revisions: 1, Verified: 1, Stable: 1, Current: &rollout.Rollout{Revision: 1, Digest: "before", State: rollout.Verified}}
		w.records[name].History = []rollout.Rollout{*w.records[name].Current}
	}
	return w
}

func (w *world) say(format string, args ...any) {
	w.said = append(w.said, fmt.Sprintf(format, args...))
}

func (w *world) clusters(names ...string) []Cluster {
	var all []Cluster
	for _, name := range names {
		all = append(all, Cluster{Name: name, Controller: fake{w, name}, Request: rollout.Request{App: "shop", Namespace: name, RunID: "run", By: "ann", Release: &manifest.Release{Digest: "new"}}})
	}
	return all
}

// fake is the controller of one cluster of the world.
type fake struct {
	*world
	name string
}

func (f fake) Status(context.Context, rollout.Target) (*rollout.Record, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	record := f.records[f.name]
	if record == nil {
		return nil, "", rollout.ErrNotFound
	}
	copied := *record
	current := *record.Current
	copied.Current, copied.History = &current, slices.Clone(record.History)
	return &copied, "", nil
}

// begin makes a rollout the current one.
func (f fake) begin(r rollout.Rollout) *rollout.Rollout {
	record := f.records[f.name]
	if record == nil {
		record = &rollout.Record{}
		f.records[f.name] = record
	}
	record.Revisions++
	r.Revision, r.Base = record.Revisions, record.Verified
	record.Current = &r
	return &r
}

// end puts the current rollout into the history.
func (f fake) end(state rollout.State) {
	record := f.records[f.name]
	r := record.Current
	r.State, r.Finished = state, noon
	if state == rollout.Verified {
		record.Verified, record.Stable = r.Revision, r.Revision
	}
	record.History = slices.Insert(record.History, 0, *r)
}

func (f fake) Start(ctx context.Context, request rollout.Request, progress func(rollout.Progress)) (rollout.Result, error) {
	f.mu.Lock()
	if err := f.errs[f.name]; err != nil {
		f.mu.Unlock()
		return rollout.Result{}, err
	}
	var r *rollout.Rollout
	if record := f.records[f.name]; record != nil && record.Current.RunID == request.RunID {
		r = record.Current // goes on
		if r.State.Final() {
			defer f.mu.Unlock()
			return rollout.Result{Rollout: *r}, nil
		}
		f.say("%s goes on", f.name)
	} else {
		r = f.begin(rollout.Rollout{RunID: request.RunID, Digest: request.Release.Digest, State: rollout.Pending})
		f.say("%s starts", f.name)
	}
	pending, blocked := r.State == rollout.Pending, f.blocked[f.name]
	f.mu.Unlock()
	if pending && request.Entry != nil {
		progress(rollout.Progress{Revision: r.Revision, State: rollout.Pending, Held: true, Message: request.Entry.Message})
		f.waiting <- f.name
		select {
		case answer := <-f.approve:
			if answer == rollout.Failed {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.end(rollout.Failed)
				return rollout.Result{Rollout: *r}, rollout.ErrFailed
			}
		case <-ctx.Done():
			return rollout.Result{}, context.Cause(ctx)
		}
	}
	f.mu.Lock()
	r.State = rollout.Rolling
	f.mu.Unlock()
	progress(rollout.Progress{Revision: r.Revision, State: rollout.Rolling})
	if blocked != nil {
		f.waiting <- f.name
		select {
		case <-blocked:
		case <-ctx.Done():
			return rollout.Result{}, context.Cause(ctx)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	state := f.ends[f.name]
	if state == "" {
		state = rollout.Verified
	}
	f.end(state)
	switch state {
	case rollout.Verified:
		return rollout.Result{Rollout: *r}, nil
	case rollout.Superseded:
		return rollout.Result{Rollout: *r}, rollout.ErrSuperseded
	}
	return rollout.Result{Rollout: *r}, fmt.Errorf("%w: as told", rollout.ErrFailed)
}

func (f fake) AbortRevision(_ context.Context, _ rollout.Target, revision int, _ string, _ func(rollout.Progress)) (rollout.Reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.records[f.name].Current; r.Revision != revision || r.State.Final() {
		return rollout.Reply{}, rollout.ErrRefused
	}
	f.say("%s aborted", f.name)
	f.end(rollout.RolledBack)
	return rollout.Reply{Accepted: true}, nil
}

func (f fake) Continue(context.Context, rollout.Target, func(rollout.Progress)) (rollout.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.say("%s continued", f.name)
	if !f.records[f.name].Current.State.Final() {
		f.end(rollout.Verified)
	}
	return rollout.Result{}, nil
}

func (f fake) ForceRollback(_ context.Context, _ rollout.Target, to int, _ string, _ func(rollout.Progress)) (rollout.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.say("%s back to %d", f.name, to)
	f.begin(rollout.Rollout{RollbackTo: to, Digest: "before", State: rollout.Pending})
	if f.stuck[f.name] {
		f.end(rollout.Failed)
		return rollout.Result{}, rollout.ErrFailed
	}
	f.end(rollout.Verified)
	return rollout.Result{}, nil
}

func (f fake) Hold(ctx context.Context, _ rollout.Target, _ int, _ time.Time) error {
	f.mu.Lock()
	err := f.unwell[f.name]
	f.say("%s held", f.name)
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func quiet(Progress) {}

var three = Plan{Waves: [][]string{{"a"}, {"b", "c"}}}

func TestWaveAfterWave(t *testing.T) {
	w := newWorld("a", "b", "c")
	result, err := Run(t.Context(), three, w.clusters("a", "b", "c"), quiet)
	require.NoError(t, err)
	require.Len(t, result, 3)
	require.Equal(t, []string{"a starts", "a held"}, w.said[:2])
	require.ElementsMatch(t, []string{"b starts", "c starts"}, w.said[2:])
	w.said = nil
	_, err = Run(t.Context(), three, w.clusters("a", "b", "c"), quiet)
	require.NoError(t, err)
	require.Empty(t, w.said, "again is no matter")
}

func TestAFailedWaveTakesTheEarlierOnesBack(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.ends["b"] = rollout.RolledBack
	w.blocked["c"] = make(chan struct{})
	w.blocked["b"] = make(chan struct{})
	go func() { // both are under way when b fails
		for range 2 {
			<-w.waiting
		}
		close(w.blocked["b"])
	}()
	result, err := Run(t.Context(), three, w.clusters("a", "b", "c"), quiet)
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.ErrorContains(t, err, "cluster b")
	require.Equal(t, []string{"c aborted", "a back to 1"}, w.said[len(w.said)-2:])
	require.Equal(t, rollout.RolledBack, result["b"].State)

	w = newWorld("a", "b", "c")
	w.ends["b"] = rollout.RolledBack
	stop := three
	stop.KeepEarlier = true
	_, err = Run(t.Context(), stop, w.clusters("a", "b", "c"), quiet)
	require.ErrorContains(t, err, "it stays in a")
	require.NotContains(t, strings.Join(w.said, "\n"), "a back")
}

func TestAClusterThatDoesNotStayWellIsTakenBackFirst(t *testing.T) {
	w := newWorld("a", "b", "c", "d")
	w.unwell["b"] = fmt.Errorf("%w after it was verified: it crashes", rollout.ErrFailed)
	_, err := Run(t.Context(), Plan{Waves: [][]string{{"a", "b"}, {"c"}}, Hold: time.Hour}, w.clusters("a", "b", "c"), quiet)
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.ErrorContains(t, err, "it crashes")
	require.Equal(t, []string{"b back to 1", "a back to 1"}, w.said[len(w.said)-2:])
	require.NotContains(t, w.said, "c starts")
}

func TestAWaveIsLetIn(t *testing.T) {
	plan := three
	plan.Approval = &rollout.ApprovalGate{From: []string{"ops"}}
	for answer, want := range map[rollout.State]error{rollout.Rolling: nil, rollout.Failed: rollout.ErrFailed} {
		w := newWorld("a", "b", "c")
		go func() {
			if first := <-w.waiting; first != "b" {
				t.Errorf("%s asks", first)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if slices.Contains(w.said, "c starts") {
				t.Error("c began before anybody had let the wave in")
			}
			w.approve <- answer
		}()
		held := false
		_, err := Run(t.Context(), plan, w.clusters("a", "b", "c"), func(p Progress) { held = held || p.Held && strings.Contains(p.Message, "wave 2 of 2 (b, c)") })
		require.ErrorIs(t, err, want)
		require.True(t, held, "and whoever asks is told")
		require.Equal(t, want == nil, slices.Contains(w.said, "c starts"))
		require.Equal(t, want != nil, slices.Contains(w.said, "a back to 1"))
	}
}

// What a process left is seen through by the next one, from wherever it was.
func TestGoesOnAfterACrash(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.blocked["b"] = make(chan struct{})
	ctx, kill := context.WithCancelCause(t.Context())
	killed := errors.New("killed")
	go func() { <-w.waiting; kill(killed) }()
	_, err := Run(ctx, Plan{Waves: [][]string{{"a"}, {"b"}, {"c"}}}, w.clusters("a", "b", "c"), quiet)
	require.ErrorIs(t, err, killed)
	require.Equal(t, []string{"a starts", "a held", "b starts"}, w.said, "and nothing was taken back")
	delete(w.blocked, "b")
	w.said = nil
	_, err = Run(t.Context(), Plan{Waves: [][]string{{"a"}, {"b"}, {"c"}}}, w.clusters("a", "b", "c"), quiet)
	require.NoError(t, err)
	require.Equal(t, "b goes on", w.said[0])
	require.Equal(t, "c starts", w.said[len(w.said)-1])

	// It died as it took back: a has been, b has not.
	w = newWorld("a", "b", "c")
	_, err = Run(t.Context(), Plan{Waves: [][]string{{"a"}, {"b"}}}, w.clusters("a", "b"), quiet)
	require.NoError(t, err)
	_, err = fake{w, "a"}.ForceRollback(t.Context(), rollout.Target{}, 1, "ann", nil)
	require.NoError(t, err)
	w.said = nil
	_, err = Run(t.Context(), Plan{Waves: [][]string{{"a"}, {"b"}, {"c"}}}, w.clusters("a", "b", "c"), quiet)
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, []string{"b back to 1"}, w.said)
}

func TestGiveUp(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.blocked["b"] = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-w.waiting; cancel() }()
	clusters := w.clusters("a", "b", "c")
	_, err := Run(ctx, three, clusters, quiet)
	require.ErrorIs(t, err, context.Canceled)
	_, err = GiveUp(t.Context(), three, clusters, "the run was cancelled", quiet)
	require.ErrorIs(t, err, rollout.ErrAborted)
	for _, name := range []string{"a", "b", "c"} {
		record := w.records[name]
		require.True(t, record.Current.State.Final(), name)
		require.Equal(t, "before", record.Revision(record.Verified).Digest, name)
	}
}

func TestWhatNoRecordTells(t *testing.T) {
	w := newWorld("a")
	w.errs["b"] = fmt.Errorf("%w: there is no namespace b", rollout.ErrInvalid)
	_, err := Run(t.Context(), Plan{Waves: [][]string{{"a"}, {"b"}}}, w.clusters("a", "b"), quiet)
	require.ErrorIs(t, err, rollout.ErrInvalid)
	require.ErrorContains(t, err, "no namespace b")
	require.Contains(t, w.said, "a back to 1", "it can never get there")

	w = newWorld("a")
	w.errs["b"] = errors.New("the API server does not answer")
	_, err = Run(t.Context(), Plan{Waves: [][]string{{"a"}, {"b"}}}, w.clusters("a", "b"), quiet)
	require.ErrorContains(t, err, "cluster b: the API server does not answer")
	require.NotContains(t, w.said, "a back to 1", "it may, later")
}

func TestANewerReleaseIsLeftAlone(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.ends["b"] = rollout.Superseded
	_, err := Run(t.Context(), Plan{Waves: [][]string{{"a"}, {"b"}, {"c"}}}, w.clusters("a", "b", "c"), quiet)
	require.ErrorIs(t, err, rollout.ErrSuperseded)
	require.Equal(t, []string{"a starts", "a held", "b starts"}, w.said)
}
