package pipeline

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// list is a list of equal shapes; where single is set, one item may stand
// without brackets.
type list struct {
	item   shape
	single bool
	min    int
	max    int
	unique bool
}

func (s list) decode(d *decoder, n *node, path string, into reflect.Value) {
	items := n.items
	switch {
	case n.kind == listNode:
	case s.single && n.kind != nullNode:
		items = []*node{n}
	default:
		d.add(n.pos, RuleType, "", "%s must be a list, not %s", path, n.describe())
		return
	}
	if len(items) < s.min {
		d.add(n.pos, RuleValue, "", "%s is empty", path)
		return
	}
	if s.max > 0 && len(items) > s.max {
		d.add(items[s.max].pos, RuleLimit, "", "%s has %d items; at most %d are allowed", path, len(items), s.max)
		return
	}
	out := reflect.MakeSlice(into.Type(), len(items), len(items))
	seen := map[string]bool{}
	for i, item := range items {
		itemPath := fmt.Sprintf("%s[%d]", path, i)
		d.note(itemPath, item)
		if s.unique && item.scalar() {
			if seen[item.text] {
				d.add(item.pos, RuleDuplicate, "remove one", "%s names %q twice", path, clip(item.text))
			}
			seen[item.text] = true
		}
		s.item.decode(d, item, itemPath, out.Index(i))
	}
	into.Set(out)
}

func (s list) schema(w *schemaWriter) map[string]any {
	item := s.item.schema(w)
	out := map[string]any{"type": "array", "items": item}
	if s.min > 0 {
		out["minItems"] = s.min
	}
	if s.max > 0 {
		out["maxItems"] = s.max
	}
	if s.unique {
		out["uniqueItems"] = true
	}
	if s.single {
		return map[string]any{"anyOf": []any{item, out}}
	}
	return out
}

func (s list) rewrite(value reflect.Value, path string, fn rewriter) {
	for i := range value.Len() {
		s.item.rewrite(value.Index(i), fmt.Sprintf("%s[%d]", path, i), fn)
	}
}

// dictionary is a map with free keys.
type dictionary struct {
	value   shape
	keys    *pattern
	keyWhat string // what a key is, for messages
	max     int
	// keyCheck examines keys further; it may be nil.
	keyCheck check
}

// each calls fn for every key that may stand here.
func (s dictionary) each(d *decoder, n *node, path string, fn func(key, value *node, path string)) bool {
	if n.kind != mapNode {
		d.add(n.pos, RuleType, "", "%s must be a map, not %s", path, n.describe())
		return false
	}
	if s.max > 0 && len(n.entries) > s.max {
		d.add(n.entries[s.max].key.pos, RuleLimit, "", "%s has %d entries; at most %d are allowed", path, len(n.entries), s.max)
		return false
	}
	for _, pair := range n.entries {
		key := pair.key.text
		if !s.keys.MatchString(key) {
			d.add(pair.key.pos, RuleName, "it must match "+s.keys.String(), "%q is not a %s", clip(key), s.keyWhat)
			continue
		}
		if s.keyCheck != nil {
			if rule, message, hint := s.keyCheck(key); message != "" {
				d.add(pair.key.pos, rule, hint, "%s", message)
				continue
			}
		}
		valuePath := path + "." + key
		d.note(valuePath+keyMark, pair.key)
		d.note(valuePath, pair.value)
		fn(pair.key, pair.value, valuePath)
	}
	return true
}

func (s dictionary) decode(d *decoder, n *node, path string, into reflect.Value) {
	out := reflect.MakeMap(into.Type())
	ok := s.each(d, n, path, func(key, value *node, valuePath string) {
		item := reflect.New(into.Type().Elem()).Elem()
		s.value.decode(d, value, valuePath, item)
		out.SetMapIndex(reflect.ValueOf(key.text), item)
	})
	if ok {
		into.Set(out)
	}
}

func (s dictionary) schema(w *schemaWriter) map[string]any {
	out := map[string]any{
		"type": "object", "additionalProperties": false,
		"patternProperties": map[string]any{s.keys.String(): s.value.schema(w)},
	}
	if s.max > 0 {
		out["maxProperties"] = s.max
	}
	return out
}

func (s dictionary) rewrite(value reflect.Value, path string, fn rewriter) {
	keys := value.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, key := range keys {
		item := reflect.New(value.Type().Elem()).Elem()
		item.Set(value.MapIndex(key))
		s.value.rewrite(item, path+"."+key.String(), fn)
		value.SetMapIndex(key, item)
	}
}

// stageMap is a map of stages that keeps the order of the file.
type stageMap struct {
	dictionary
	finally bool
}

func (s stageMap) decode(d *decoder, n *node, path string, into reflect.Value) {
	if n.kind == mapNode && len(n.entries) == 0 {
		d.add(n.pos, RuleRequired, "add a stage", "%s holds no stage", path)
		return
	}
	var stages []Stage
	s.each(d, n, path, func(key, value *node, valuePath string) {
		stage := Stage{Name: key.text, Pos: key.pos}
		d.scopes = append(d.scopes, scope{name: key.text, finally: s.finally, path: valuePath})
		d.current = len(d.scopes) - 1
		s.value.decode(d, value, valuePath, reflect.ValueOf(&stage).Elem())
		d.current = noScope
		stages = append(stages, stage)
	})
	into.Set(reflect.ValueOf(stages))
}

func (s stageMap) schema(w *schemaWriter) map[string]any {
	out := s.dictionary.schema(w)
	out["minProperties"] = 1
	return out
}

func (s stageMap) rewrite(value reflect.Value, path string, fn rewriter) {
	for i := range value.Len() {
		stage := value.Index(i)
		s.value.rewrite(stage, join(path, stage.FieldByName("Name").String()), fn)
	}
}

// axes is the matrix: a map of lists that keeps the order of the file.
type axes struct{ dictionary }

func (s axes) decode(d *decoder, n *node, path string, into reflect.Value) {
	var out []MatrixAxis
	s.each(d, n, path, func(key, value *node, valuePath string) {
		axis := MatrixAxis{Name: key.text}
		s.value.decode(d, value, valuePath, reflect.ValueOf(&axis.Values).Elem())
		out = append(out, axis)
	})
	into.Set(reflect.ValueOf(out))
}

func (axes) rewrite(reflect.Value, string, rewriter) {}
