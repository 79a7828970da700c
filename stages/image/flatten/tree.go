package flatten

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"strings"
)

// tree is what the layers applied so far show.
type tree struct {
	root  *node
	nodes int
}

// node is a name in the tree.
type node struct {
	// children are set for directories alone. header describes a directory; nil
	// when only what is in it was ever named.
	children map[string]*node
	header   *tar.Header
	// described is the layer the header is of, counted from 1.
	described int
	// file is the content behind the name; several names may share one.
	file *file
	// touched is the last layer that had an entry here or below, counted from 1.
	touched int
}

// file is an entry of a layer that is no directory.
type file struct {
	layer, entry int
	// link is the target of a symbolic link, "" for others.
	link string
}

func (n *node) isDirectory() bool { return n.file == nil }

func newTree() *tree { return &tree{root: &node{children: map[string]*node{}}, nodes: 1} }

// apply puts an entry of a layer into the tree.
func (t *tree) apply(layer, entry int, header *tar.Header) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if len(header.Name) > maxName || len(header.Linkname) > maxName {
		return fmt.Errorf("an entry's name or link has more than %d bytes", maxName)
	}
	name := clean(header.Name)
	dir, base := path.Split(name)
	switch {
	case name == "":
		if header.Typeflag == tar.TypeDir {
			t.root.header = header
		}
		return nil
	case base == opaqueMarker:
		parent, err := t.directory(dir, layer+1, true)
		if err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
		parent.prune(layer + 1)
		return nil
	case strings.HasPrefix(base, reservedPrefix):
		return nil
	case strings.HasPrefix(base, whiteoutPrefix):
		return t.remove(dir, strings.TrimPrefix(base, whiteoutPrefix), layer+1)
	}
	parent, err := t.directory(dir, layer+1, true)
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	added, err := t.made(layer, entry, header)
	if err != nil {
		return fmt.Errorf("/%s: %w", name, err)
	}
	old := parent.children[base]
	if old != nil && old.isDirectory() && added.isDirectory() {
		old.header, old.described, old.touched = header, layer+1, layer+1
		return nil
	}
	if old == nil {
		if t.nodes++; t.nodes > maxNodes {
			return fmt.Errorf("the image has more than %d files", maxNodes)
		}
	}
	parent.children[base] = added
	return nil
}

// made is the node of an entry.
func (t *tree) made(layer, entry int, header *tar.Header) (*node, error) {
	n := &node{touched: layer + 1}
	switch header.Typeflag {
	case tar.TypeDir:
		n.header, n.described, n.children = header, layer+1, map[string]*node{}
	case tar.TypeLink:
		target, err := t.lookUp(clean(header.Linkname))
		if err != nil {
			return nil, err
		}
		if target == nil || target.isDirectory() {
			return nil, fmt.Errorf("it is a hard link to %q, which is no file of the image", header.Linkname)
		}
		n.file = target.file
	case tar.TypeSymlink:
		n.file = &file{layer: layer, entry: entry, link: header.Linkname}
	default:
		n.file = &file{layer: layer, entry: entry}
	}
	return n, nil
}

// remove takes away what layers below have under a name.
func (t *tree) remove(dir, base string, layer int) error {
	if base == "" || base == "." || base == ".." {
		return fmt.Errorf("a whiteout of %q in /%s", base, dir)
	}
	// The directory is the layer's, as it is when the layer is unpacked.
	parent, err := t.directory(dir, layer, true)
	if err != nil {
		return fmt.Errorf("/%s: %w", path.Join(dir, base), err)
	}
	n := parent.children[base]
	switch {
	case n == nil:
	case n.touched != layer:
		delete(parent.children, base)
	default:
		n.renew(layer)
	}
	return nil
}

// renew leaves of a name what the layer itself has there.
func (n *node) renew(layer int) {
	if !n.isDirectory() {
		return
	}
	if n.described != layer {
		n.header = nil
	}
	n.prune(layer)
}

// prune takes away all that layers below have in a directory.
func (n *node) prune(layer int) {
	for name, child := range n.children {
		if child.touched != layer {
			delete(n.children, name)
			continue
		}
		child.renew(layer)
	}
}

// clean makes an entry's name a path without leading slash. It cannot leave the root.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

var (
	errLinks   = errors.New("too many symbolic links")
	errNotADir = errors.New("what it is in is no directory")
)

// directory finds a directory, through links that stay within the root. With
// create it makes what is missing, as mkdir -p does, and marks it as the layer's.
func (t *tree) directory(name string, layer int, create bool) (*node, error) {
	trail := []*node{t.root}
	pending := strings.Split(name, "/")
	for links := 0; len(pending) > 0; {
		component := pending[0]
		pending = pending[1:]
		at := trail[len(trail)-1]
		switch component {
		case "", ".":
			continue
		case "..":
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		next := at.children[component]
		switch {
		case next == nil && !create:
			return nil, nil
		case next == nil:
			if t.nodes++; t.nodes > maxNodes {
				return nil, fmt.Errorf("the image has more than %d files", maxNodes)
			}
			next = &node{children: map[string]*node{}}
			at.children[component] = next
		case next.isDirectory():
		case next.file.link == "" && create && next.touched != layer:
			// A layer that has something below a file of a lower one replaces it.
			next = &node{children: map[string]*node{}}
			at.children[component] = next
		case next.file.link == "":
			return nil, errNotADir
		default:
			if links++; links > maxLinks {
				return nil, errLinks
			}
			if path.IsAbs(next.file.link) {
				trail = trail[:1]
			}
			pending = append(strings.Split(next.file.link, "/"), pending...)
			continue
		}
		trail = append(trail, next)
	}
	if create {
		for _, n := range trail {
			n.touched = layer
		}
	}
	return trail[len(trail)-1], nil
}

// lookUp finds a name; a link it is itself is not followed.
func (t *tree) lookUp(name string) (*node, error) {
	dir, base := path.Split(name)
	parent, err := t.directory(dir, 0, false)
	if err != nil || parent == nil || base == "" {
		return nil, err
	}
	return parent.children[base], nil
}
