package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Change is one field that differs between two versions of an object.
type Change struct {
	// Path of the field, such as spec.template.spec.containers[shop].image.
	Path string `json:"path"`
	// Before and After are its values; nil where it is not set. Those of a
	// Secret are never shown.
	Before any `json:"before"`
	After  any `json:"after"`
}

// What stands for a value of a Secret.
const (
	hiddenBefore = "*** (before)"
	hiddenAfter  = "*** (after)"
)

// serverFields are set by the API server or its controllers, so that they say
// nothing about what anyone wants.
var serverFields = []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"}

// serverAnnotations are the same among annotations. What kubectl applied last
// may hold a whole Secret.
var serverAnnotations = []string{"deployment.kubernetes.io/revision", "kubectl.kubernetes.io/last-applied-configuration", "deprecated.daemonset.template.generation"}

// Changes lists the fields that differ, by path. Either object may be nil: then
// there is nothing to compare, and nothing is listed. Lists whose entries have
// names of their own are compared by name.
func Changes(before, after *unstructured.Unstructured) []Change {
	if before == nil || after == nil {
		return nil
	}
	c := comparison{secret: before.GetKind() == "Secret" && before.GroupVersionKind().Group == ""}
	c.compare("", wanted(before), wanted(after))
	slices.SortStableFunc(c.changes, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return c.changes
}

// wanted is what people want of an object, without what the server says of it.
func wanted(u *unstructured.Unstructured) map[string]any {
	content := maps.Clone(u.Object)
	delete(content, "status")
	metadata := maps.Clone(mapping(content, "metadata"))
	for _, key := range serverFields {
		delete(metadata, key)
	}
	if annotations := maps.Clone(mapping(metadata, "annotations")); annotations != nil {
		for _, key := range serverAnnotations {
			delete(annotations, key)
		}
		metadata["annotations"] = annotations
	}
	if metadata != nil {
		content["metadata"] = metadata
	}
	return content
}

type comparison struct {
	secret  bool
	changes []Change
}

func (c *comparison) compare(path string, before, after any) {
	switch b := before.(type) {
	case map[string]any:
		if a, ok := after.(map[string]any); ok || after == nil && len(b) == 0 {
			c.mappings(path, b, a)
			return
		}
	case []any:
		if a, ok := after.([]any); ok || after == nil && len(b) == 0 {
			c.lists(path, b, a)
			return
		}
	case nil:
		switch a := after.(type) {
		case nil:
			return
		case map[string]any:
			if len(a) == 0 {
				return
			}
		case []any:
			if len(a) == 0 {
				return
			}
		}
	default:
		if before == after || fmt.Sprint(before) == fmt.Sprint(after) && after != nil { // int64(3) and float64(3)
			return
		}
	}
	if c.secret && (hides(path, "data") || hides(path, "stringData")) {
		before, after = hidden(before, hiddenBefore), hidden(after, hiddenAfter)
	}
	c.changes = append(c.changes, Change{Path: path, Before: before, After: after})
}

func hides(path, field string) bool {
	rest, ok := strings.CutPrefix(path, field)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func hidden(value any, as string) any {
	if value == nil {
		return nil
	}
	return as
}

func (c *comparison) mappings(path string, before, after map[string]any) {
	for key, value := range before {
		c.compare(join(path, key), value, after[key])
	}
	for key, value := range after {
		if _, ok := before[key]; !ok {
			c.compare(join(path, key), nil, value)
		}
	}
}

func (c *comparison) lists(path string, before, after []any) {
	b, namedB := byName(before)
	a, namedA := byName(after)
	if namedB && namedA {
		for name, value := range b {
			c.compare(path+"["+name+"]", value, a[name])
		}
		for name, value := range a {
			if _, ok := b[name]; !ok {
				c.compare(path+"["+name+"]", nil, value)
			}
		}
		return
	}
	for i := range max(len(before), len(after)) {
		var x, y any
		if i < len(before) {
			x = before[i]
		}
		if i < len(after) {
			y = after[i]
		}
		c.compare(fmt.Sprintf("%s[%d]", path, i), x, y)
	}
}

// byName gives the entries of a list by their names; false when they have none.
func byName(list []any) (map[string]any, bool) {
	named := map[string]any{}
	for _, item := range list {
		entry, ok := item.(map[string]any)
		if !ok {
			return nil, false
		}
		name := text(entry, "name")
		if _, twice := named[name]; name == "" || twice {
			return nil, false
		}
		named[name] = entry
	}
	return named, true
}

// join adds a key to a path; one with dots in it, such as a label, in quotes.
func join(path, key string) string {
	if strings.ContainsAny(key, ".[]/ ") {
		return path + "[" + fmt.Sprintf("%q", key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}
