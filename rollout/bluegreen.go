package rollout

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// DefaultKeepOld is how long blue-green keeps the old version after the switch
// when nothing else is said: long enough to see errors come in and go back.
const DefaultKeepOld = time.Minute

// BlueGreen holds the settings of that strategy; the zero value is usable.
type BlueGreen struct {
	// Hold is how long the preview must stay good before the switch; the bake
	// time, where that is longer.
	Hold time.Duration `json:"hold,omitempty"`
	// KeepOld is how long the old version runs on after the switch, so that the
	// way back is one write. nil means DefaultKeepOld; with 0 it is the bake time.
	KeepOld *time.Duration `json:"keepOld,omitempty"`
}

func (s *Strategy) checkBlueGreen() error {
	if s.BlueGreen == nil {
		s.BlueGreen = &BlueGreen{}
	}
	if s.BlueGreen.KeepOld == nil {
		keep := DefaultKeepOld
		s.BlueGreen.KeepOld = &keep
	}
	if b := s.BlueGreen; b.Hold < 0 || b.Hold > MaxHold || *b.KeepOld < 0 || *b.KeepOld > MaxHold {
		return fmt.Errorf("%w: blue-green: hold %s, keep-old %s: use 0s to %s", ErrInvalid, b.Hold, *b.KeepOld, MaxHold)
	}
	for _, g := range s.Metrics {
		if g.Compares() {
			return fmt.Errorf("%w: metric %s compares with a baseline, which only a canary has; with blue-green use query with min or max", ErrInvalid, g.Name)
		}
	}
	return nil
}

// LiveService is a Service that a blue-green rollout switches, and the
// workload whose pods it selects.
type LiveService struct {
	Service  manifest.Ref `json:"service"`
	Workload manifest.Ref `json:"workload"`
}

// Pointing says whose pods a live Service sends to.
type Pointing string

// The pointings. Every one is a whole selector, so that a change is one write
// and no request falls between two versions.
const (
	PointsOwn     Pointing = ""        // the selector of the manifest: all ready pods
	PointsStable  Pointing = "stable"  // the stable workload's newest pods alone
	PointsPreview Pointing = "preview" // the preview's alone
)

// aim narrows the selector of a Service.
func aim(u *unstructured.Unstructured, to Pointing, hash string) error {
	key, value := manifest.LabelTrack, string(PreviewTrack)
	switch to {
	case PointsOwn:
		return nil
	case PointsStable:
		key, value = appsv1.DefaultDeploymentUniqueLabelKey, hash
	}
	if err := unstructured.SetNestedField(u.Object, value, "spec", "selector", key); err != nil {
		return fmt.Errorf("%s: spec.selector: %w", manifest.RefOf(u), err)
	}
	return nil
}

// pointing reads what aim wrote.
func pointing(selector map[string]string) (to Pointing, hash string) {
	if selector[manifest.LabelTrack] == string(PreviewTrack) {
		return PointsPreview, ""
	}
	if hash := selector[appsv1.DefaultDeploymentUniqueLabelKey]; hash != "" {
		return PointsStable, hash
	}
	return PointsOwn, ""
}

// switches tells whether the rollout switches the Service.
func (r *Rollout) switches(ref manifest.Ref) bool {
	return slices.ContainsFunc(r.Services, func(s LiveService) bool { return s.Service.Same(ref) })
}

// previewPlan says which workloads run twice, and which Services are switched
// between the two. note tells what is not, and why.
func previewPlan(release, base *manifest.Release) (previews []manifest.Ref, services []LiveService, note string, err error) {
	if base == nil {
		return nil, nil, "nothing verified runs yet, so there is nothing to switch from: rolling instead of blue-green", nil
	}
	changed := 0
	for _, u := range release.Objects {
		ref := manifest.RefOf(u)
		if !manifest.IsWorkload(ref) {
			continue
		}
		before := base.Find(ref)
		if before == nil || sameTemplate(before, u) {
			continue
		}
		if ref.Kind != "Deployment" {
			return nil, nil, "", fmt.Errorf("%w: %s changes, and a second %s beside it is not possible: its pods have identities of their own; use strategy rolling or canary for this release", ErrInvalid, ref, ref.Kind)
		}
		changed++
		live, err := liveServices(release, base, u, PreviewTrack)
		if err != nil {
			return nil, nil, "", err
		}
		if len(live) == 0 {
			note = fmt.Sprintf("%s has no Service to switch: it is updated by rolling after the others were switched", ref)
			continue
		}
		previews, services = append(previews, ref), append(services, live...)
	}
	switch {
	case changed == 0:
		return nil, nil, "no pod template of a workload that runs already changes: rolling instead of blue-green", nil
	case len(previews) == 0:
		return nil, nil, "", fmt.Errorf("%w: blue-green switches a Service, and none of this release and the one before selects pods of a Deployment that changes; add one, or use strategy rolling or canary", ErrInvalid)
	}
	return previews, services, note, nil
}

// liveServices are those that select the workload's pods now and with the new
// release. track is that of the companion which gets Services of its own.
func liveServices(release, base *manifest.Release, workload *unstructured.Unstructured, track Track) ([]LiveService, error) {
	var found []LiveService
	for _, u := range release.Objects {
		ref := manifest.RefOf(u)
		if !isService(ref) || !selects(u, workload) {
			continue
		}
		before := base.Find(ref)
		if before == nil || !selects(before, base.Find(manifest.RefOf(workload))) {
			continue
		}
		for _, other := range release.Objects {
			if o := manifest.RefOf(other); manifest.IsWorkload(o) && !o.Same(manifest.RefOf(workload)) && selects(u, other) {
				return nil, fmt.Errorf("%w: %s selects pods of %s and of %s; %s needs a Service that selects those of one", ErrInvalid, ref, manifest.RefOf(workload), o, track.purpose())
			}
		}
		preview := track.Name(ref.Name)
		if errs := validation.IsDNS1035Label(preview); len(errs) > 0 {
			return nil, fmt.Errorf("%w: the %s Service of %s would be called %q: %s; use a shorter name", ErrInvalid, track, ref, preview, errs[0])
		}
		if release.Contains(track.ref(ref)) || base.Contains(track.ref(ref)) {
			return nil, fmt.Errorf("%w: the manifests have a Service %q, which is the name of the %s Service of %s; rename it", ErrInvalid, preview, track, ref)
		}
		found = append(found, LiveService{Service: ref, Workload: manifest.RefOf(workload)})
	}
	return found, nil
}

func isService(ref manifest.Ref) bool {
	return ref.Kind == "Service" && ref.GroupVersionKind().Group == ""
}

// selects tells whether a Service sends to the pods of a workload.
func selects(service, workload *unstructured.Unstructured) bool {
	selector, _, errS := unstructured.NestedStringMap(service.Object, "spec", "selector")
	labels, _, errL := unstructured.NestedStringMap(workload.Object, "spec", "template", "metadata", "labels")
	if errS != nil || errL != nil || len(selector) == 0 || service.GetNamespace() != workload.GetNamespace() {
		return false
	}
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// purpose is what a companion's own Service is needed for.
func (t Track) purpose() string {
	if t != PreviewTrack {
		return "traffic by a router"
	}
	return "blue-green"
}

// companionService makes the Service that reaches a preview, or a canary, alone. A
// preview's serves pods that are not ready: they are kept from the live Service by that.
func companionService(u *unstructured.Unstructured, track Track, owner types.UID, workload manifest.Ref) (*unstructured.Unstructured, error) {
	ref := manifest.RefOf(u)
	labels := u.GetLabels()
	labels[manifest.LabelTrack] = string(track)
	annotations := u.GetAnnotations()
	ports, _, err := unstructured.NestedSlice(u.Object, "spec", "ports")
	if err != nil {
		return nil, fmt.Errorf("making the companion of %s: spec.ports: %w", ref, err)
	}
	for _, port := range ports {
		if p, ok := port.(map[string]any); ok {
			delete(p, "nodePort")
		}
	}
	selector, _, err := unstructured.NestedMap(u.Object, "spec", "selector")
	if err != nil {
		return nil, fmt.Errorf("making the companion of %s: spec.selector: %w", ref, err)
	}
	selector[manifest.LabelTrack] = string(track)
	spec := map[string]any{"selector": selector, "ports": ports}
	if track == PreviewTrack {
		spec["publishNotReadyAddresses"] = true
	}
	preview := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Service", "spec": spec}}
	preview.SetName(track.Name(u.GetName()))
	preview.SetNamespace(u.GetNamespace())
	preview.SetLabels(labels)
	preview.SetAnnotations(map[string]string{
		manifest.AnnotationRelease: annotations[manifest.AnnotationRelease], manifest.AnnotationRevision: annotations[manifest.AnnotationRevision]})
	// It goes when the preview goes, whoever removes that.
	companion := track.ref(workload)
	preview.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: companion.APIVersion, Kind: companion.Kind, Name: companion.Name, UID: owner}})
	return preview, nil
}

// previewsAreFree makes sure that no one else's Service has the name of a companion's.
func (d *driver) previewsAreFree(ctx context.Context, r *Rollout) error {
	for _, live := range r.Services {
		for _, track := range r.companionTracks() {
			found, err := d.get(ctx, track.ref(live.Service))
			if err != nil {
				return err
			}
			if found != nil && found.GetLabels()[manifest.LabelApp] != d.app {
				return fmt.Errorf("%w: there is a %s, which Tidegate did not make; rename it: the %s of %s needs the name", ErrRejected, track.ref(live.Service), track, live.Service)
			}
		}
	}
	return nil
}

// applyCompanionServices gives the preview or canary of a workload, which is
// owner, its Services.
func (d *driver) applyCompanionServices(ctx context.Context, track Track, workload manifest.Ref, owner types.UID) error {
	r := d.record.Current
	for _, live := range r.Services {
		if !live.Workload.Same(workload) {
			continue
		}
		if err := d.mayWrite(ctx); err != nil {
			return err
		}
		u, err := companionService(manifest.Stamped(d.release.Find(live.Service), d.app, r.Revision, d.release.Digest), track, owner, workload)
		if err != nil {
			return err
		}
		written, err := d.put(ctx, u)
		if err != nil {
			return err
		}
		d.watch.wrote(written)
	}
	return nil
}

// point writes a live Service with another selector. What else it says is the
// base's while the base serves, and the release's afterwards.
func (d *driver) point(ctx context.Context, a Action) error {
	release, revision := d.release, d.record.Current.Revision
	if a.Base {
		release, revision = d.base, d.record.Current.Base
	}
	u := manifest.Stamped(release.Find(a.Ref), d.app, revision, release.Digest)
	if err := aim(u, a.Points, a.Hash); err != nil {
		return err
	}
	written, err := d.put(ctx, u)
	if err != nil {
		return err
	}
	d.watch.wrote(written)
	return nil
}

func (o *observer) service(name string) *corev1.Service {
	s, err := o.services.Services(o.store.namespace).Get(name)
	return newest(o, "Service/"+name, s, err)
}

// lookAtServices observes what a blue-green rollout switches, and what is behind routes.
func (o *observer) lookAtServices(obs *Observation, r *Rollout, pods []*corev1.Pod, now time.Time) {
	if o.services == nil {
		return
	}
	tracks := r.companionTracks()
	for _, live := range r.Services {
		s := Service{LiveService: live}
		if found := o.service(live.Service.Name); found != nil {
			s.Exists = true
			s.Points, s.Hash = pointing(found.Spec.Selector)
		}
		for _, track := range tracks {
			if o.belongs(track.Name(live.Service.Name), o.deployment(track.Name(live.Workload.Name))) {
				s.Companions = append(s.Companions, track)
			}
		}
		s.Reached = o.reached(*obs, r, live, now)
		obs.Services = append(obs.Services, s)
	}
	for _, pod := range pods {
		if slices.Contains(tracks, Track(pod.Labels[manifest.LabelTrack])) && pod.DeletionTimestamp == nil {
			obs.Leaving++
		}
	}
}

// belongs tells whether a companion's Service exists and goes with it.
func (o *observer) belongs(service string, companion *appsv1.Deployment) bool {
	found := o.service(service)
	return found != nil && companion != nil &&
		slices.ContainsFunc(found.OwnerReferences, func(owner metav1.OwnerReference) bool { return owner.UID == companion.UID })
}
