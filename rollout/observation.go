package rollout

import (
	"time"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Observation is what the cluster shows of the release that a rollout is
// moving to: the new one, or the base while it goes back.
type Observation struct {
	// Workloads are those of that release, in the order of application.
	Workloads []Workload
	// Canaries are canary, baseline and preview workloads that exist, whichever
	// release they run.
	Canaries []CanaryWorkload
	// Services are the live ones of a blue-green rollout, or behind a route.
	Services []Service
	// Routes are those that give a canary its share.
	Routes []Route
	// Leaving counts pods of previews, or of canaries behind a route, that are gone which may still get traffic.
	Leaving int
}

// Workload is a Deployment, StatefulSet, DaemonSet or custom resource as it is
// now. Of the last, all that has to do with pods is zero, but for one that
// stands for the object itself.
type Workload struct {
	Ref    manifest.Ref
	Exists bool
	// Release is the digest of the release it was last written for.
	Release string
	// Paused as the object says. MinReady is how long its controller lets a pod
	// be ready before it counts; Raised, that a rollout changed that or another
	// setting for its time.
	Paused   bool
	MinReady time.Duration
	Raised   bool
	// Replicas it is told to have, by us or by an autoscaler.
	Replicas int32
	// Hash is the value of the label pod-template-hash that a Deployment's newest
	// pods have and no others; empty while it is not known.
	Hash   string
	Health health.Verdict
	// Partition is that of a StatefulSet, OwnPartition what its manifest says.
	// Ready means ready up to the partition.
	Partition, OwnPartition int32
	// OldBroken tells that a pod of a StatefulSet's old version does not get well.
	OldBroken bool
	// New are the names of a StatefulSet's ready pods of the new version, Stuck
	// those that its controller would wait for in vain.
	New   []string
	Stuck []DarkPod
	// ReadySince is since when this process has seen it ready without a break;
	// zero when it is not.
	ReadySince time.Time
}

// Service is a live Service of a blue-green rollout, or behind a route, as it is now.
type Service struct {
	LiveService
	Exists bool
	// Points says whose pods it sends to; with PointsStable, Hash which.
	Points Pointing
	Hash   string
	// Companions are the tracks whose own Services exist beside it.
	Companions []Track
	// Reached is since when those of canary and baseline have had all their pods
	// that serve as endpoints; zero when one has not.
	Reached time.Time
}

// CanaryWorkload is a companion Deployment beside Stable: the canary, its
// baseline, or a preview.
type CanaryWorkload struct {
	Stable     manifest.Ref
	Track      Track
	Release    string
	Replicas   int32
	Health     health.Verdict
	ReadySince time.Time
	// Dark are its pods that get no traffic yet, by name.
	Dark []DarkPod
	// Serving are the names of its pods that get traffic.
	Serving []string
}

// DarkPod is a pod of a companion that has not been let turn ready.
type DarkPod struct {
	Name string
	UID  string
	// UpSince is since when this process has seen all its containers ready
	// without a break or a restart; zero when they are not.
	UpSince time.Time
}

// baked lists the pods that have been up for the bake time, and says when the
// next one will have been; zero when none is on its way.
func (c *CanaryWorkload) baked(bake time.Duration, now time.Time) (pods []DarkPod, next time.Time) {
	for _, pod := range c.Dark {
		switch at := pod.UpSince.Add(bake); {
		case pod.UpSince.IsZero():
		case now.Before(at):
			next = sooner(next, at)
		default:
			pods = append(pods, pod)
		}
	}
	return pods, next
}

func (o *Observation) workload(ref manifest.Ref) *Workload {
	for i := range o.Workloads {
		if o.Workloads[i].Ref.Same(ref) {
			return &o.Workloads[i]
		}
	}
	return nil
}

func (o *Observation) companion(stable manifest.Ref, track Track) *CanaryWorkload {
	for i := range o.Canaries {
		if o.Canaries[i].Track == track && o.Canaries[i].Stable.Same(stable) {
			return &o.Canaries[i]
		}
	}
	return nil
}

// canarySize is how many pods of the canary stand for weight percent of n,
// rounded up so that a small weight of a small workload is still one pod.
func canarySize(weight int, n int32) int32 {
	return max(int32((int64(weight)*int64(n)+99)/100), 1)
}
