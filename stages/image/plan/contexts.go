package plan

import (
	"strings"

	"github.com/distribution/reference"
)

// NamedContext is what --build-context puts in the place of a name.
type NamedContext struct {
	// Image is a reference into a registry, or "" when Layout is set or the
	// context is a tree of files.
	Image string
	// Layout says that the context is an image in an OCI layout.
	Layout bool
}

// ContextName normalizes a name that may be a context's, the way images are
// named: "docker.io/library/golang:latest" is "golang".
func ContextName(name string) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(reference.FamiliarString(named), ":latest"), nil
}

// namedContext finds the context that stands for a name in stage i.
func (m *maker) namedContext(i int, name string) (Source, bool) {
	if len(m.options.Contexts) == 0 || name == Scratch || name == "context" {
		return Source{}, false
	}
	name, err := ContextName(name)
	if err != nil {
		return Source{}, false
	}
	context, ok := m.options.Contexts[name]
	switch {
	case !ok:
		return Source{}, false
	case context.Image == Scratch:
		return Source{Kind: FromNothing}, true
	case context.Image != "":
		return Source{Kind: FromImage, Reference: context.Image, Platform: m.platforms[i]}, true
	case context.Layout:
		return Source{Kind: FromImage, Reference: name, Platform: m.platforms[i], Context: name}, true
	}
	return Source{Kind: FromContext, Context: name}, true
}
