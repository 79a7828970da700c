package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// look takes an observation of the workloads of release.
func (o *observer) look(release *manifest.Release, r *Rollout, now time.Time) (Observation, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	pods, err := selected[*corev1.Pod](o, o.podCache)
	if err != nil {
		return Observation{}, fmt.Errorf("listing pods: %w", err)
	}
	sets, err := selected[*appsv1.ReplicaSet](o, o.setCache)
	if err != nil {
		return Observation{}, fmt.Errorf("listing ReplicaSets: %w", err)
	}
	events, err := o.eventsAbout(pods, release)
	if err != nil {
		return Observation{}, err
	}
	tolerance := health.DefaultTolerance
	tolerance.Since = r.Started
	if r.State == RollingBack {
		tolerance.Since = r.StateSince
	}
	obs := Observation{}
	for _, u := range release.Objects {
		ref := manifest.RefOf(u)
		if manifest.IsCustom(ref) {
			obs.Workloads = append(obs.Workloads, o.lookAtResource(ref, r, now))
			continue
		}
		if !manifest.IsWorkload(ref) {
			continue
		}
		w := Workload{Ref: ref}
		switch ref.Kind {
		case "Deployment":
			d := o.deployment(ref.Name)
			w.Health = health.Deployment(health.Input{Deployment: d, ReplicaSets: sets, Pods: pods, Events: events, Tolerance: tolerance, Now: now})
			if d != nil {
				w.Exists, w.Release, w.Paused = true, d.Annotations[manifest.AnnotationRelease], d.Spec.Paused
				w.Raised = borrowed(d)
				w.MinReady = time.Duration(d.Spec.MinReadySeconds) * time.Second
				w.Replicas = w.Health.Desired
				if current := health.NewReplicaSet(d, sets); current != nil {
					w.Hash = current.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
				}
			}
		case "StatefulSet":
			s := o.statefulSet(ref.Name)
			w.Health = health.StatefulSet(s, pods, events, tolerance, now)
			if s != nil {
				w.Exists, w.Release, w.Replicas = true, s.Annotations[manifest.AnnotationRelease], w.Health.Desired
				w.Raised, w.OwnPartition = borrowed(s), ownPartition(u)
				w.MinReady = time.Duration(s.Spec.MinReadySeconds) * time.Second
				if rolling := s.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
					w.Partition = *rolling.Partition
				}
				broken, recheck := oldBroken(s, pods, now)
				w.OldBroken, w.Health.Recheck = broken, sooner(w.Health.Recheck, recheck)
				w.Stuck = o.notGone(stuckPods(s, pods))
				if r.waveOf(ref) == r.Wave { // those of an earlier wave are no canary's
					w.New = health.NewPods(s, pods)
				}
			}
		case "DaemonSet":
			d := o.daemonSet(ref.Name)
			w.Health = health.DaemonSet(d, pods, events, tolerance, now)
			if d != nil {
				w.Exists, w.Release, w.Replicas = true, d.Annotations[manifest.AnnotationRelease], w.Health.Desired
				w.Raised = borrowed(d)
				w.MinReady = time.Duration(d.Spec.MinReadySeconds) * time.Second
			}
		}
		w.ReadySince = o.readySince(ref.Kind+"/"+ref.Name, w.Health.Status == health.Ready, now)
		obs.Workloads = append(obs.Workloads, w)
	}
	for _, ref := range r.canaryRefs(release) {
		for _, track := range []Track{CanaryTrack, BaselineTrack, PreviewTrack} {
			d := o.deployment(track.Name(ref.Name))
			if d == nil || d.DeletionTimestamp != nil || d.Labels[manifest.LabelApp] != o.store.app || d.Labels[manifest.LabelTrack] != string(track) {
				continue
			}
			strict := health.CanaryTolerance
			strict.Since = r.Started
			c := CanaryWorkload{Stable: ref, Track: track, Release: d.Annotations[manifest.AnnotationRelease],
				Health: health.Deployment(health.Input{Deployment: d, ReplicaSets: sets, Pods: pods, Events: events, Tolerance: strict, Now: now})}
			c.Replicas = c.Health.Desired
			c.ReadySince = o.readySince(string(track)+"/"+ref.Name, c.Health.Status == health.Ready, now)
			c.Dark, c.Serving = o.companionPods(d, sets, pods, now)
			obs.Canaries = append(obs.Canaries, c)
		}
	}
	o.lookAtServices(&obs, r, pods, now)
	o.lookAtRoutes(&obs, r)
	return obs, nil
}

// companionPods lists a companion's pods that wait at the readiness gate, and
// the names of those that serve.
func (o *observer) companionPods(companion *appsv1.Deployment, sets []*appsv1.ReplicaSet, pods []*corev1.Pod, now time.Time) (dark []DarkPod, serving []string) {
	current := health.NewReplicaSet(companion, sets)
	for _, pod := range pods {
		if current == nil || !metav1.IsControlledBy(pod, current) || pod.DeletionTimestamp != nil || over(pod) {
			continue
		}
		if !gated(pod) || conditionTrue(pod, bakedCondition) || o.admitted[string(pod.UID)] {
			if conditionTrue(pod, corev1.PodReady) {
				serving = append(serving, pod.Name)
			}
			continue
		}
		// A restart begins the bake anew even if no cache ever showed the pod down.
		key := fmt.Sprintf("pod/%s/%d", pod.UID, restartsOf(pod))
		dark = append(dark, DarkPod{Name: pod.Name, UID: string(pod.UID), UpSince: o.readySince(key, conditionTrue(pod, corev1.ContainersReady), now)})
	}
	slices.SortFunc(dark, func(a, b DarkPod) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(serving)
	return dark, serving
}

// over tells that a pod will not run again: what an eviction leaves.
func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

func conditionTrue(pod *corev1.Pod, kind corev1.PodConditionType) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == kind && c.Status == corev1.ConditionTrue
	})
}

func restartsOf(pod *corev1.Pod) int32 {
	var n int32
	for i := range pod.Status.ContainerStatuses {
		n += pod.Status.ContainerStatuses[i].RestartCount
	}
	return n
}

func (o *observer) readySince(key string, ready bool, now time.Time) time.Time {
	if !ready {
		delete(o.ready, key)
		return time.Time{}
	}
	if _, ok := o.ready[key]; !ok {
		o.ready[key] = now
	}
	return o.ready[key]
}
