package traffic

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// rules is a kind of route that lists weighted backends by rule, in a list of
// its own: three routers do, and differ in how they spell it. It is what they have
// in common of a Router.
type rules struct {
	// path to the list of rules; backends is the key of a rule's list. When that
	// is empty, the path leads to the one list of backends that there is.
	path     []string
	backends string
	// service is the Service of the route's namespace that a backend is; "" when
	// it is none. rename makes it another.
	service func(route *unstructured.Unstructured, backend map[string]any) string
	rename  func(backend map[string]any, from, to string)
	// match makes of a rule that has the stable Service one more, which picks
	// requests for the canary alone; nil where a router has no such thing.
	match func(rule map[string]any, m Match, canary map[string]any) (map[string]any, error)
	most  int // rules that a route may have; 0 means no bound of its own
}

// alone is what the two share in a rule that has no other backend.
const alone = 100

// list returns a copy of the rules.
func (k rules) list(u *unstructured.Unstructured) ([]map[string]any, error) {
	entries, _, err := unstructured.NestedSlice(u.Object, k.path...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifest.RefOf(u), err)
	}
	if k.backends == "" {
		return []map[string]any{{"": entries}}, nil
	}
	list := make([]map[string]any, 0, len(entries))
	for i, entry := range entries {
		rule, ok := entry.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: %s[%d] is not a mapping", manifest.RefOf(u), strings.Join(k.path, "."), i)
		}
		list = append(list, rule)
	}
	return list, nil
}

func (k rules) set(u *unstructured.Unstructured, list []map[string]any) error {
	var entries []any
	if k.backends == "" {
		entries, _ = list[0][""].([]any)
	}
	for _, rule := range list {
		if k.backends != "" {
			entries = append(entries, rule)
		}
	}
	if err := unstructured.SetNestedSlice(u.Object, entries, k.path...); err != nil {
		return fmt.Errorf("%s: %w", manifest.RefOf(u), err)
	}
	return nil
}

// ring is the backends of one rule, as they concern us.
type ring struct {
	rule     map[string]any
	key      string
	backends []any
	// stable, canary and baseline are where they stand; -1: not at all. pair is theirs.
	stable, canary, baseline int
	pair                     Pair
	others                   bool
}

func (k rules) ring(u *unstructured.Unstructured, rule map[string]any, b Backends) (*ring, error) {
	r := &ring{rule: rule, key: k.backends, stable: -1, canary: -1, baseline: -1}
	r.backends, _ = rule[k.backends].([]any)
	for i, entry := range r.backends {
		backend, _ := entry.(map[string]any)
		name := k.service(u, backend)
		at := slices.IndexFunc(b, func(p Pair) bool { return name != "" && (p.Stable == name || p.Canary == name || p.Baseline == name) })
		if at < 0 {
			r.others = true
			continue
		}
		place := &r.stable
		switch name {
		case b[at].Canary:
			place = &r.canary
		case b[at].Baseline:
			place = &r.baseline
		}
		if *place >= 0 || (r.pair != Pair{} && r.pair != b[at]) {
			return nil, fmt.Errorf("%s names the Services %s and %s, or one of them twice, in one rule, which can't be split", manifest.RefOf(u), cmp.Or(r.pair.Stable, name), name)
		}
		*place, r.pair = i, b[at]
	}
	return r, nil
}

// made tells whether the rule was made by us: it sends to a canary alone.
func (r *ring) made() bool { return r.key != "" && len(r.backends) == 1 && r.canary == 0 }

// weight of a backend; one that says nothing has 1.
func (r *ring) weight(at int) (weight int64, set bool) {
	backend, _ := r.backends[at].(map[string]any)
	switch n := backend["weight"].(type) {
	case int64:
		return n, true
	case float64:
		return int64(n), true
	}
	return 1, false
}

func (r *ring) setWeight(at int, weight *int64) {
	backend, _ := r.backends[at].(map[string]any)
	if weight == nil {
		delete(backend, "weight")
		return
	}
	backend["weight"] = *weight
}

// split tells whether the stable Service shares the rule with one of ours.
func (r *ring) split() bool { return r.canary >= 0 || r.baseline >= 0 }

// keepStable takes canary and baseline out.
func (r *ring) keepStable() {
	var kept []any
	for i, backend := range r.backends {
		if i != r.canary && i != r.baseline {
			kept = append(kept, backend)
		}
	}
	r.rule[r.key] = kept
}

// sum is what they all have together.
func (r *ring) sum() int64 {
	var sum int64
	for _, at := range []int{r.stable, r.canary, r.baseline} {
		if at >= 0 {
			weight, _ := r.weight(at)
			sum += max(weight, 0)
		}
	}
	return sum
}

// clear takes the canaries out of all rules, and gives stable Services their
// own weights back.
func (k rules) clear(u *unstructured.Unstructured, b Backends) error {
	list, err := k.list(u)
	if err != nil {
		return err
	}
	kept := make([]map[string]any, 0, len(list))
	var rings []*ring
	for _, rule := range list {
		r, err := k.ring(u, rule, b)
		if err != nil {
			return err
		}
		if r.made() {
			continue
		}
		kept = append(kept, rule)
		if r.stable < 0 {
			if r.split() { // someone took the stable Service out
				r.keepStable()
			}
			continue
		}
		rings = append(rings, r)
	}
	m := markOf(u)
	for i, r := range rings {
		if !r.split() {
			continue // it says what its owner wants
		}
		r.setWeight(r.stable, r.own(m, i, len(rings)))
		r.keepStable()
	}
	if err := k.set(u, kept); err != nil {
		return err
	}
	return setMark(u, nil)
}

// own is the stable Service's own weight in a rule. What was remembered holds
// as long as the rules are those that it was remembered of; otherwise it is
// what they have together.
func (r *ring) own(m *mark, i, n int) *int64 {
	sum := r.sum()
	if m != nil && len(m.Own) == n {
		before := int64(1)
		if m.Own[i] != nil {
			before = *m.Own[i]
		}
		if !r.others || sum == before {
			return m.Own[i]
		}
	}
	if !r.others {
		return nil
	}
	return &sum
}

// split shares out what stable Services have in the rules, which must be clear.
func (k rules) split(u *unstructured.Unstructured, b Backends, s Split) error {
	list, err := k.list(u)
	if err != nil {
		return err
	}
	m := &mark{Split: s}
	var all []map[string]any
	reached := false
	for _, rule := range list {
		r, err := k.ring(u, rule, b)
		if err != nil {
			return err
		}
		if r.split() {
			return fmt.Errorf("%s sends to the Service %s, which is the canary's, by itself; take it out", manifest.RefOf(u), r.pair.Canary)
		}
		if r.stable >= 0 {
			own, set := r.weight(r.stable)
			m.Own = append(m.Own, nil)
			if set {
				m.Own[len(m.Own)-1] = &own
			}
			if own > 0 { // else its owner has turned it off
				reached = true
				if s.Match != nil {
					more, err := k.picks(u, r, *s.Match)
					if err != nil {
						return err
					}
					all = append(all, more)
				}
				if err := k.share(u, r, s); err != nil {
					return err
				}
			}
		}
		all = append(all, rule)
	}
	if !reached {
		return fmt.Errorf("%s sends nothing to the Services %s", manifest.RefOf(u), b)
	}
	if k.most > 0 && len(all) > k.most {
		return fmt.Errorf("%s would have %d rules with those that pick requests for the canary, and may have %d", manifest.RefOf(u), len(all), k.most)
	}
	if err := k.set(u, all); err != nil {
		return err
	}
	return setMark(u, m)
}

// beside is a backend like the stable one, which is another Service.
func (k rules) beside(r *ring, name string) map[string]any {
	backend, _ := r.backends[r.stable].(map[string]any)
	other := runtime.DeepCopyJSON(backend)
	k.rename(other, r.pair.Stable, name)
	return other
}

// picks makes the rule that picks requests for the canary.
func (k rules) picks(u *unstructured.Unstructured, r *ring, m Match) (map[string]any, error) {
	if k.match == nil {
		return nil, fmt.Errorf("%s can't pick requests by header or cookie", manifest.RefOf(u))
	}
	canary := k.beside(r, r.pair.Canary)
	delete(canary, "weight")
	more, err := k.match(runtime.DeepCopyJSON(r.rule), m, canary)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifest.RefOf(u), err)
	}
	return more, nil
}

// share gives canary and baseline their weights of what the stable Service has.
func (k rules) share(u *unstructured.Unstructured, r *ring, s Split) error {
	whole := int64(alone)
	if r.others {
		whole, _ = r.weight(r.stable)
	}
	rest := whole
	var made []any
	for _, of := range []struct {
		name    string
		percent int
	}{{r.pair.Canary, s.Weight}, {r.pair.Baseline, s.Baseline}} {
		if of.percent == 0 {
			continue
		}
		if whole*int64(of.percent)%100 != 0 {
			return fmt.Errorf("%s gives %s a weight of %d beside other backends, of which %d %% is no whole number; multiply all weights of that rule by 100",
				manifest.RefOf(u), r.pair.Stable, whole, of.percent)
		}
		part := whole * int64(of.percent) / 100
		backend := k.beside(r, of.name)
		backend["weight"] = part
		rest -= part
		made = append(made, backend)
	}
	if len(made) > 0 {
		r.setWeight(r.stable, &rest)
		r.rule[r.key] = slices.Insert(r.backends, r.stable+1, made...)
	}
	return nil
}

// Holder is the route itself.
func (k rules) Holder(route manifest.Ref) manifest.Ref { return route }

// Split implements Router.
func (k rules) Split(route, _ *unstructured.Unstructured, b Backends, s Split) (*unstructured.Unstructured, error) {
	u, err := k.Clear(route, b)
	if err != nil || s.None() {
		return u, err
	}
	if err := k.split(u, b, s); err != nil {
		return nil, err
	}
	return u, nil
}

// Clear implements Router.
func (k rules) Clear(route *unstructured.Unstructured, b Backends) (*unstructured.Unstructured, error) {
	u := route.DeepCopy()
	if err := k.clear(u, b); err != nil {
		return nil, err
	}
	return u, nil
}

// Read implements Router.
func (k rules) Read(route *unstructured.Unstructured, b Backends) State {
	if route == nil {
		return State{Intact: true}
	}
	m := markOf(route)
	state := State{Touched: m != nil}
	list, err := k.list(route)
	if err != nil {
		return state
	}
	for _, rule := range list {
		r, err := k.ring(route, rule, b)
		if err != nil || !r.split() {
			continue
		}
		state.Touched = true
		if !r.made() {
			state.Weight, state.Baseline = max(state.Weight, r.percent(r.canary)), max(state.Baseline, r.percent(r.baseline))
		}
	}
	if m == nil {
		state.Intact = !state.Touched
		return state
	}
	state.Match = m.Match
	again, err := k.Split(route, nil, b, m.Split)
	if state.Intact = err == nil && equality.Semantic.DeepEqual(again.Object["spec"], route.Object["spec"]); state.Intact {
		state.Weight, state.Baseline = m.Weight, m.Baseline
	}
	return state
}

// percent is what a backend of ours has of what they all have together, rounded
// up: a little is not nothing.
func (r *ring) percent(at int) int {
	if at < 0 {
		return 0
	}
	weight, _ := r.weight(at)
	if weight <= 0 {
		return 0
	}
	sum := r.sum()
	return int((weight*100 + sum - 1) / sum)
}

// Services lists those that rules send to.
func (k rules) Services(route *unstructured.Unstructured) []string {
	list, err := k.list(route)
	if err != nil {
		return nil
	}
	var names []string
	for _, rule := range list {
		backends, _ := rule[k.backends].([]any)
		for _, entry := range backends {
			backend, _ := entry.(map[string]any)
			if name := k.service(route, backend); name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
