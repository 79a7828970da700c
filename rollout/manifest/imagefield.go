package manifest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// MaxImageFields of one release.
const MaxImageFields = 50

// maxFieldSteps bounds the length of a field's path.
const maxFieldSteps = 32

// ImageField says where objects of a kind hold an image outside the pods that
// Kubernetes itself knows: custom resources do.
type ImageField struct {
	// Kind of the objects: "Workflow", or with its group "Workflow.argoproj.io".
	Kind string `json:"kind"`
	// Path of the field: keys with dots between them, [*] for every entry of a
	// list or mapping, [2] for one, ["a.b"] for a key with dots in it.
	Path string `json:"path"`
}

func (f ImageField) String() string { return f.Kind + " " + f.Path }

// fieldStep is one step of a path: a key, an index, or all of them.
type fieldStep struct {
	key   string
	index int // when key is empty
	all   bool
}

// Check tells what is wrong with the field.
func (f ImageField) Check() error {
	if f.Kind == "" || strings.ContainsAny(f.Kind, " /:\t\n") {
		return fmt.Errorf("kind %q: write it like Workflow or Workflow.argoproj.io", f.Kind)
	}
	_, err := f.steps()
	return err
}

func (f ImageField) steps() ([]fieldStep, error) {
	refuse := func(why string) error {
		return fmt.Errorf("path %q: %s; write it like spec.image or spec.steps[*].container.image", f.Path, why)
	}
	var steps []fieldStep
	rest := f.Path
	for first := true; rest != ""; first = false {
		if len(steps) >= maxFieldSteps {
			return nil, refuse(fmt.Sprintf("more than %d steps", maxFieldSteps))
		}
		if rest[0] == '[' {
			end := closing(rest)
			if end < 0 {
				return nil, refuse("a [ is not closed")
			}
			step, err := bracket(rest[1:end])
			if err != nil {
				return nil, refuse(err.Error())
			}
			steps, rest = append(steps, step), rest[end+1:]
			continue
		}
		if !first {
			if rest[0] != '.' {
				return nil, refuse("a dot is missing after ]")
			}
			rest = rest[1:]
		}
		end := strings.IndexAny(rest, ".[]")
		if end < 0 {
			end = len(rest)
		}
		if end == 0 {
			return nil, refuse("a key is missing")
		}
		steps, rest = append(steps, fieldStep{key: rest[:end]}), rest[end:]
	}
	if len(steps) == 0 {
		return nil, refuse("it is empty")
	}
	return steps, nil
}

// closing finds the ] of the [ at the beginning; a key in quotes may hold one.
func closing(text string) int {
	quoted := false
	for i, c := range text {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ']' && !quoted:
			return i
		}
	}
	return -1
}

func bracket(inside string) (fieldStep, error) {
	if inside == "*" {
		return fieldStep{all: true}, nil
	}
	if key, ok := strings.CutPrefix(inside, `"`); ok {
		if key, ok = strings.CutSuffix(key, `"`); !ok || key == "" || strings.Contains(key, `"`) {
			return fieldStep{}, errors.New("a key in quotes is not closed, or empty")
		}
		return fieldStep{key: key}, nil
	}
	index, err := strconv.ParseUint(inside, 10, 16)
	if err != nil {
		return fieldStep{}, fmt.Errorf("[%s] is neither [*], a number nor a key in quotes", inside)
	}
	return fieldStep{index: int(index)}, nil
}

// of tells whether the field belongs to objects such as u.
func (f ImageField) of(u *unstructured.Unstructured) bool {
	kind := u.GroupVersionKind()
	return f.Kind == kind.Kind || f.Kind == kind.Kind+"."+kind.Group
}

// visit calls fn for the holder of every value that the steps lead to, and
// tells whether there was one.
func visit(holder any, steps []fieldStep, fn func(get any, set func(any)) error) (found bool, err error) {
	step := steps[0]
	one := func(value any, set func(any)) error {
		if len(steps) == 1 {
			found = true
			return fn(value, set)
		}
		below, err := visit(value, steps[1:], fn)
		found = found || below
		return err
	}
	switch h := holder.(type) {
	case map[string]any:
		for key, value := range h {
			if step.all || step.key != "" && step.key == key {
				if err := one(value, func(to any) { h[key] = to }); err != nil {
					return found, err
				}
			}
		}
	case []any:
		for i, value := range h {
			if step.all || step.key == "" && step.index == i {
				if err := one(value, func(to any) { h[i] = to }); err != nil {
					return found, err
				}
			}
		}
	}
	return found, nil
}

// pinFields passes the images of custom fields through pin. A field that is in
// none of the objects of its kind is taken for a mistake.
func pinFields(objects []*unstructured.Unstructured, fields []ImageField, pin func(u *unstructured.Unstructured, image string) (string, error)) error {
	if len(fields) > MaxImageFields {
		return fmt.Errorf("%d image fields; at most %d", len(fields), MaxImageFields)
	}
	for _, field := range fields {
		if err := field.Check(); err != nil {
			return fmt.Errorf("image field: %w", err)
		}
		steps, err := field.steps()
		if err != nil {
			return err
		}
		var missing Ref
		somewhere := false
		for _, u := range objects {
			if !field.of(u) {
				continue
			}
			found, err := visit(u.Object, steps, func(value any, set func(any)) error {
				image, ok := value.(string)
				if !ok {
					return fmt.Errorf("%s: %s is not text, so it is no image", RefOf(u), field.Path)
				}
				pinned, err := pin(u, image)
				if err == nil {
					set(pinned)
				}
				return err
			})
			if err != nil {
				return err
			}
			if somewhere = somewhere || found; !found {
				missing = RefOf(u)
			}
		}
		if !somewhere && missing.Name != "" {
			return fmt.Errorf("%s has no field %s: correct the path of the image field, or leave it out", missing, field.Path)
		}
	}
	return nil
}
