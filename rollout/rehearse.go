package rollout

import (
	"fmt"
	"time"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// rehearsal plays a rollout through Decide itself, against a cluster in which
// everything turns out well at once. It makes no request. What it shows is
// therefore what would be done, as long as nothing fails.
type rehearsal struct {
	record        *Record
	release, base *manifest.Release
	obs           Observation
	now           time.Time
	// baked is when the pods of a stable workload count, by its name.
	baked map[string]time.Time
	// see is told of every action before it is done.
	see func(Action, time.Time) error
}

// maxRehearsed bounds the actions of a rehearsal: more than any strategy takes.
const maxRehearsed = 10_000

// play goes on until the rollout has ended.
func (h *rehearsal) play() error {
	for range maxRehearsed {
		r := h.record.Current
		h.settle()
		a := Decide(h.record, h.obs, h.now)
		if a.Kind == Wait {
			if r.State.Final() {
				return nil
			}
			if h.pass() {
				continue
			}
			if !a.Until.After(h.now) {
				return fmt.Errorf("%w: rehearsing the rollout: it would wait for something in state %s: %s", ErrInvalid, r.State, a.Why)
			}
			h.now = a.Until
			continue
		}
		if err := h.see(a, h.now); err != nil {
			return err
		}
		if err := h.do(a); err != nil {
			return err
		}
		if c := h.record.Current; c.State == RollingBack || c.State == Failed {
			return fmt.Errorf("%w: it would be taken back as things are: %s", ErrFailed, c.Failure.Message)
		}
	}
	return fmt.Errorf("%w: the rollout would take more than %d actions", ErrInvalid, maxRehearsed)
}

// settle lets the pods of stable workloads count once they have baked.
func (h *rehearsal) settle() {
	for i := range h.obs.Workloads {
		w := &h.obs.Workloads[i]
		at, ok := h.baked[w.Ref.Name]
		if !ok || !w.ReadySince.IsZero() {
			continue
		}
		if h.now.Before(at) {
			w.Health = health.Verdict{Status: health.Progressing, Reason: health.NotReady, Message: "baking", Desired: w.Replicas, Recheck: at}
			continue
		}
		w.Health = health.Verdict{Status: health.Ready, Message: "all pods available", Desired: w.Replicas, Ready: w.Replicas, Available: w.Replicas}
		w.ReadySince = h.now
	}
}

// pass lets every gate that is judged from outside pass, and tells whether there was one.
func (h *rehearsal) pass() bool {
	r, passed := h.record.Current, false
	if r.openEntry() {
		return r.put(Check{Gate: r.Entry.Name, Kind: r.Entry.Kind(), Outcome: analysis.Pass, Why: "rehearsed", At: h.now})
	}
	if r.StepReadyAt.IsZero() {
		return false
	}
	for _, g := range r.Strategy.Metrics {
		if r.analysisOf(g.Name) == nil {
			r.Analyses = append(r.Analyses, Analysis{Step: r.Step, Gate: g.Name, Verdict: analysis.Verdict{Outcome: analysis.Pass, Why: "rehearsed"}})
			passed = true
		}
	}
	for _, g := range r.present() {
		passed = r.put(Check{Step: r.Step, Gate: g.Name, Kind: g.Kind(), Outcome: analysis.Pass, Why: "rehearsed", At: h.now}) || passed
	}
	return passed
}

// do makes the action come true.
func (h *rehearsal) do(a Action) error {
	r := h.record.Current
	switch a.Kind {
	case Mark:
		if a.Ready {
			r.StepReadyAt = h.now
		}
		if a.Peak > r.Peak {
			r.Peak, r.LastProgress = a.Peak, h.now
		}
	case BeginHook:
		r.HookRuns = append(r.HookRuns, HookRun{Hook: a.Hook, Outcome: analysis.Pass, Why: "rehearsed", At: h.now})
	case ApplyRelease, ApplyWorkload:
		for i := range h.obs.Workloads {
			if w := &h.obs.Workloads[i]; a.Kind == ApplyRelease && (len(r.Waves) == 0 || r.waveOf(w.Ref) == r.Wave) || w.Ref.Same(a.Ref) {
				h.written(w, r.Digest, a)
			}
		}
		if a.Kind == ApplyRelease {
			h.pointed(nil, a)
		}
	case ApplyBase:
		for i := range h.obs.Workloads {
			h.written(&h.obs.Workloads[i], h.record.digest(r.Base), a)
		}
		h.pointed(nil, a)
		r.Restored, h.record.Stable = true, r.Base
	case PointService:
		h.pointed(&a.Ref, a)
	case ScaleCanary:
		digest := r.Digest
		if a.Track == BaselineTrack {
			digest = h.record.digest(r.Base)
		}
		c := h.obs.companion(a.Ref, a.Track)
		if c == nil {
			h.obs.Canaries = append(h.obs.Canaries, CanaryWorkload{Stable: a.Ref, Track: a.Track})
			c = &h.obs.Canaries[len(h.obs.Canaries)-1]
		}
		for i := range h.obs.Services {
			s := &h.obs.Services[i]
			s.Companions = append(s.Companions, a.Track)
		}
		more := a.Replicas - c.Replicas
		c.Release, c.Replicas, c.ReadySince, c.Dark = digest, a.Replicas, time.Time{}, nil
		c.Health = health.Verdict{Status: health.Progressing, Reason: health.NotReady, Message: "starting", Desired: a.Replicas, Ready: a.Replicas - max(more, 0)}
		if !r.dark(a.Track) {
			more = 0
		}
		for i := range more {
			name := fmt.Sprintf("%s-%d", a.Track.Name(a.Ref.Name), a.Replicas-i)
			c.Dark = append(c.Dark, DarkPod{Name: name, UID: name, UpSince: h.now})
		}
		if len(c.Dark) == 0 {
			h.serves(c)
		}
	case SetWeight:
		for i := range h.obs.Routes {
			if rt := &h.obs.Routes[i]; rt.Route.Same(a.Ref) {
				rt.Split, rt.Touched, rt.Intact, rt.Told, rt.Written = a.Split, !a.Split.None(), true, a.Split, true
				rt.Reported = traffic.Reported{Taken: true}
			}
		}
		if l := r.routeAt(a.Ref); l != nil {
			l.Told, l.Written = a.Split, true
		}
	case Admit:
		if c := h.obs.companion(a.Ref, a.Track); c != nil {
			c.Dark = nil
			h.serves(c)
		}
	case RemoveCanary:
		for i := range h.obs.Canaries {
			if c := h.obs.Canaries[i]; c.Track == a.Track && c.Stable.Same(a.Ref) {
				h.obs.Canaries = append(h.obs.Canaries[:i:i], h.obs.Canaries[i+1:]...)
				break
			}
		}
	}
	if a.Move != nil {
		return h.record.advance(*a.Move, h.now)
	}
	return nil
}

func (h *rehearsal) serves(c *CanaryWorkload) {
	c.ReadySince = h.now
	c.Serving = nil
	for i := range c.Replicas {
		c.Serving = append(c.Serving, fmt.Sprintf("%s-%d", c.Track.Name(c.Stable.Name), i+1))
	}
	for i := range h.obs.Services {
		if s := &h.obs.Services[i]; s.Workload.Same(c.Stable) {
			s.Reached = h.now
		}
	}
	c.Health = health.Verdict{Status: health.Ready, Message: "all pods ready", Desired: c.Replicas, Ready: c.Replicas, Available: c.Replicas}
}

// written makes a stable workload what a just showed the API server.
func (h *rehearsal) written(w *Workload, digest string, a Action) {
	r := h.record.Current
	moved := !w.Exists || w.Release != digest
	if !manifest.IsWorkload(w.Ref) {
		w.Exists, w.Release, w.ReadySince = true, digest, h.now
		w.Health = health.Verdict{Status: health.Ready, Message: "ready", Desired: 1, Ready: 1, Available: 1}
		return
	}
	if w.Ref.Kind == "Deployment" {
		w.Hash = digest // as good a name for its pods as any
	}
	own := r.ownSettings(w.Ref, a.settings())
	if w.Ref.Kind == "StatefulSet" && (a.Kind != ApplyRelease || r.unbegun(w.Ref)) {
		partition := w.OwnPartition
		if own.partition != nil {
			partition = *own.partition
		}
		moved = moved && partition < w.Replicas || partition < w.Partition && partition < w.Replicas
		w.Partition = partition
	}
	w.Exists, w.Release, w.Paused = true, digest, a.Paused
	w.Raised, w.MinReady = false, 0
	if own.bake > 0 {
		w.Raised, w.MinReady = true, own.bake
	}
	w.Raised = w.Raised || own.recreate || own.partition != nil
	if moved {
		w.ReadySince = time.Time{}
		h.baked[w.Ref.Name] = h.now.Add(w.MinReady)
	}
}

// pointed sends the traffic of one live Service, or of all, where the action says.
func (h *rehearsal) pointed(ref *manifest.Ref, a Action) {
	for i := range h.obs.Services {
		if s := &h.obs.Services[i]; ref == nil || s.Service.Same(*ref) {
			s.Exists, s.Points, s.Hash = true, a.Points, a.Hash
		}
	}
}
