package rollout

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// arrange decides which workloads the strategy moves, and how. It is pure. Notes
// tell a person what will be done otherwise than asked for, and what it costs.
// disturbed says that a release which never ended may have left pods behind.
func (r *Rollout) arrange(release, base *manifest.Release, disturbed bool) (notes []string, err error) {
	if err := refusePaused(release); err != nil {
		return nil, err
	}
	note := ""
	switch r.Strategy.Kind {
	case CanaryStrategy:
		if r.Canaries, note, err = canaryPlan(release, base); err != nil {
			return nil, err
		}
		switch moved := changedStatefulSets(release, base); {
		case len(moved) > 0 && r.Strategy.compares():
			return nil, fmt.Errorf("%w: %s changes, and there is no fresh baseline to compare it with: its pods have identities of their own; use metrics with query, min and max", ErrInvalid, moved[0])
		case len(moved) > 0:
			note = ""
		case len(r.Canaries) == 0:
			r.Strategy = Strategy{Kind: RollingStrategy}
		}
	case BlueGreenStrategy:
		if r.Previews, r.Services, note, err = previewPlan(release, base); err != nil {
			return nil, err
		}
		if len(r.Previews) == 0 {
			r.Strategy = Strategy{Kind: RollingStrategy}
		}
	case RecreateStrategy:
		if note, err = recreatePlan(release, base); err != nil {
			return nil, err
		}
	}
	if note != "" {
		notes = append(notes, note)
	}
	if note, err = r.arrangeWaves(release, base); err != nil {
		return nil, err
	}
	if note != "" {
		notes = append(notes, note)
	}
	r.Partitioned, err = partitionPlan(release, base, disturbed && r.Strategy.Kind == RollingStrategy)
	return notes, err
}

// refusePaused refuses a Deployment that its own manifest keeps from moving.
func refusePaused(release *manifest.Release) error {
	for _, u := range release.Objects {
		if paused, _, err := unstructured.NestedBool(u.Object, "spec", "paused"); err == nil && paused && u.GetKind() == "Deployment" {
			return fmt.Errorf("%w: %s says paused: true, so that its pods would never be replaced; leave it out, and use tidegate rollout pause", ErrInvalid, manifest.RefOf(u))
		}
	}
	return nil
}

// changedStatefulSets lists those that run already and whose pods change.
func changedStatefulSets(release, base *manifest.Release) []manifest.Ref {
	if base == nil {
		return nil
	}
	return changed(release, base, "StatefulSet")
}

// changed lists the workloads of a kind that both releases have and whose pods differ.
func changed(release, base *manifest.Release, kind string) []manifest.Ref {
	var refs []manifest.Ref
	for _, u := range release.Objects {
		if ref := manifest.RefOf(u); manifest.IsWorkload(ref) && ref.Kind == kind && changes(u, base) {
			refs = append(refs, ref)
		}
	}
	return refs
}

// changes tells whether the base has the workload too, with other pods.
func changes(u *unstructured.Unstructured, base *manifest.Release) bool {
	before := base.Find(manifest.RefOf(u))
	return before != nil && !sameTemplate(before, u)
}
