package rollout

import (
	"slices"

	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/rollout/health"
)

// modelPods are the pods of a StatefulSet: the digest of each, by ordinal.
type modelPods struct {
	digests   []string
	partition int32
	broken    bool // an old one does not get well
}

func (m *model) stateful() bool { return m.ref.Kind == "StatefulSet" }

// fillPods makes the pods that are missing and removes those that are too many.
func (m *model) fillPods(digest string) {
	p := &m.pods
	for int32(len(p.digests)) < m.n {
		if int32(len(p.digests)) >= p.partition {
			digest = m.stable
		}
		p.digests = append(p.digests, digest)
	}
	p.digests = p.digests[:m.n]
}

// old are the pods that the controller has still to replace.
func (m *model) old() (n int) {
	for i, digest := range m.pods.digests {
		if int32(i) >= m.pods.partition && digest != m.stable {
			n++
		}
	}
	return n
}

// controller replaces one pod, as the StatefulSet controller does: the highest
// that is not of the wanted version.
func (m *model) controller() {
	if !m.stateful() || m.stable == "" {
		return
	}
	m.fillPods(m.stable)
	for i, digest := range slices.Backward(m.pods.digests) {
		if int32(i) >= m.pods.partition && digest != m.stable {
			m.pods.digests[i] = m.stable
			delete(m.since, "stable")
			m.health["stable"] = rapid.SampledFrom([]health.Status{health.Ready, health.Ready, health.Ready, health.Progressing, health.Failed}).Draw(m.t, "the new pod is")
			m.pods.broken = false
			return
		}
	}
}

// settle lets the controller do all it may.
func (m *model) settle() {
	for m.stateful() && m.stable != "" && m.old() > 0 {
		m.controller()
	}
}

func (m *model) observePods(w *Workload) {
	if !m.stateful() {
		return
	}
	if m.stable != "" {
		m.fillPods(m.stable)
	}
	w.Partition, w.OldBroken = m.pods.partition, m.pods.broken
	for _, digest := range m.pods.digests {
		if digest == m.stable {
			w.Health.Ready++
		}
	}
	if w.Health.Status == health.Ready && (m.old() > 0 || m.pods.broken) {
		w.Health.Status, w.Health.Reason = health.Progressing, health.NotReady
	}
}

// applyPods does what a write of the StatefulSet does to its partition.
func (m *model) applyPods(r *Rollout, a Action) {
	if !m.stateful() {
		return
	}
	switch {
	case a.Kind == ApplyRelease && r.State == Applying && r.partitioned(m.ref):
		m.pods.partition = held
	case a.Kind == ApplyRelease && r.partitioned(m.ref): // begun by the canary: stays as it is
	case a.Partition != nil:
		m.pods.partition = *a.Partition
	default:
		m.pods.partition = 0
	}
	delete(m.since, "stable")
	if m.old() > 0 && rapid.IntRange(0, 30).Draw(m.t, "an old pod breaks") == 0 {
		m.pods.broken = true
	}
}

// checkPartition holds a write against the gates that are recorded: they alone
// say how many pods may be of a version that is not verified.
func (m *model) checkPartition(r *Rollout, a Action) {
	if !m.stateful() || r.Base == 0 {
		return
	}
	if a.Move != nil && a.Move.Proof != nil && r.State != Pending && a.Move.Proof.gate.Kind != "manual" && (m.old() > 0 || m.health["stable"] != health.Ready) {
		m.t.Fatalf("a gate passed with %d pods to replace, health %s", m.old(), m.health["stable"])
	}
	if a.Move != nil && a.Move.Proof != nil && a.Move.Proof.gate.Kind == BatchGate && (m.since["stable"].IsZero() || m.now.Sub(m.since["stable"]) < r.Bake) {
		m.t.Fatal("a batch passed that had not survived the bake")
	}
	if a.Kind != ApplyWorkload || r.State == RollingBack || r.State == Finishing || m.pods.broken {
		return
	}
	if a.Partition == nil {
		m.t.Fatal("all pods were let go at once")
	}
	passed := int32(0)
	for _, g := range r.Gates {
		if g.Kind == BatchGate {
			passed++
		}
	}
	size := map[string]int32{"": canarySize(25, m.n), "1": 1, "3": 3, "50%": canarySize(50, m.n), "100%": m.n}[r.Strategy.Batch]
	allowed := 1 + passed*size
	if r.Strategy.Kind == CanaryStrategy {
		last := canarySize(r.Strategy.Steps[len(r.Strategy.Steps)-1].Weight, m.n)
		if allowed = max(allowed, last); r.State == Canary {
			allowed = canarySize(r.Strategy.Steps[r.Step-1].Weight, m.n)
		}
	}
	if replaced := m.n - *a.Partition; replaced > allowed {
		m.t.Fatalf("%d of %d pods may be replaced, and %d batches passed with batch %q", replaced, m.n, passed, r.Strategy.Batch)
	}
}
