package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// MaxWaves of one release.
const MaxWaves = 20

// maxWaveNumber bounds what AnnotationWave may say, to both sides of zero.
const maxWaveNumber = 1000

// Waves parts the objects of a release into those that are written one after
// another: what an object comes after is in an earlier wave, and lower numbers
// are before higher ones. It is nil when nothing asks for an order. The objects
// of each are in the order of application. A cycle, a name that is not there and
// an order that contradicts itself are errors, with the place in the file where
// that is known (see Origin).
//
// Objects that ask for nothing are in wave 0, but for what follows from them:
//   - what pods may need to start (see NeededByPods) is in the first wave;
//   - a Service, a PodDisruptionBudget or an autoscaler goes with the workload
//     that it is for, the earliest if there are several.
func Waves(objects []*unstructured.Unstructured) ([][]Ref, error) {
	w := &waving{objects: objects, places: make([]place, len(objects)), state: make([]visitState, len(objects))}
	asked, err := w.read()
	if err != nil || !asked {
		return nil, err
	}
	for i := range objects {
		if err := w.settle(i, nil); err != nil {
			return nil, err
		}
	}
	return w.group()
}

// place is where an object stands in the order.
type place struct {
	asked  bool
	number int // of the wave, by the annotation
	fixed  bool
	after  []int
	depth  int // among those of one number
}

func (p place) compare(other place) int {
	return cmp.Or(cmp.Compare(p.number, other.number), cmp.Compare(p.depth, other.depth))
}

type visitState int

const (
	unvisited visitState = iota
	visiting
	visited
)

type waving struct {
	objects []*unstructured.Unstructured
	places  []place
	state   []visitState
}

// read takes the annotations, and tells whether there is one.
func (w *waving) read() (asked bool, err error) {
	for i, u := range w.objects {
		annotations := u.GetAnnotations()
		if text, ok := annotations[AnnotationWave]; ok {
			n, err := strconv.Atoi(strings.TrimSpace(text))
			if err != nil || n < -maxWaveNumber || n > maxWaveNumber {
				return false, refuseWave(u, "%s is %q; write a whole number such as \"-1\", at most %d", AnnotationWave, text, maxWaveNumber)
			}
			w.places[i].number, w.places[i].fixed, w.places[i].asked = n, true, true
		}
		text, ok := annotations[AnnotationAfter]
		if !ok {
			asked = asked || w.places[i].asked
			continue
		}
		for name := range strings.SplitSeq(text, ",") {
			other, err := w.find(u, strings.TrimSpace(name))
			if err != nil {
				return false, err
			}
			if other == i {
				return false, refuseWave(u, "%s names the object itself", AnnotationAfter)
			}
			w.places[i].after = append(w.places[i].after, other)
			w.places[other].asked = true // it stands where it says itself
		}
		w.places[i].asked, asked = true, true
	}
	return asked, nil
}

// find looks for the object that "kind/name" means: one of u's namespace, or of none.
func (w *waving) find(u *unstructured.Unstructured, text string) (int, error) {
	kind, name, ok := strings.Cut(text, "/")
	if !ok || kind == "" || name == "" {
		return 0, refuseWave(u, "%s: %q: write KIND/NAME, such as deployment/db", AnnotationAfter, text)
	}
	found := -1
	var names []string
	for i, other := range w.objects {
		gvk := other.GroupVersionKind()
		if ns := other.GetNamespace(); ns != "" && ns != u.GetNamespace() {
			continue
		}
		if other.GetName() != name && other.GetAnnotations()[AnnotationBaseName] != name {
			continue
		}
		names = append(names, strings.ToLower(gvk.Kind)+"/"+name)
		if !strings.EqualFold(kind, gvk.Kind) && !strings.EqualFold(kind, gvk.Kind+"."+gvk.Group) {
			continue
		}
		if found >= 0 {
			return 0, refuseWave(u, "%s: %q could be %s or %s; write the group too, as in %s.%s/%s", AnnotationAfter, text,
				w.objects[found].GetAPIVersion(), other.GetAPIVersion(), gvk.Kind, gvk.Group, name)
		}
		found = i
	}
	if found < 0 {
		hint := "the release has no such object"
		if len(names) > 0 {
			hint = "the release has " + strings.Join(names, " and ")
		}
		return 0, refuseWave(u, "%s: %q is not there: %s", AnnotationAfter, text, hint)
	}
	return found, nil
}

// settle finds out where an object stands once all that it comes after do. path
// is how it was come to.
func (w *waving) settle(i int, path []int) error {
	switch w.state[i] {
	case visited:
		return nil
	case visiting:
		var names []string
		for _, at := range append(path[slices.Index(path, i):], i) {
			names = append(names, short(w.objects[at]))
		}
		return refuseWave(w.objects[i], "%s goes round in a circle: %s", AnnotationAfter, strings.Join(names, " after "))
	}
	w.state[i] = visiting
	p := &w.places[i]
	for _, other := range p.after {
		if err := w.settle(other, append(path, i)); err != nil {
			return err
		}
		before := w.places[other]
		if before.number > p.number {
			if p.fixed {
				return refuseWave(w.objects[i], "it is in wave %d and comes after %s, which is in wave %d", p.number, short(w.objects[other]), before.number)
			}
			p.number, p.depth = before.number, 0
		}
		if before.number == p.number {
			p.depth = max(p.depth, before.depth+1)
		}
	}
	w.state[i] = visited
	return nil
}

// group makes the waves of the places.
func (w *waving) group() ([][]Ref, error) {
	var places []place
	for i, u := range w.objects {
		if w.places[i].asked || gated(u) {
			places = append(places, place{number: w.places[i].number, depth: w.places[i].depth})
		}
	}
	slices.SortFunc(places, place.compare)
	places = slices.CompactFunc(places, func(a, b place) bool { return a.compare(b) == 0 })
	if len(places) > MaxWaves {
		return nil, fmt.Errorf("the release has %d waves; at most %d are allowed", len(places), MaxWaves)
	}
	if len(places) < 2 {
		return nil, nil
	}
	waves := make([][]Ref, len(places))
	for i, u := range w.objects {
		at := w.wave(i, places)
		waves[at] = append(waves[at], RefOf(u))
	}
	return waves, nil
}

// wave is the index of the wave that an object belongs to.
func (w *waving) wave(i int, places []place) int {
	u := w.objects[i]
	if w.places[i].asked || gated(u) {
		return w.index(places, w.places[i])
	}
	if NeededByPods(RefOf(u)) {
		return 0
	}
	earliest := -1
	for j, other := range w.objects {
		if !serves(u, other) {
			continue
		}
		if at := w.index(places, w.places[j]); earliest < 0 || at < earliest {
			earliest = at
		}
	}
	if earliest >= 0 {
		return earliest
	}
	return min(w.index(places, place{}), len(places)-1)
}

// index is the first wave that is not before p.
func (w *waving) index(places []place, p place) int {
	at, _ := slices.BinarySearchFunc(places, p, place.compare)
	return at
}

// gated tells whether a wave waits for such an object by itself.
func gated(u *unstructured.Unstructured) bool {
	ref := RefOf(u)
	return IsWorkload(ref) || IsCustom(ref)
}

// serves tells whether u is for the workload: it selects its pods, or scales it.
func serves(u, workload *unstructured.Unstructured) bool {
	if !IsWorkload(RefOf(workload)) || u.GetNamespace() != workload.GetNamespace() {
		return false
	}
	spec := mapping(u.Object, "spec")
	if target := mapping(spec, "scaleTargetRef"); target != nil {
		kind := text(target, "kind")
		return text(target, "name") == workload.GetName() && (kind == "" || kind == workload.GetKind())
	}
	selector := mapping(spec, "selector")
	if labels := mapping(selector, "matchLabels"); labels != nil {
		selector = labels
	}
	if len(selector) == 0 || (u.GetKind() != "Service" && u.GetKind() != "PodDisruptionBudget") {
		return false
	}
	labels := mapping(mapping(mapping(mapping(workload.Object, "spec"), "template"), "metadata"), "labels")
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

func short(u *unstructured.Unstructured) string {
	return strings.ToLower(u.GetKind()) + "/" + u.GetName()
}

func refuseWave(u *unstructured.Unstructured, format string, args ...any) error {
	where := RefOf(u).String()
	if origin := Origin(u); origin != "" {
		where = origin + ": " + where
	}
	return fmt.Errorf("%s: %s", where, fmt.Sprintf(format, args...))
}
