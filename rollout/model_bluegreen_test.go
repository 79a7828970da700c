package rollout

import (
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// modelService is the live Service of the model and the preview beside it.
type modelService struct {
	points  Pointing
	hash    string
	preview string // digest of the preview, "" when there is none
	size    int32
	dark    bool // its pods have not been let turn ready
	leaving int  // pods of a preview that was removed
}

var shopService = manifest.Ref{APIVersion: "v1", Kind: "Service", Namespace: "x", Name: "shop"}

func (m *model) beginBlueGreen(r *Rollout) {
	keep := time.Duration(rapid.IntRange(0, 60).Draw(m.t, "keep old")) * time.Second
	r.Strategy = Strategy{Kind: BlueGreenStrategy, BlueGreen: &BlueGreen{Hold: time.Duration(rapid.IntRange(0, 30).Draw(m.t, "hold")) * time.Second, KeepOld: &keep}}
	r.Previews = []manifest.Ref{m.ref}
	r.Services = []LiveService{{Service: shopService, Workload: m.ref}}
	if rapid.Bool().Draw(m.t, "metric") {
		most := 1.0
		r.Strategy.Metrics = []MetricGate{{Name: "load", Query: "x", Max: &most, Interval: time.Second}}
	}
}

func (m *model) observeServices(obs *Observation) {
	obs.Workloads[0].Hash = m.hashOf(m.stable)
	if m.health["stable"] != health.Failed {
		obs.Workloads[0].Health.Ready = m.n
	}
	s := &m.service
	if s.preview != "" {
		c := CanaryWorkload{Stable: m.ref, Track: PreviewTrack, Release: s.preview, Replicas: s.size,
			Health: health.Verdict{Status: m.health["preview"], Reason: health.CrashedAfterReady, Message: "as drawn"}}
		up := m.health["preview"] == health.Ready
		if s.dark {
			since := m.readySince("dark preview", m.health["preview"])
			for range s.size {
				c.Dark = append(c.Dark, DarkPod{Name: "preview", UID: "3", UpSince: since})
			}
			if up {
				c.Health.Status, c.Health.Reason = health.Progressing, health.NotReady
			}
		} else if up {
			c.Serving = make([]string, s.size)
		}
		c.ReadySince = m.readySince("preview", c.Health.Status)
		obs.Canaries = append(obs.Canaries, c)
	}
	obs.Leaving = s.leaving
	if len(m.record.Current.Services) > 0 {
		obs.Services = []Service{{LiveService: m.record.Current.Services[0], Exists: true, Points: s.points, Hash: s.hash}}
		if s.preview != "" {
			obs.Services[0].Companions = []Track{PreviewTrack}
		}
	}
}

func (m *model) hashOf(digest string) string {
	if digest == "" {
		return ""
	}
	return "hash-" + digest
}

// checkTraffic holds an action against what it would do to live requests.
func (m *model) checkTraffic(r *Rollout, a Action) {
	s := &m.service
	switch a.Kind {
	case ApplyRelease, ApplyWorkload, ApplyBase:
		if r.Strategy.Kind == RecreateStrategy && (a.Kind != ApplyWorkload || r.State == Rolling) && !a.Recreate {
			m.t.Fatal("two versions would run side by side")
		}
		if r.State == Preview || r.State == Switched {
			m.t.Fatalf("%s while the stable workload must stay as it is", a.Kind)
		}
		if r.State == Promoting && r.Strategy.Kind == BlueGreenStrategy && s.points == PointsPreview && a.Kind == ApplyRelease && a.Points != PointsPreview {
			m.t.Fatal("the stable workload takes traffic while it is replaced")
		}
	case PointService:
		switch {
		case r.State == Preview:
			m.t.Fatal("a live Service was written to before the gate passed")
		case a.Points == PointsPreview && (s.preview != r.Digest || s.dark || m.health["preview"] != health.Ready):
			m.t.Fatal("switched to a preview that does not serve")
		case a.Points == PointsPreview && (r.State != Switched || len(r.Gates) == 0):
			m.t.Fatalf("switched in state %s with %d gates", r.State, len(r.Gates))
		case a.Points == PointsStable && a.Hash != m.hashOf(m.stable):
			m.t.Fatal("tied to pods that do not exist")
		case a.Points == PointsStable && m.stable != m.digests[r.Base]:
			m.t.Fatal("traffic was given to a stable workload that is not the verified one")
		case a.Points == PointsOwn && s.points == PointsStable && s.leaving > 0 && m.now.Before(r.StateSince.Add(r.Deadline)) && r.State == RollingBack && !r.StableTouched:
			m.t.Fatal("pods of a rejected preview would get traffic as they leave")
		case a.Points == PointsOwn && s.preview != "" && !s.dark && m.stable == m.digests[r.Base] && s.preview != m.stable && !r.StableTouched && m.health["stable"] != health.Failed:
			m.t.Fatal("two versions would answer at once")
		}
	}
}

func (m *model) point(to Pointing, hash string) { m.service.points, m.service.hash = to, hash }

func (m *model) scalePreview(r *Rollout, a Action) {
	s := &m.service
	if r.State == Preview && m.stable != m.digests[r.Base] {
		m.t.Fatalf("a preview beside %q, which is not the verified release", m.stable)
	}
	if r.State != Preview && a.Replicas < s.size {
		m.t.Fatal("a preview that serves was made smaller")
	}
	if s.preview != r.Digest {
		m.written("preview")
	}
	if s.preview != r.Digest || s.size != a.Replicas {
		s.dark = true
		delete(m.since, "dark preview")
		if s.points == PointsPreview {
			s.dark = false // the pods that serve go on; the new ones are not modelled
		}
	}
	s.preview, s.size = r.Digest, a.Replicas
}

func (m *model) admitPreview(r *Rollout) {
	s := &m.service
	if !s.dark || m.health["preview"] != health.Ready || m.now.Sub(m.since["dark preview"]) < r.Bake {
		m.t.Fatal("pods of the preview turn ready that had not survived the bake")
	}
	if s.points == PointsOwn {
		m.t.Fatal("pods of the preview turn ready while the live Service selects them beside the old ones")
	}
	if len(r.Gates) == 0 {
		m.t.Fatal("a preview got traffic without a gate")
	}
	s.dark = false
}

func (m *model) removePreview() {
	s := &m.service
	if s.points == PointsPreview {
		m.t.Fatal("the preview was removed while all of the traffic went to it")
	}
	if !s.dark {
		s.leaving = int(s.size)
	}
	s.preview, s.size, s.dark = "", 0, false
}

// checkEnd holds an ended rollout against what must be left of blue-green: nothing.
func (m *model) checkEnd(r *Rollout) {
	if !r.State.Final() {
		return
	}
	if m.raised && (r.State == RolledBack || r.State == Verified) {
		m.t.Fatalf("ended in %s with settings that are not the workload's own", r.State)
	}
	m.checkRouteEnd(r)
	if m.service.points != PointsOwn {
		m.t.Fatalf("ended in %s with a live Service that points at %q", r.State, m.service.points)
	}
	// A base that does not get well again must not cost the pods that serve.
	if m.service.preview != "" && (r.State != Failed || !r.StableTouched) {
		m.t.Fatalf("ended in %s with a preview left", r.State)
	}
}
