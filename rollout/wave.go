package rollout

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// A release with waves is written wave by wave: state applying (and, for the
// wave of the canary, canary and promoting), then rolling until the wave's gate
// has passed, then the next. Going back takes the waves in the opposite order.

// arrangeWaves finds the waves of the release, and decides which of them a
// canary belongs to: the last in which a workload changes that can have one.
// What comes before must have passed already when the canary begins, since it
// depends on that. note tells what is therefore not as asked for.
func (r *Rollout) arrangeWaves(release, base *manifest.Release) (note string, err error) {
	waves, err := manifest.Waves(release.Objects)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if waves == nil {
		return "", nil
	}
	if r.Strategy.Kind == BlueGreenStrategy {
		return "", fmt.Errorf("%w: the release has %d waves, and blue-green brings everything up at once; use rolling or canary, or leave out %s and %s", ErrInvalid,
			len(waves), manifest.AnnotationWave, manifest.AnnotationAfter)
	}
	r.Waves = make([][]manifest.Ref, len(waves))
	for i, wave := range waves {
		for _, ref := range wave {
			if manifest.IsWorkload(ref) || manifest.IsCustom(ref) {
				r.Waves[i] = append(r.Waves[i], ref)
			}
		}
	}
	if r.Strategy.Kind != CanaryStrategy {
		return "", nil
	}
	for _, ref := range slices.Concat(r.Canaries, changedStatefulSets(release, base)) {
		r.CanaryWave = max(r.CanaryWave, r.waveOf(ref))
	}
	var early []string
	r.Canaries = slices.DeleteFunc(r.Canaries, func(ref manifest.Ref) bool {
		if r.waveOf(ref) == r.CanaryWave {
			return false
		}
		early = append(early, ref.Kind+"/"+ref.Name)
		return true
	})
	if len(early) == 0 {
		return "", nil
	}
	return fmt.Sprintf("%s changes in a wave before that of the canary: it is updated by rolling, with its gate", strings.Join(early, ", ")), nil
}

// reverseWaves lets what was written last be the first to go back.
func (r *Rollout) reverseWaves() {
	slices.Reverse(r.Waves)
	r.Reversed = len(r.Waves) > 0
}

// waveOf is the wave of what is waited for, from 0. What the release does not
// have was there before it, and goes with the last.
func (r *Rollout) waveOf(ref manifest.Ref) int {
	for i, wave := range r.Waves {
		if slices.ContainsFunc(wave, ref.Same) {
			return i
		}
	}
	return max(len(r.Waves)-1, 0)
}

// lastWave tells whether none follows the present one.
func (r *Rollout) lastWave() bool { return r.Wave >= len(r.Waves)-1 }

// begun tells whether the wave of what is waited for has been begun or, while
// going back, whether it has been put back.
func (r *Rollout) begun(ref manifest.Ref) bool {
	if r.State == RollingBack {
		return r.waveOf(ref) >= r.Wave
	}
	return r.waveOf(ref) <= r.Wave
}

// inPlace tells whether the present wave is written to the stable workloads
// from its start.
func (r *Rollout) inPlace() bool {
	return r.Strategy.inPlace() || len(r.Waves) > 0 && r.Wave != r.CanaryWave
}

// disturbed tells whether a workload that gets a canary is of another release
// than the base: one that was superseded had begun to replace it.
func disturbed(r *Rollout, base string, obs Observation) bool {
	return r.Wave > 0 && slices.ContainsFunc(r.Canaries, func(ref manifest.Ref) bool {
		w := obs.workload(ref)
		return w != nil && w.Release != "" && w.Release != base
	})
}

// waveText names the present wave for people; "" when there is but one.
func (r *Rollout) waveText() string {
	if len(r.Waves) == 0 {
		return ""
	}
	return fmt.Sprintf(", wave %d of %d", r.Wave+1, len(r.Waves))
}

// waveIndex tells the wave of every object of a release.
type waveIndex map[objectKey]int

// objectKey names an object whatever the version of its API.
type objectKey struct {
	kind            schema.GroupKind
	namespace, name string
}

func keyOf(ref manifest.Ref) objectKey {
	return objectKey{ref.GroupVersionKind().GroupKind(), ref.Namespace, ref.Name}
}

// indexWaves has the waves of a release in their order, or in the opposite one:
// what pods need comes first all the same.
func indexWaves(release *manifest.Release, reversed bool) waveIndex {
	waves, err := manifest.Waves(release.Objects)
	if err != nil {
		return nil // was refused when the release was made
	}
	index := waveIndex{}
	for i, wave := range waves {
		for _, ref := range wave {
			switch {
			case !reversed:
				index[keyOf(ref)] = i
			case !manifest.NeededByPods(ref):
				index[keyOf(ref)] = len(waves) - 1 - i
			default:
				index[keyOf(ref)] = 0
			}
		}
	}
	return index
}

// due tells whether an object of the release is to be written in the present wave.
func (i waveIndex) due(r *Rollout, ref manifest.Ref) bool {
	return len(r.Waves) == 0 || i[keyOf(ref)] == r.Wave
}

// restored tells whether an object of the base is put back with the present
// wave. What pods need, and what the release does not have, is put back first.
func (i waveIndex) restored(r *Rollout, ref manifest.Ref) bool {
	if len(r.Waves) == 0 || manifest.NeededByPods(ref) {
		return true
	}
	wave, known := i[keyOf(ref)]
	return !known || wave >= r.Wave
}
