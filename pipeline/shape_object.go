package pipeline

import (
	"reflect"
	"slices"
	"strings"
	"sync"
)

// object is a map with known keys, read into a struct.
type object struct {
	// name is the definition's name in the schema.
	name   string
	doc    string
	fields []field
	// short names the field that a value which is not a map is read into.
	short string
	// nullable lets the key stand without a value, which means the empty map.
	nullable bool
	// extensions ignores keys that begin with "x-": a place for anchors.
	extensions bool
	// rules adds constraints between keys to the schema.
	rules map[string]any
}

// field is a key of an object.
type field struct {
	key string
	// into is the path of the Go field by JSON tags ("run.image"); key when empty.
	into     string
	shape    shape
	required bool
	doc      string
	// unsupported, when set, refuses the key and says what to do instead.
	unsupported string
}

func (s object) keys() []string {
	var keys []string
	for _, f := range s.fields {
		if f.unsupported == "" {
			keys = append(keys, f.key)
		}
	}
	return keys
}

func (s object) field(key string) (field, bool) {
	i := slices.IndexFunc(s.fields, func(f field) bool { return f.key == key })
	if i < 0 {
		return field{}, false
	}
	return s.fields[i], true
}

func (s object) decode(d *decoder, n *node, path string, into reflect.Value) {
	switch {
	case n.kind == mapNode, n.kind == nullNode && s.nullable:
	case s.short != "" && n.kind != nullNode:
		f, _ := s.field(s.short)
		f.shape.decode(d, n, path, goField(into, f))
		return
	default:
		d.add(n.pos, RuleType, "", "%s must be a map, not %s", nameOf(path, "the file"), n.describe())
		return
	}
	goStruct(into)
	// present holds the keys that stand there, and those that a misspelt key
	// was meant to be: one mistake makes one message.
	present := map[string]bool{}
	for _, pair := range n.entries {
		key := pair.key.text
		present[key] = true
		f, known := s.field(key)
		switch {
		case s.extensions && strings.HasPrefix(key, "x-"):
			continue
		case !known:
			present[nearest(key, s.keys())] = true
			d.suggested[join(path, nearest(key, s.keys()))] = true
			d.add(pair.key.pos, RuleUnknownKey, didYouMean(key, s.keys()), "unknown key %q in %s", clip(key), nameOf(path, "the file"))
			continue
		case f.unsupported != "":
			d.add(pair.key.pos, RuleUnsupported, f.unsupported, "%q is not supported in this version", key)
			continue
		}
		valuePath := join(path, key)
		d.note(valuePath+keyMark, pair.key)
		d.note(valuePath, pair.value)
		f.shape.decode(d, pair.value, valuePath, goField(into, f))
	}
	for _, f := range s.fields {
		if f.required && !present[f.key] {
			d.add(n.pos, RuleRequired, f.doc, "%s needs the key %q", nameOf(path, "the file"), f.key)
		}
	}
}

func (s object) schema(w *schemaWriter) map[string]any {
	ref := w.define(s)
	if s.short == "" && !s.nullable {
		return ref
	}
	alternatives := []any{ref}
	if s.short != "" {
		f, _ := s.field(s.short)
		alternatives = append(alternatives, f.shape.schema(w))
	}
	if s.nullable {
		alternatives = append(alternatives, map[string]any{"type": "null"})
	}
	return map[string]any{"anyOf": alternatives}
}

func (s object) rewrite(value reflect.Value, path string, fn rewriter) {
	for value.Kind() == reflect.Pointer {
		if value.IsNil() {
			return
		}
		value = value.Elem()
	}
	for _, f := range s.fields {
		if f.unsupported != "" {
			continue
		}
		if target, ok := existingField(value, f); ok {
			f.shape.rewrite(target, join(path, f.key), fn)
		}
	}
}

// nameOf is how messages name the value at a path.
func nameOf(path, root string) string {
	if path == "" {
		return root
	}
	return path
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// goStruct follows pointers to a struct, allocating them.
func goStruct(value reflect.Value) reflect.Value {
	for value.Kind() == reflect.Pointer {
		if value.IsNil() {
			value.Set(reflect.New(value.Type().Elem()))
		}
		value = value.Elem()
	}
	return value
}

// goField finds the Go field of a key, allocating the structs on the way.
func goField(value reflect.Value, f field) reflect.Value {
	for _, tag := range f.goPath() {
		value = goStruct(value)
		value = value.Field(fieldIndex(value.Type(), tag))
	}
	return value
}

// existingField finds the Go field of a key and allocates nothing.
func existingField(value reflect.Value, f field) (reflect.Value, bool) {
	for _, tag := range f.goPath() {
		for value.Kind() == reflect.Pointer {
			if value.IsNil() {
				return value, false
			}
			value = value.Elem()
		}
		value = value.Field(fieldIndex(value.Type(), tag))
	}
	return value, true
}

func (f field) goPath() []string {
	if f.into == "" {
		return []string{f.key}
	}
	return strings.Split(f.into, ".")
}

var fieldIndexes sync.Map // reflect.Type → map[string]int by JSON name

// fieldIndex finds a struct field by its JSON name. The table of the language
// is fixed and tested, so a name without a field is a mistake of ours.
func fieldIndex(t reflect.Type, name string) int {
	cached, ok := fieldIndexes.Load(t)
	if !ok {
		index := map[string]int{}
		for i := range t.NumField() {
			tag, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			index[tag] = i
		}
		cached, _ = fieldIndexes.LoadOrStore(t, index)
	}
	index, ok := cached.(map[string]int)[name] //nolint:errcheck // nothing else is stored
	if !ok {
		panic("pipeline: " + t.String() + " has no field for the key " + name)
	}
	return index
}
