package pipeline

import "reflect"

// triggerSet is the `on:` section: a map, or names of triggers without settings.
type triggerSet struct{ object }

func (s triggerSet) decode(d *decoder, n *node, path string, into reflect.Value) {
	names := n.items
	switch n.kind {
	case stringNode:
		names = []*node{n}
	case listNode:
	case mapNode:
		if len(n.entries) == 0 {
			d.add(n.pos, RuleUnreachable, "name an event: push, pull_request, schedule or manual", "%s is empty: nothing would ever start this pipeline", path)
			return
		}
		s.object.decode(d, n, path, into)
		return
	default:
		d.add(n.pos, RuleType, "", "%s must be a map, not %s", path, n.describe())
		return
	}
	if len(names) == 0 {
		d.add(n.pos, RuleUnreachable, "name an event: push, pull_request, schedule or manual", "%s is empty: nothing would ever start this pipeline", path)
		return
	}
	// The short form is the map with keys that have no value.
	long := &node{kind: mapNode, pos: n.pos}
	seen := map[string]bool{}
	for _, name := range names {
		switch {
		case name.kind != stringNode:
			d.add(name.pos, RuleType, "", "%s must name events, not %s", path, name.describe())
			continue
		case seen[name.text]:
			d.add(name.pos, RuleDuplicate, "remove one", "%s names %q twice", path, clip(name.text))
			continue
		}
		seen[name.text] = true
		long.entries = append(long.entries, entry{key: name, value: &node{kind: nullNode, pos: name.pos}})
	}
	s.object.decode(d, long, path, into)
}

func (s triggerSet) schema(w *schemaWriter) map[string]any {
	var short []string
	for _, f := range s.fields {
		if o, ok := f.shape.(object); ok && o.nullable && f.unsupported == "" {
			short = append(short, f.key)
		}
	}
	name := map[string]any{"enum": short}
	full := w.define(s.object)
	w.defs[s.name]["minProperties"] = 1
	return map[string]any{"anyOf": []any{
		full, name,
		map[string]any{"type": "array", "items": name, "minItems": 1, "uniqueItems": true},
	}}
}
