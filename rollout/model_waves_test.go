package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// waveModel is a cluster with a release in waves: workloads and a custom
// resource, each with a health that the test draws.
type waveModel struct {
	t      *rapid.T
	now    time.Time
	record *Record
	waves  [][]manifest.Ref

	live   map[manifest.Ref]string // digest that it was written for last
	raised map[manifest.Ref]bool
	paused map[manifest.Ref]bool
	health map[manifest.Ref]health.Status
	since  map[string]time.Time
	canary string // digest; "" when there is none
	dark   bool
	sent   int
}

func newWaveModel(t *rapid.T) *waveModel {
	m := &waveModel{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), live: map[manifest.Ref]string{}, raised: map[manifest.Ref]bool{},
		paused: map[manifest.Ref]bool{}, health: map[manifest.Ref]health.Status{}, since: map[string]time.Time{}}
	for i := range rapid.IntRange(2, 4).Draw(t, "waves") {
		var wave []manifest.Ref
		for j := range rapid.IntRange(0, 2).Draw(t, "in a wave") {
			kind := rapid.SampledFrom([]string{"Deployment", "Database"}).Draw(t, "kind")
			ref := manifest.Ref{APIVersion: "apps/v1", Kind: kind, Namespace: "x", Name: fmt.Sprintf("w%d-%d", i, j)}
			if kind == "Database" {
				ref.APIVersion = "example.com/v1"
			}
			wave = append(wave, ref)
			m.live[ref], m.health[ref] = "d1", health.Ready
		}
		m.waves = append(m.waves, wave)
	}
	m.record = &Record{App: "shop", Namespace: "x", Revisions: 1, Verified: 1, Stable: 1}
	m.record.Current = &Rollout{Revision: 1, Digest: "d1", State: Verified}
	m.record.finish()
	return m
}

func (m *waveModel) begin() {
	revision := m.record.Revisions + 1
	r := &Rollout{Revision: revision, Digest: fmt.Sprintf("d%d", revision), State: Pending, Base: m.record.Verified, Started: m.now, StateSince: m.now, Waves: m.waves,
		Bake: time.Duration(rapid.IntRange(0, 20).Draw(m.t, "bake")) * time.Second, Deadline: time.Minute, Strategy: Strategy{Kind: RollingStrategy}}
	switch rapid.IntRange(0, 2).Draw(m.t, "strategy") {
	case 0:
		r.Strategy.Kind = RecreateStrategy
	case 1:
		for i, wave := range m.waves {
			for _, ref := range wave {
				if ref.Kind == "Deployment" {
					r.CanaryWave, r.Canaries = i, []manifest.Ref{ref}
				}
			}
		}
		if len(r.Canaries) > 0 {
			r.Strategy = Strategy{Kind: CanaryStrategy, Steps: []Step{{Weight: 20}, {Weight: 50, Hold: 5 * time.Second}}}
		}
	}
	m.record.Revisions, m.record.Current = revision, r
}

func (m *waveModel) refs() []manifest.Ref { return slices.Concat(m.waves...) }

func (m *waveModel) base() string { return m.record.digest(m.record.Current.Base) }

func (m *waveModel) ready(key string, yes bool) time.Time {
	if !yes {
		delete(m.since, key)
		return time.Time{}
	}
	if _, ok := m.since[key]; !ok {
		m.since[key] = m.now
	}
	return m.since[key]
}

func (m *waveModel) observe() Observation {
	obs := Observation{}
	for _, ref := range m.refs() {
		w := Workload{Ref: ref, Exists: true, Release: m.live[ref], Raised: m.raised[ref], Paused: m.paused[ref], Replicas: 3,
			Health: health.Verdict{Status: m.health[ref], Reason: health.CrashLoop, Message: "as drawn", Desired: 3}}
		if m.raised[ref] {
			w.MinReady = m.record.Current.Bake
		}
		if w.ReadySince = m.ready(ref.Name, w.Health.Status == health.Ready); !w.ReadySince.IsZero() {
			w.Health.Available, w.Health.Ready = 3, 3
		}
		obs.Workloads = append(obs.Workloads, w)
	}
	if m.canary != "" {
		c := CanaryWorkload{Stable: m.record.Current.canary(), Track: CanaryTrack, Release: m.canary, Replicas: canarySize(m.record.Current.stepWeight(), 3), Health: health.Verdict{Status: health.Ready}}
		if m.dark {
			c.Health.Status = health.Progressing
			c.Dark = []DarkPod{{Name: "canary", UID: "1", UpSince: m.ready("dark", true)}}
		}
		c.ReadySince = m.ready("canary", !m.dark)
		obs.Canaries = append(obs.Canaries, c)
	}
	return obs
}

// canary is the workload that the model's rollout has one of.
func (r *Rollout) canary() manifest.Ref {
	if len(r.Canaries) == 0 {
		return manifest.Ref{}
	}
	return r.Canaries[0]
}

func (r *Rollout) stepWeight() int {
	if r.Step == 0 || r.Step > len(r.Strategy.Steps) {
		return 1
	}
	return r.Strategy.Steps[r.Step-1].Weight
}

func (m *waveModel) write(ref manifest.Ref, digest string, a Action) {
	if m.live[ref] != digest {
		delete(m.since, ref.Name)
		m.health[ref] = rapid.SampledFrom([]health.Status{health.Ready, health.Ready, health.Ready, health.Progressing, health.Degraded, health.Failed}).Draw(m.t, ref.Name+" becomes")
	}
	m.live[ref] = digest
	if ref.Kind == "Deployment" {
		m.raised[ref], m.paused[ref] = a.Bake > 0 || a.Recreate, a.Paused
	}
}

// passed tells whether the gates of all waves before one have passed.
func (m *waveModel) passed(r *Rollout, wave int) bool {
	for before := range wave {
		if !slices.ContainsFunc(r.Gates, func(g Gate) bool { return g.Passed && g.Wave == before+1 && g.Step == 0 }) {
			return false
		}
	}
	return true
}

func (m *waveModel) step() Action {
	r := m.record.Current
	a := Decide(m.record, m.observe(), m.now)
	base := m.base()
	switch a.Kind {
	case Wait:
		return a
	case Obey:
		if err := m.record.obey(m.now); err != nil {
			m.t.Fatal(err)
		}
	case Mark:
		if a.Ready {
			r.StepReadyAt = m.now
		}
		if a.Peak > r.Peak {
			r.Peak, r.LastProgress = a.Peak, m.now
		}
	case ApplyRelease:
		if !m.passed(r, r.Wave) {
			m.t.Fatalf("wave %d is written, and one before it has not passed", r.Wave+1)
		}
		for _, ref := range m.waves[r.Wave] {
			m.write(ref, r.Digest, a)
		}
	case ApplyWorkload:
		digest := r.Digest
		if r.State == RollingBack {
			if digest = base; r.waveOf(a.Ref) < r.Wave {
				m.t.Fatalf("%s goes back before its turn", a.Ref.Name)
			}
		} else if r.waveOf(a.Ref) > r.Wave {
			m.t.Fatalf("%s of wave %d is written in wave %d", a.Ref.Name, r.waveOf(a.Ref)+1, r.Wave+1)
		}
		m.write(a.Ref, digest, a)
	case ApplyBase:
		for i, wave := range m.waves {
			for _, ref := range wave {
				if i >= r.Wave {
					m.write(ref, base, a)
				}
			}
		}
		if r.Restored = true; r.Wave == 0 {
			m.record.Stable = r.Base
		}
	case ScaleCanary:
		if r.Wave != r.CanaryWave || !m.passed(r, r.Wave) {
			m.t.Fatalf("a canary of wave %d, and a wave before it has not passed", r.CanaryWave+1)
		}
		if m.live[r.canary()] != base {
			m.t.Fatalf("a canary beside %s", m.live[r.canary()])
		}
		m.canary, m.dark = r.Digest, r.dark(CanaryTrack)
		delete(m.since, "dark")
	case Admit:
		m.dark = false
	case RemoveCanary:
		m.canary = ""
	}
	state, wave := r.State, r.Wave
	if a.Move != nil {
		if a.Move.To == RollingBack && state == RollingBack {
			for _, ref := range m.refs() {
				if r.waveOf(ref) >= wave && m.health[ref] != health.Ready && m.now.Before(r.StateSince.Add(r.Deadline)) {
					m.t.Fatalf("wave %d goes back, and %s of wave %d is not well", wave, ref.Name, r.waveOf(ref)+1)
				}
			}
		}
		if err := m.record.advance(*a.Move, m.now); err != nil {
			m.t.Fatal(err)
		}
	}
	m.check(r, base)
	return a
}

// check holds what must be true at every moment.
func (m *waveModel) check(r *Rollout, base string) {
	for _, ref := range m.refs() {
		if m.live[ref] == r.Digest && !m.passed(r, r.waveOf(ref)) {
			m.t.Fatalf("%s runs revision %d, and a wave before its own has not passed", ref.Name, r.Revision)
		}
		if r.State == RollingBack && m.live[ref] == r.Digest && r.Restored && r.waveOf(ref) >= r.Wave {
			m.t.Fatalf("%s of wave %d was not put back with wave %d", ref.Name, r.waveOf(ref)+1, r.Wave+1)
		}
		switch {
		case r.State == Verified && (m.live[ref] != r.Digest || m.raised[ref] || m.paused[ref]):
			m.t.Fatalf("verified, and %s is of %s, raised %t, paused %t", ref.Name, m.live[ref], m.raised[ref], m.paused[ref])
		case r.State == RolledBack && m.live[ref] != base:
			m.t.Fatalf("rolled back, and %s is of %s", ref.Name, m.live[ref])
		case r.State == RolledBack && (m.raised[ref] || m.paused[ref]):
			m.t.Fatalf("rolled back, and %s has settings that are not its own", ref.Name)
		}
	}
	if r.State == Verified && !m.passed(r, len(m.waves)) {
		m.t.Fatal("verified without a gate of every wave")
	}
	if r.State.Final() && m.canary != "" {
		m.t.Fatal("ended with a canary left")
	}
}

func (m *waveModel) crash() {
	encoded, err := json.Marshal(m.record)
	if err != nil {
		m.t.Fatal(err)
	}
	m.record = &Record{}
	if err := json.Unmarshal(encoded, m.record); err != nil {
		m.t.Fatal(err)
	}
	m.since = map[string]time.Time{}
}

func TestWavesKeepTheirPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newWaveModel(t)
		m.begin()
		for range rapid.IntRange(5, 150).Draw(t, "length") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				m.crash()
			case 1:
				if refs := m.refs(); len(refs) > 0 {
					ref := rapid.SampledFrom(refs).Draw(t, "whose")
					m.health[ref] = rapid.SampledFrom([]health.Status{health.Ready, health.Ready, health.Ready, health.Progressing, health.Failed}).Draw(t, "health")
				}
			case 2:
				if m.record.Command == nil && rapid.IntRange(0, 3).Draw(t, "asked") == 0 {
					m.sent++
					m.record.Command = &Command{ID: fmt.Sprint(m.sent), By: "someone", Revision: m.record.Current.Revision,
						Kind: rapid.SampledFrom([]CommandKind{CommandPromote, CommandPause, CommandResume, CommandAbort, CommandSupersede}).Draw(t, "command")}
				}
			case 3:
				m.now = m.now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second)
			default:
				m.step()
			}
			if m.record.Current.State.Final() && m.record.Command == nil {
				m.begin()
			}
		}
		m.record.Command = nil
		m.record.Current.resumePaused(m.now)
		for i := 0; !m.record.Current.State.Final(); i++ {
			if i > 10_000 {
				t.Fatalf("never ends: state %s, wave %d", m.record.Current.State, m.record.Current.Wave)
			}
			if a := m.step(); a.Kind == Wait {
				if a.Until.IsZero() || !a.Until.After(m.now) {
					t.Fatalf("waits for nothing: %+v at %s", a, m.now)
				}
				m.now = a.Until
			}
		}
	})
}

// The edges that waves add are in the table, and need what they must.
func TestWavesNeedGates(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := &Rollout{State: Rolling, Waves: [][]manifest.Ref{{}, {}}}
	if err := r.move(Move{To: Applying, Waves: 1}, now); err == nil {
		t.Fatal("the next wave began without a gate")
	}
	if err := r.move(Move{To: Applying, Waves: 2, Proof: healthGate(0, "", now)}, now); err == nil {
		t.Fatal("a wave was left out, beyond the last")
	}
	if err := r.move(Move{To: Applying, Waves: 1, Proof: healthGate(0, "all is well", now)}, now); err != nil {
		t.Fatal(err)
	}
	if r.Wave != 1 || r.Gates[0].Wave != 1 {
		t.Fatalf("in wave %d with the gates %+v", r.Wave, r.Gates)
	}
}
