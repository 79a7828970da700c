package rollout

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// model is a cluster small enough to reason about: one workload, an optional
// canary, and pods that turn out as the test draws them. Decide drives it
// through failures, commands, crashes of the driver and newer releases, and
// every step checks what must always hold.
type model struct {
	t      *rapid.T
	now    time.Time
	record *Record

	stable  string // release digest that the stable workload was written for
	paused  bool
	raised  bool
	n       int32
	canary  string // digest, "" when there is none
	size    int32
	dark    bool   // the canary's pods have not been let in
	base    string // digest of the baseline, "" when there is none
	baseN   int32
	baseIn  bool // its pods have been let in
	service modelService
	route   modelRoute
	only    StrategyKind             // of all rollouts; "" draws one for each
	ref     manifest.Ref             // of the workload
	pods    modelPods                // of a StatefulSet
	health  map[string]health.Status // by "stable"/"canary"/"preview"
	since   map[string]time.Time
	digests map[int]string // revision → digest
	config  map[string]bool
	passed  map[string]bool // metric gates, by revision, step and name
	sent    int
	lastOK  int // the verified revision before the current rollout
	stuck   int
	stored  []byte
}

var shopRef = manifest.Ref{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "x", Name: "shop"}

func newModel(t *rapid.T, only StrategyKind, kind string) *model {
	m := &model{t: t, only: only, ref: manifest.Ref{APIVersion: "apps/v1", Kind: kind, Namespace: "x", Name: "shop"}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), n: rapid.Int32Range(1, 20).Draw(t, "replicas"),
		health: map[string]health.Status{"stable": health.Ready}, since: map[string]time.Time{}, digests: map[int]string{}, config: map[string]bool{}, passed: map[string]bool{}}
	m.record = &Record{App: "shop", Namespace: "x"}
	if m.only != "" || rapid.Bool().Draw(t, "something serves") {
		m.record.Revisions, m.record.Verified, m.record.Stable = 1, 1, 1
		m.record.Current = &Rollout{Revision: 1, Digest: "d1", State: Verified}
		m.record.finish()
		m.digests[1], m.stable, m.lastOK = "d1", "d1", 1
		m.config["d1"] = true
		m.fillPods("d1")
	}
	return m
}

func (m *model) begin() {
	revision := m.record.Revisions + 1
	digest := fmt.Sprintf("d%d", revision)
	m.record.Revisions, m.digests[revision] = revision, digest
	r := &Rollout{Revision: revision, Digest: digest, State: Pending, Base: m.record.Verified, Started: m.now, StateSince: m.now,
		Bake: time.Duration(rapid.IntRange(0, 20).Draw(m.t, "bake")) * time.Second, Deadline: time.Minute, Strategy: Strategy{Kind: RollingStrategy}}
	if m.draws(CanaryStrategy, r) {
		r.Strategy = Strategy{Kind: CanaryStrategy}
		for range rapid.IntRange(1, 3).Draw(m.t, "steps") {
			r.Strategy.Steps = append(r.Strategy.Steps, Step{Weight: rapid.IntRange(1, 100).Draw(m.t, "weight"), Hold: time.Duration(rapid.IntRange(0, 30).Draw(m.t, "hold")) * time.Second})
		}
		if m.stateful() {
			r.Partitioned = []manifest.Ref{m.ref}
		} else {
			r.Canaries = []manifest.Ref{m.ref}
			m.beginRoute(r)
		}
		if rapid.Bool().Draw(m.t, "metric") {
			most := 1.0
			r.Strategy.Metrics = []MetricGate{{Name: "load", Query: "x", Max: &most, Interval: time.Second}}
			if !m.stateful() && rapid.Bool().Draw(m.t, "compares") {
				r.Strategy.Metrics = []MetricGate{{Name: "errors", Bad: "x", Total: "y", Interval: time.Second}}
			}
		}
	}
	if r.Strategy.Kind == RollingStrategy && m.draws(BlueGreenStrategy, r) {
		m.beginBlueGreen(r)
	}
	if r.Strategy.Kind == RollingStrategy && m.draws(RecreateStrategy, r) {
		r.Strategy = Strategy{Kind: RecreateStrategy}
	}
	if r.Strategy.Kind == RollingStrategy && m.stateful() && r.Base != 0 {
		r.Partitioned = []manifest.Ref{m.ref}
		r.Strategy.Batch = rapid.SampledFrom([]string{"", "1", "3", "50%", "100%"}).Draw(m.t, "batch")
	}
	if !r.Strategy.inPlace() && rapid.Bool().Draw(m.t, "checks") {
		r.Strategy.Checks = []CheckGate{
			{Name: "hook", Webhook: &WebhookGate{URL: "http://x"}, Advisory: rapid.Bool().Draw(m.t, "advisory")},
			{Name: "boss", Approval: &ApprovalGate{From: []string{"boss"}}, Steps: []int{1}, Timeout: time.Duration(rapid.IntRange(1, 3).Draw(m.t, "patience")) * time.Hour},
			{Name: "both", CEL: &CELGate{Pass: `webhooks.hook.outcome == "pass"`, Fail: `webhooks.hook.outcome == "fail"`}},
		}
	}
	for _, phase := range []HookPhase{BeforeHook, AfterHook, FailureHook} {
		if rapid.IntRange(0, 3).Draw(m.t, "hook") == 0 {
			r.Hooks = append(r.Hooks, Hook{Name: string(phase), Phase: phase})
		}
	}
	if rapid.IntRange(0, 9).Draw(m.t, "frozen") == 0 {
		r.Freeze = []Window{{From: m.now.Add(-time.Hour), Until: m.now.Add(time.Hour)}}
	}
	if rapid.IntRange(0, 9).Draw(m.t, "asks to enter") == 0 {
		r.Entry = entryGate(&ApprovalGate{From: []string{"boss"}}, time.Hour)
	}
	m.lastOK = m.record.Verified
	m.record.Current = r
	m.stuck = 0
	m.store()
}

// draws chooses the strategy, if it is possible.
func (m *model) draws(kind StrategyKind, r *Rollout) bool {
	if m.only != "" {
		return m.only == kind && r.Base != 0
	}
	return r.Base != 0 && rapid.Bool().Draw(m.t, string(kind))
}

func (m *model) observe() Observation {
	obs := Observation{}
	w := Workload{Ref: m.ref, Exists: m.stable != "", Release: m.stable, Paused: m.paused, Raised: m.raised, Replicas: m.n,
		Health: health.Verdict{Status: m.health["stable"], Reason: health.CrashLoop, Message: "as drawn", Desired: m.n}}
	if m.raised && !m.stateful() { // there the judge bakes
		w.MinReady = m.record.Current.Bake
	}
	m.observePods(&w)
	w.ReadySince = m.readySince("stable", w.Health.Status)
	if !w.ReadySince.IsZero() {
		w.Health.Available = m.n
	}
	obs.Workloads = []Workload{w}
	if m.canary != "" {
		c := CanaryWorkload{Stable: m.ref, Track: CanaryTrack, Release: m.canary, Replicas: m.size,
			Health: health.Verdict{Status: m.health["canary"], Reason: health.CrashedAfterReady, Message: "as drawn", Ready: m.size}}
		up := m.health["canary"] == health.Ready
		if m.dark {
			// However well they are, pods at the gate are not ready.
			since := m.readySince("dark", m.health["canary"])
			c.Dark = []DarkPod{{Name: "canary-1", UID: "1", UpSince: since}}
			if up {
				c.Health.Status, c.Health.Reason = health.Progressing, health.NotReady
			}
		} else {
			delete(m.since, "dark")
		}
		c.ReadySince = m.readySince("canary", c.Health.Status)
		c.Serving = m.serving()
		obs.Canaries = append(obs.Canaries, c)
	}
	if m.base != "" {
		b := CanaryWorkload{Stable: m.ref, Track: BaselineTrack, Release: m.base, Replicas: m.baseN,
			Health: health.Verdict{Status: health.Ready, Message: "as always", Ready: m.baseN}}
		if !m.baseIn {
			b.Dark = []DarkPod{{Name: "baseline-1", UID: "2", UpSince: m.readySince("dark baseline", health.Ready)}}
			b.Health.Status = health.Progressing
		} else {
			b.Serving = make([]string, m.baseN)
		}
		b.ReadySince = m.readySince("baseline", b.Health.Status)
		obs.Canaries = append(obs.Canaries, b)
	}
	m.observeServices(&obs)
	m.observeRoute(&obs)
	return obs
}

func (m *model) readySince(key string, status health.Status) time.Time {
	if status != health.Ready {
		delete(m.since, key)
		return time.Time{}
	}
	if _, ok := m.since[key]; !ok {
		m.since[key] = m.now
	}
	return m.since[key]
}

func (m *model) written(key string) {
	delete(m.since, key)
	m.health[key] = rapid.SampledFrom([]health.Status{health.Ready, health.Progressing, health.Degraded, health.Failed}).Draw(m.t, key+" becomes")
}

// step lets the driver do one thing and checks the rules around it.
func (m *model) step() Action {
	c := m.record.Current
	state, gates, step := c.State, len(c.Gates), c.Step
	obs := m.observe()
	a := Decide(m.record, obs, m.now)
	if b := Decide(m.record, obs, m.now); fmt.Sprint(a.Kind, a.Why, a.Until) != fmt.Sprint(b.Kind, b.Why, b.Until) {
		m.t.Fatalf("not pure: %v then %v", a, b)
	}
	base := m.digests[c.Base]
	if c.needsRecord(a) || a.Kind == Prune {
		m.store()
	}
	m.checkTraffic(c, a)
	m.checkRoute(c, a)
	m.checkPartition(c, a)
	switch a.Kind {
	case Wait:
		return a
	case Obey:
		if said := m.record.Command; said.By == "boss" && said.Kind == CommandApprove && state == Pending {
			m.passed[fmt.Sprint(c.Revision, "/entry")] = true
		}
		if said := m.record.Command; said.By == "boss" && said.Kind == CommandApprove && state.measured() && c.Step == 1 {
			m.passed[fmt.Sprint(c.Revision, "/1/boss")] = true
		}
		if said := m.record.Command; said.By != "boss" && said.Kind == CommandPromote && state.measured() && c.Step == 1 && len(c.Strategy.Checks) > 0 &&
			!m.passed[fmt.Sprint(c.Revision, "/1/boss")] {
			defer func() {
				if c.State == Promoting || c.Step != 1 {
					m.t.Fatal("a promotion stepped over an approval that was not its giver's")
				}
			}()
		}
		if err := m.record.obey(m.now); err != nil {
			m.t.Fatal(err)
		}
	case Mark:
		if a.Ready {
			if !c.StepReadyAt.IsZero() {
				m.t.Fatal("a step turned ready twice: a flap would move its deadline")
			}
			c.StepReadyAt = m.now
		}
		if a.Peak > c.Peak {
			c.Peak, c.LastProgress = a.Peak, m.now
		}
	case BeginHook:
		c.HookRuns = append(c.HookRuns, HookRun{Hook: a.Hook, Outcome: analysis.Inconclusive, At: m.now})
	case ApplyRelease, ApplyWorkload:
		if !c.StableTouched && c.State != RollingBack {
			m.t.Fatal("the stable workload is written before that is recorded")
		}
		if !c.Strategy.inPlace() && len(c.Gates) == 0 && (!m.stateful() || c.State != Canary) && c.State != RollingBack {
			m.t.Fatal("promoted without a gate")
		}
		if c.State == RollingBack {
			if m.stable != base || a.Bake > 0 {
				m.t.Fatal("what goes back was given settings that are not its own")
			}
			m.raised = a.Recreate
			break
		}
		m.config[c.Digest] = true
		if m.stable != c.Digest {
			m.written("stable")
		}
		m.stable, m.paused, m.raised = c.Digest, a.Paused, a.Bake > 0 || a.Recreate || a.Partition != nil
		m.applyPods(c, a)
		if a.Kind == ApplyRelease {
			m.point(a.Points, "")
		}
	case ApplyBase:
		if base == "" || c.Base != m.lastOK {
			m.t.Fatalf("going back to revision %d, and the last verified is %d", c.Base, m.lastOK)
		}
		m.stable, m.paused, m.raised = base, false, a.Recreate
		m.pods.partition = 0
		m.point(a.Points, "")
		m.config[base] = true
		m.written("stable")
		c.Restored, m.record.Stable = true, c.Base
	case ApplyNeeded:
		m.config[c.Digest] = true
	case PointService:
		m.point(a.Points, a.Hash)
	case SetWeight:
		m.setWeight(c, a)
	case ScaleCanary:
		if a.Track == PreviewTrack {
			m.scalePreview(c, a)
			break
		}
		if a.Track == BaselineTrack {
			if !c.Strategy.compares() {
				m.t.Fatal("a baseline that nothing is compared with")
			}
			m.base, m.baseN, m.baseIn = base, a.Replicas, !c.dark(BaselineTrack)
			delete(m.since, "dark baseline")
			break
		}
		if m.stable != base {
			m.t.Fatalf("a canary beside %q, which is not the verified %q", m.stable, base)
		}
		if m.canary != c.Digest || m.size != a.Replicas {
			m.written("canary")
		}
		m.scaledRoute(c, a)
		m.canary, m.size, m.dark = c.Digest, a.Replicas, c.dark(CanaryTrack)
		if !m.dark {
			m.route.in = m.size
		}
		delete(m.since, "dark")
	case Admit:
		if a.Track == PreviewTrack {
			m.admitPreview(c)
			break
		}
		if a.Track == BaselineTrack {
			m.baseIn = true
			break
		}
		if !m.dark || m.health["canary"] != health.Ready || m.now.Sub(m.since["dark"]) < c.Bake {
			m.t.Fatal("pods were let in that had not survived the bake")
		}
		m.dark, m.route.in = false, m.size
	case RemoveCanary:
		if a.Track == PreviewTrack {
			m.removePreview()
			break
		}
		if a.Track == BaselineTrack {
			m.base = ""
			break
		}
		if len(c.Routes) > 0 && !m.dark {
			m.service.leaving = int(m.size)
		}
		m.canary, m.size, m.dark, m.route.in = "", 0, false, 0
	case Prune:
		serving := c.Digest
		if c.State == RollingBack {
			serving = base
		}
		for digest := range m.config {
			if digest != serving && digest != base {
				delete(m.config, digest)
			}
		}
		if m.stable != "" && !m.config[m.stable] {
			m.t.Fatalf("pruned the configuration of %s, which serves", m.stable)
		}
	}
	if a.Move != nil {
		if err := m.record.advance(*a.Move, m.now); err != nil {
			m.t.Fatal(err)
		}
	}
	now := m.record.Current
	if a.Kind == Obey || a.Kind == BeginHook || now.State != state && (now.State.Final() || now.State == RollingBack) {
		m.store()
	}
	m.checkHooks(state, now)
	if state.measured() && a.Move != nil && a.Move.Proof != nil && a.Move.Proof.gate.Kind == "health" {
		for _, g := range c.Strategy.Metrics {
			if !m.passed[fmt.Sprint(c.Revision, "/", step, "/", g.Name)] {
				m.t.Fatalf("step %d passed, and metric %s had not", step, g.Name)
			}
		}
		for _, g := range c.Strategy.Checks {
			if g.holds(step) && !g.Advisory && !m.passed[fmt.Sprint(c.Revision, "/", step, "/", g.Name)] {
				m.t.Fatalf("step %d passed, and %s had not", step, g.title())
			}
		}
	}
	if state == Canary && m.dark && a.Move != nil && a.Move.Proof != nil && a.Move.Proof.gate.Kind == "health" {
		m.t.Fatal("a step passed whose pods never had traffic")
	}
	if (state == Canary && (now.State == Canary && now.Step > 1 || now.State == Promoting)) || (state == Rolling && now.State == Finishing) {
		if a.Kind != Mark && a.Kind != ScaleCanary && len(now.Gates) == gates && a.Move != nil {
			m.t.Fatal("advanced without recording a gate")
		}
	}
	if now.State == Verified && (m.stable != now.Digest || m.health["stable"] != health.Ready && a.Kind != Prune) {
		m.t.Fatalf("verified, but %s serves", m.stable)
	}
	if now.State == RolledBack && m.stable != m.digests[now.Base] {
		m.t.Fatalf("rolled back, but %s serves and the base is %s", m.stable, m.digests[now.Base])
	}
	m.checkEnd(now)
	if now.State.Final() && (m.canary != "" || m.base != "") {
		m.t.Fatalf("ended in %s with a canary or baseline left", now.State)
	}
	if now.State == Verified && (m.raised || m.paused) {
		m.t.Fatal("verified with settings that are not the workload's own")
	}
	return a
}

// checkHooks checks what must hold of hooks and freezes after a step.
func (m *model) checkHooks(before State, r *Rollout) {
	outcome := func(phase HookPhase) analysis.Outcome {
		if run := r.hookRun(string(phase)); run != nil {
			return run.Outcome
		}
		return ""
	}
	has := func(phase HookPhase) bool { return len(r.hooksOf(phase)) > 0 }
	switch {
	case before == Pending && r.State == Applying:
		if r.Entry != nil && !m.passed[fmt.Sprint(r.Revision, "/entry")] {
			m.t.Fatal("begun, and nobody had let it")
		}
		if has(BeforeHook) && outcome(BeforeHook) != analysis.Pass {
			m.t.Fatal("written to before the hook had passed")
		}
		if _, _, frozen := Frozen(r.Freeze, m.now); frozen && r.Override == "" && !has(BeforeHook) {
			m.t.Fatal("begun within a freeze")
		}
	case before == Rolling && r.State == Finishing && has(AfterHook) && outcome(AfterHook) != analysis.Pass:
		m.t.Fatal("kept, and the hook after it had not passed")
	case before == RollingBack && r.State.Final() && r.Ending == EndedByFailure && has(FailureHook) && outcome(FailureHook) == "":
		m.t.Fatal("ended by a failure without the hook for that")
	}
}

// measure lets every metric gate of a step that serves take a look.
func (m *model) measure() {
	defer m.store()
	r := m.record.Current
	for i := range r.HookRuns {
		if run := &r.HookRuns[i]; run.Outcome == analysis.Inconclusive {
			run.Outcome = rapid.SampledFrom([]analysis.Outcome{analysis.Pass, analysis.Pass, analysis.Inconclusive, analysis.Fail}).Draw(m.t, "hook ends")
		}
	}
	if !r.State.measured() || r.StepReadyAt.IsZero() {
		return
	}
	if known := r.checkOf("hook"); len(r.Strategy.Checks) > 0 && (known == nil || known.Outcome == analysis.Inconclusive) {
		outcome := rapid.SampledFrom([]analysis.Outcome{analysis.Pass, analysis.Pass, analysis.Inconclusive, analysis.Fail}).Draw(m.t, "hook says")
		r.put(Check{Step: r.Step, Gate: "hook", Kind: "webhook", Outcome: outcome, At: m.now})
		m.passed[fmt.Sprint(r.Revision, "/", r.Step, "/hook")] = outcome == analysis.Pass
		m.passed[fmt.Sprint(r.Revision, "/", r.Step, "/both")] = outcome == analysis.Pass
	}
	r.evaluate(Observation{}, m.now)
	for _, g := range r.Strategy.Metrics {
		s := sampled{step: r.Step, gate: g.Name, sample: analysis.Sample{At: m.now}}
		value := rapid.SampledFrom([]float64{0, 0, 0, 0, 0, 0, 0, 2}).Draw(m.t, "measured")
		if rapid.IntRange(0, 2).Draw(m.t, "answered") > 0 {
			s.sample.Value = &value
			s.sample.Canary, s.sample.Baseline = &analysis.Reading{Bad: 10 * value, Total: 100}, &analysis.Reading{Total: 100}
		}
		r.add(s)
		if outcome := r.analysisOf(g.Name).Verdict.Outcome; outcome == analysis.Pass {
			m.passed[fmt.Sprint(r.Revision, "/", r.Step, "/", g.Name)] = true
		}
	}
}

func TestDecideKeepsItsPromises(t *testing.T) {
	for _, only := range []StrategyKind{"", RollingStrategy, CanaryStrategy, BlueGreenStrategy, RecreateStrategy} {
		t.Run("Deployment "+string(only), func(t *testing.T) { keepsItsPromises(t, only, "Deployment") })
	}
	for _, only := range []StrategyKind{RollingStrategy, CanaryStrategy} {
		t.Run("StatefulSet "+string(only), func(t *testing.T) { keepsItsPromises(t, only, "StatefulSet") })
	}
}

func keepsItsPromises(t *testing.T, only StrategyKind, kind string) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t, only, kind)
		m.begin()
		for range rapid.IntRange(5, 150).Draw(t, "length") {
			switch rapid.IntRange(0, 15).Draw(t, "what") {
			case 14:
				m.route.taken = m.route.taken || !m.route.deaf
			case 15:
				m.someoneElse()
			case 0:
				m.crash()
			case 1:
				key := rapid.SampledFrom([]string{"stable", "canary", "preview"}).Draw(t, "whose")
				m.health[key] = rapid.SampledFrom([]health.Status{health.Ready, health.Ready, health.Progressing, health.Degraded, health.Failed}).Draw(t, "health")
			case 2:
				if m.record.Command == nil {
					m.sent++
					m.record.Command = &Command{ID: fmt.Sprint(m.sent), By: rapid.SampledFrom([]string{"someone", "boss"}).Draw(t, "who"), Revision: m.record.Current.Revision, Full: rapid.Bool().Draw(t, "full"),
						Kind: rapid.SampledFrom([]CommandKind{CommandPromote, CommandPause, CommandResume, CommandAbort, CommandSupersede, CommandApprove, CommandApprove, CommandReject, CommandOverride}).Draw(t, "command")}
				}
			case 3:
				m.store() // what was postponed does not wait for a second
				m.now = m.now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second)
			case 5:
				m.measure()
			case 7:
				m.controller()
			case 6:
				m.service.leaving = 0
			case 4:
				m.n = rapid.Int32Range(1, 20).Draw(t, "autoscaler")
			default:
				m.step()
			}
			if m.record.Current.State.Final() && m.record.Command == nil {
				m.begin()
			}
		}
		// Left alone, with time passing, every rollout ends.
		m.record.Command = nil
		m.record.Current.resumePaused(m.now)
		for i := 0; !m.record.Current.State.Final(); i++ {
			if i > 10_000 {
				t.Fatalf("never ends: state %s", m.record.Current.State)
			}
			if a := m.step(); a.Kind == Wait {
				if a.Until.IsZero() || !a.Until.After(m.now) {
					t.Fatalf("waits for nothing: %+v at %s", a, m.now)
				}
				m.now = a.Until
				m.service.leaving = 0
				m.route.taken = m.route.taken || !m.route.deaf
				m.settle()
				m.measure()
			}
		}
		if len(m.record.History) > MaxHistory {
			t.Fatal("the history grows without bound")
		}
		if m.record.Verified != 0 && m.record.Revision(m.record.Verified) == nil {
			t.Fatal("the verified revision was forgotten")
		}
	})
}

// A canary that flaps for ever is ended in bounded time.
func TestFlapNeverExtendsADeadline(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t, "", "Deployment")
		m.record = &Record{App: "shop", Namespace: "x", Revisions: 1, Verified: 1, Stable: 1}
		m.record.Current = &Rollout{Revision: 1, Digest: "d1", State: Verified}
		m.record.finish()
		m.digests[1], m.stable, m.lastOK = "d1", "d1", 1
		m.begin()
		r := m.record.Current
		r.Bake = 10 * time.Second
		r.Hooks, r.Freeze, r.Strategy.Checks, r.Entry = nil, nil, nil, nil // which wait longer, and not for pods
		start := m.now
		for r.State != RollingBack && r.State != RolledBack {
			m.health["canary"] = rapid.SampledFrom([]health.Status{health.Ready, health.Progressing, health.Degraded}).Draw(t, "canary")
			m.health["stable"] = m.health["canary"]
			m.step()
			m.now = m.now.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "passes")) * time.Second)
			// never ready for the whole bake time
			if m.now.Sub(start)%(8*time.Second) < 5*time.Second {
				m.health["canary"], m.health["stable"] = health.Progressing, health.Progressing
				m.observe()
			}
			most := 10 * time.Minute
			if len(r.Gates) > 0 || r.State == Verified {
				return // it was ready long enough by chance
			}
			if m.now.Sub(start) > most {
				t.Fatalf("still %s after %s", r.State, m.now.Sub(start))
			}
		}
	})
}
