package layer

import (
	"archive/tar"
	"maps"
	"path"
	"slices"
	"strings"
)

// Above puts a layer on the view. A layer may hold bin/file without an entry for
// bin, over layers where bin is a link: unpacked on top of them, as all tools do,
// the file lands where the link leads. Such names are moved there.
func (v View) Above(t *Table) View {
	moves := false
	for name := range t.Implied {
		if node, ok := v.Lookup(name); ok && node.Type == tar.TypeSymlink && !t.hides(name) {
			moves = true
			break
		}
	}
	if !moves {
		return append(v[:len(v):len(v)], t)
	}
	moved := newTable()
	moved.Passwd, moved.Group = t.Passwd, t.Group
	// In a fixed order: two names may end up in one place.
	for _, name := range slices.Sorted(maps.Keys(t.Nodes)) {
		moved.Nodes[v.landing(t, name)] = t.Nodes[name]
	}
	for name := range t.Removed {
		moved.Removed[v.landing(t, name)] = true
	}
	for name := range t.Opaque {
		moved.Opaque[v.landing(t, name)] = true
	}
	for name := range t.Implied {
		for at := v.landing(t, name); at != ""; at = parent(at) {
			if _, described := moved.Nodes[at]; !described {
				moved.Implied[at] = true
			}
		}
	}
	return append(v[:len(v):len(v)], moved)
}

// landing is where a name of the layer ends up over the view.
func (v View) landing(t *Table, name string) string {
	at, own := "", ""
	for rest := name; rest != ""; {
		var component string
		component, rest, _ = strings.Cut(rest, "/")
		at, own = path.Join(at, component), path.Join(own, component)
		if !t.Implied[own] || t.hides(own) {
			continue
		}
		node, ok := v.Lookup(at)
		if !ok || node.Type != tar.TypeSymlink {
			continue
		}
		target, err := v.Resolve(at)
		if err != nil {
			continue
		}
		if node, ok := v.Lookup(target); !ok || node.Type == tar.TypeDir {
			at = target
		}
	}
	return at
}
