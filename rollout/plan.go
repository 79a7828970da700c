package rollout

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Plan is what a rollout would do if nothing fails.
type Plan struct {
	Target
	// Revision is the number that it would get; Base the one to go back to, 0 for none.
	Revision int      `json:"revision"`
	Base     int      `json:"base,omitempty"`
	Release  string   `json:"release"`
	Strategy Strategy `json:"strategy"`
	Images   []string `json:"images,omitempty"`
	Note     string   `json:"note,omitempty"`
	// Supersedes is the revision under way that would have to make way; 0 for none.
	Supersedes int `json:"supersedes,omitempty"`
	// Held says why, and until when, a freeze window would hold it.
	Held string `json:"held,omitempty"`
	// Unchanged is true when this very release serves and is verified: nothing would be done.
	Unchanged bool          `json:"unchanged,omitempty"`
	Steps     []PlannedStep `json:"steps,omitempty"`
	// Earliest is how long it takes at least, without the time that pods need to start.
	Earliest time.Duration `json:"earliest"`
}

// PlannedStep is one state of the rollout, or one step of its strategy.
type PlannedStep struct {
	State State `json:"state"`
	Step  int   `json:"step,omitempty"`
	// Wave counts from 1; 0 when the release has but one.
	Wave int `json:"wave,omitempty"`
	// After is when it begins at the earliest, from the start.
	After  time.Duration  `json:"after"`
	What   []string       `json:"what,omitempty"`
	Writes []PlannedWrite `json:"writes,omitempty"`
	// Gates are what must pass before the next step.
	Gates []string `json:"gates,omitempty"`
}

// What a write does.
const (
	WriteCreate = "create"
	WriteChange = "change"
	WriteNone   = "unchanged" // applied, and nothing becomes different
	WriteDelete = "delete"
	WriteAdmit  = "admit" // a pod is let into its Services
)

// PlannedWrite is one write to the API server.
type PlannedWrite struct {
	Verb string `json:"verb"`
	manifest.Ref
	Changes []manifest.Change `json:"changes,omitempty"`
	// Note says more; Refused is why the API server would not accept it.
	Note    string `json:"note,omitempty"`
	Refused string `json:"refused,omitempty"`
}

// Refused tells whether the API server would refuse a write.
func (p *Plan) Refused() bool {
	for _, step := range p.Steps {
		for _, write := range step.Writes {
			if write.Refused != "" {
				return true
			}
		}
	}
	return false
}

// Plan tells what Start would do with the request: every step with its gates,
// and every write, tried by the API server's dry run. It changes nothing, takes
// no lease, and needs the rights that Start needs.
func (c *Controller) Plan(ctx context.Context, request Request) (*Plan, error) {
	if err := request.check(); err != nil {
		return nil, err
	}
	s := c.store(Target{request.App, request.Namespace})
	record, version, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	p := &Plan{Target: Target{request.App, request.Namespace}, Release: request.Release.Digest, Strategy: request.Strategy,
		Images: manifest.Images(request.Release.Objects), Base: record.Verified}
	if record.Live() {
		p.Supersedes = record.Current.Revision
	} else if done := record.already(request); done != nil {
		p.Unchanged, p.Revision = true, done.Revision
		return p, nil
	}
	known := map[int]bool{}
	for _, r := range record.History {
		known[r.Revision] = true
	}
	d := &driver{store: s, record: record, clock: c.clock, release: request.Release}
	findings, err := d.tryAll(ctx, request)
	if err != nil {
		return nil, err
	}
	now := c.clock()
	r := request.rollout(now)
	r.takeOver(request.Release, findings)
	if r.Freeze = request.Freeze; r.Freeze == nil {
		r.Freeze = record.Freeze
	}
	// A rollout under way would have ended by then.
	record.Current = nil
	if record.Verified == 0 {
		adopted, release, err := d.adoption(request, findings)
		if err != nil {
			return nil, err
		}
		if adopted != nil {
			record.Revisions++
			adopted.Revision, record.Stable, record.Current = record.Revisions, record.Revisions, adopted
			record.finish()
			d.base = release
		}
	} else if d.base, err = s.release(ctx, record.Verified); err != nil {
		return nil, err
	}
	if err := d.choose(request, r, []string{takenOver(request.Release, findings)}); err != nil {
		return nil, err
	}
	if err := d.chooseRoutes(ctx, r); err != nil {
		return nil, err
	}
	if err := d.tryRoutes(ctx, r); err != nil {
		return nil, err
	}
	r.Revision = record.Revisions + 1
	record.Revisions, record.Current = r.Revision, r
	p.Revision, p.Base, p.Strategy, p.Note = r.Revision, r.Base, r.Strategy, r.Note
	if a, held := r.held(now); held {
		p.Held = a.Why
	}
	r.Freeze = nil // told; what follows is as if it were over, which it may never be
	scaled, err := s.scaledWorkloads(ctx, request.Release)
	if err != nil {
		return nil, err
	}
	if d.watch, err = d.observe(ctx, len(r.Services) > 0, d.release, d.base); err != nil {
		return nil, err
	}
	if err := d.watch.follow(ctx, r); err != nil {
		d.watch.stop()
		return nil, err
	}
	obs, err := d.watch.look(d.release, r, now)
	d.watch.stop()
	if err != nil {
		return nil, err
	}
	w := &writes{driver: d, scaled: scaled, try: s.try, live: s.get, seen: map[string]*unstructured.Unstructured{}}
	w.bookkeeping(version == "", r)
	if err := p.rehearse(ctx, w, expected(obs, request.Release), now); err != nil {
		return nil, err
	}
	for _, revision := range forgotten(known, record) {
		last := &p.Steps[len(p.Steps)-1]
		last.Writes = append(last.Writes, PlannedWrite{Verb: WriteDelete, Ref: s.releaseRef(revision), Note: "manifests of a revision that the history forgets"})
	}
	return p, nil
}

// rehearse plays the rollout and writes down its steps.
func (p *Plan) rehearse(ctx context.Context, w *writes, obs Observation, start time.Time) error {
	record := w.record
	p.Steps = append(p.Steps, PlannedStep{State: record.Current.State, Writes: w.kept})
	h := &rehearsal{record: record, release: w.release, base: w.base, obs: obs, now: start, baked: map[string]time.Time{}}
	h.see = func(a Action, at time.Time) error {
		r := record.Current
		step := &p.Steps[len(p.Steps)-1]
		wave := 0
		if len(r.Waves) > 0 {
			wave = r.Wave + 1
		}
		if step.State != r.State || step.Step != r.Step || step.Wave != wave && step.State != Pending {
			p.Steps = append(p.Steps, PlannedStep{State: r.State, Step: r.Step, Wave: wave, After: at.Sub(start)})
			step = &p.Steps[len(p.Steps)-1]
		}
		if a.Kind != Advance && a.Kind != Mark && a.Kind != Admit {
			step.What = append(step.What, a.Why)
		}
		if a.Kind == Prune {
			record.Inventory = merge(record.Inventory, w.release.Refs())
		}
		made, err := w.of(ctx, a)
		if err != nil {
			return err
		}
		step.Writes = append(step.Writes, made...)
		if a.Move != nil && a.Move.Proof != nil {
			step.Writes = append(step.Writes, w.gateJobs(r)...)
			for _, g := range append(a.Move.Proof.metrics, a.Move.Proof.gate) {
				step.Gates = append(step.Gates, r.requirement(g))
			}
		}
		return nil
	}
	if err := h.play(); err != nil {
		return err
	}
	p.Earliest = h.now.Sub(start)
	return nil
}

// requirement says what a gate, which passed in a rehearsal, asks for.
func (r *Rollout) requirement(g Gate) string {
	for i := range r.Strategy.Metrics {
		if m := &r.Strategy.Metrics[i]; g.Kind == "metric "+m.Name {
			return g.Kind + ": " + m.describe()
		}
	}
	for i := range r.Strategy.Checks {
		if c := &r.Strategy.Checks[i]; g.Kind == c.title() {
			return g.Kind + ": " + c.describe()
		}
	}
	for i := range r.Hooks {
		if g.Kind == r.Hooks[i].title() {
			return g.Kind + ": it must complete"
		}
	}
	return g.Kind + ": " + g.Evidence
}

// describe says in a few words what the gate asks for.
func (g *MetricGate) describe() string {
	text := fmt.Sprintf("at least %d of it", max(g.Minimum, 1))
	switch {
	case g.Query != "":
		text = fmt.Sprintf("%s, within %s and %s", g.Query, bound(g.Min, "any least"), bound(g.Max, "any most"))
	case g.Value != "":
		text = fmt.Sprintf("%s, against a fresh baseline", g.Value)
	default:
		text = fmt.Sprintf("%s of %s, against a fresh baseline, %s", g.Bad, g.Total, text)
	}
	return fmt.Sprintf("%s, looked at every %s", text, g.Interval)
}

func bound(value *float64, none string) string {
	if value == nil {
		return none
	}
	return fmt.Sprint(*value)
}

// expected fills in what the cluster does not show yet: workloads that the
// release creates have the replicas that it says.
func expected(obs Observation, release *manifest.Release) Observation {
	for i := range obs.Workloads {
		w := &obs.Workloads[i]
		if w.Exists {
			continue
		}
		if w.Replicas = 1; !manifest.IsWorkload(w.Ref) {
			continue
		}
		if n, ok, err := unstructured.NestedInt64(release.Find(w.Ref).Object, "spec", "replicas"); ok && err == nil {
			w.Replicas = int32(n)
		}
	}
	return obs
}

func merge(inventory, refs []manifest.Ref) []manifest.Ref {
	for _, ref := range refs {
		known := false
		for _, have := range inventory {
			known = known || have.Same(ref)
		}
		if !known {
			inventory = append(inventory, ref)
		}
	}
	return inventory
}

// forgotten lists the revisions that the history no longer has room for.
func forgotten(known map[int]bool, record *Record) []int {
	var gone []int
	for revision := range record.Revisions {
		if known[revision] && record.Revision(revision) == nil {
			gone = append(gone, revision)
		}
	}
	return gone
}
