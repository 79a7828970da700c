package layer

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Placement puts files at their destination, above what a View holds.
type Placement struct {
	View View
	// UID and GID own the directories that have to be made.
	UID, GID int

	entries map[string]*Entry
	cursors []*cursor
	// groups counts the sets of hard links so far.
	groups int
}

// Destination is where files go.
type Destination struct {
	// Path is absolute. Directory is set when it names one even if nothing is there.
	Path      string
	Directory bool
	// Owner, if not nil, and Mode, if not nil, change what is copied.
	Owner *[2]int
	Mode  func(mode uint32, directory bool) uint32
}

// Entries ends the placement and gives its files, in the order of a layer.
func (p *Placement) Entries() []*Entry {
	entries := make([]*Entry, 0, len(p.entries))
	for _, entry := range p.entries {
		entries = append(entries, entry)
	}
	p.entries = nil
	slices.SortFunc(entries, func(a, b *Entry) int {
		return cmp.Or(cmp.Compare(a.archive, b.archive), cmp.Compare(a.index, b.index), compareNames(a.Name, b.Name))
	})
	first := map[int]string{}
	for _, entry := range entries {
		if entry.same == 0 {
			continue
		}
		if original, ok := first[entry.same]; ok {
			entry.HardLink, entry.Size, entry.Open, entry.file = original, 0, nil, ""
		} else {
			first[entry.same] = entry.Name
		}
	}
	return entries
}

// compareNames orders paths so that a directory comes right before all below it.
func compareNames(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if a[i] == b[i] {
			continue
		}
		if a[i] == '/' {
			return -1
		}
		if b[i] == '/' {
			return 1
		}
		return int(a[i]) - int(b[i])
	}
	return len(a) - len(b)
}

func (p *Placement) lookup(name string) (Node, bool) {
	if entry, ok := p.entries[name]; ok {
		return entry.Node, true
	}
	return p.View.Lookup(name)
}

func (p *Placement) put(e Entry) {
	if p.entries == nil {
		p.entries = map[string]*Entry{}
	}
	if e.Name != "" {
		p.entries[e.Name] = &e
	}
}

// directory makes sure that name is a directory. Those that exist are written
// again as they are: some runtimes give a directory that a layer only implies
// other permissions than it has.
func (p *Placement) directory(name string) error {
	if entry, ok := p.entries[name]; ok && entry.Type == tar.TypeDir {
		return nil // and so are those above it
	}
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		dir := name[:i]
		if dir == "" {
			continue
		}
		node, ok := p.lookup(dir)
		switch {
		case !ok:
			node = Node{Type: tar.TypeDir, Mode: 0o755, UID: p.UID, GID: p.GID}
		case node.Type != tar.TypeDir:
			return fmt.Errorf("/%s is not a directory in the image", dir)
		}
		if _, placed := p.entries[dir]; !placed {
			p.put(Entry{Name: dir, Node: node})
		}
	}
	return nil
}

// MakeDirectory places a directory that an instruction asks for by itself. It
// tells whether it had to be made.
func (p *Placement) MakeDirectory(name string) (bool, error) {
	resolved, err := p.View.Resolve(name)
	if err != nil {
		return false, err
	}
	if node, ok := p.View.Lookup(resolved); ok {
		if node.Type != tar.TypeDir {
			return false, fmt.Errorf("/%s is not a directory in the image", resolved)
		}
		return false, nil
	}
	return true, p.directory(resolved)
}

// resolve finds the destination, links followed, and whether it is a directory.
func (p *Placement) resolve(to Destination) (string, bool, error) {
	resolved, err := p.View.Resolve(to.Path)
	if err != nil {
		return "", false, err
	}
	node, ok := p.lookup(resolved)
	isDirectory := ok && node.Type == tar.TypeDir
	if ok && !isDirectory && to.Directory {
		return "", false, fmt.Errorf("%s is not a directory in the image", to.Path)
	}
	return resolved, isDirectory || to.Directory || resolved == "", nil
}

// Files places the items of a selection.
func (p *Placement) Files(to Destination, tree *Tree, items []Item) error {
	dest, isDirectory, err := p.resolve(to)
	if err != nil {
		return err
	}
	// resolved maps directories of the selection to where they really are, for
	// the image may have links in their place.
	resolved := map[string]string{".": dest}
	group, last := p.groups, 0
	for i := range items {
		item := &items[i]
		if item.Top {
			group += last
			last = 0
		}
		last = max(last, item.Same)
		if item.Top && item.Target == "" {
			// The content of a directory: the destination is one. If it has to be
			// made, mode and owner are not the source's: only its content is copied.
			if err := p.contentDirectory(to, dest); err != nil {
				return err
			}
			isDirectory = true
			continue
		}
		name := dest
		if isDirectory || !item.Top {
			parent, ok := resolved[path.Dir(item.Target)]
			if !ok {
				parent = path.Join(dest, path.Dir(item.Target))
			}
			name = path.Join(parent, path.Base(item.Target))
		}
		if err := p.item(to, tree, item, name, resolved); err != nil {
			return err
		}
		if item.Same > 0 {
			p.entries[name].same = group + item.Same
		}
	}
	p.groups = group + last
	return nil
}

func (p *Placement) contentDirectory(to Destination, dest string) error {
	if node, ok := p.lookup(dest); ok {
		if node.Type != tar.TypeDir {
			return fmt.Errorf("%s is not a directory in the image", to.Path)
		}
		return p.directory(dest)
	}
	if err := p.directory(strings.TrimPrefix(path.Dir("/"+dest), "/")); err != nil {
		return err
	}
	p.put(Entry{Name: dest, Node: to.change(Node{Type: tar.TypeDir, Mode: 0o755, UID: p.UID, GID: p.GID})})
	return nil
}

func (p *Placement) item(to Destination, tree *Tree, item *Item, name string, resolved map[string]string) error {
	existing, exists := p.lookup(name)
	if item.Type == tar.TypeDir {
		if exists && existing.Type == tar.TypeSymlink {
			real, err := p.View.Resolve(name)
			if err != nil {
				return err
			}
			if node, ok := p.lookup(real); ok && node.Type == tar.TypeDir {
				// The files go where the link leads; the directory there is not ours.
				resolved[item.Target] = real
				return p.directory(real)
			}
		}
		if exists && existing.Type != tar.TypeDir {
			return fmt.Errorf("can't copy the directory %q over /%s, which is a file in the image", item.Path, name)
		}
		resolved[item.Target] = name
	} else if exists && existing.Type == tar.TypeDir {
		return fmt.Errorf("can't copy the file %q over /%s, which is a directory in the image", item.Path, name)
	}
	if err := p.directory(strings.TrimPrefix(path.Dir("/"+name), "/")); err != nil {
		return err
	}
	entry := Entry{Name: name, Node: to.change(item.Node), Size: item.Size, Xattrs: item.Xattrs}
	if item.Type == tar.TypeReg {
		entry.tree, entry.file = tree, item.Path
	}
	p.put(entry)
	return nil
}

// change applies owner and mode.
func (to Destination) change(node Node) Node {
	if to.Owner != nil {
		node.UID, node.GID = to.Owner[0], to.Owner[1]
	}
	if to.Mode != nil && node.Type != tar.TypeSymlink {
		node.Mode = to.Mode(node.Mode, node.Type == tar.TypeDir)
	}
	return node
}

// Inline places a file whose content is given.
func (p *Placement) Inline(to Destination, base string, content []byte) error {
	return p.Content(to, Entry{
		Name: base, Node: Node{Type: tar.TypeReg, Mode: 0o644}, Size: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	})
}

// Content places a single file, under its name if the destination is a directory.
func (p *Placement) Content(to Destination, file Entry) error {
	name, isDirectory, err := p.resolve(to)
	if err != nil {
		return err
	}
	if isDirectory {
		name = path.Join(name, file.Name)
	}
	if node, ok := p.lookup(name); ok && node.Type == tar.TypeDir {
		return fmt.Errorf("can't write a file over /%s, which is a directory in the image", name)
	}
	if err := p.directory(strings.TrimPrefix(path.Dir("/"+name), "/")); err != nil {
		return err
	}
	file.Name, file.Node = name, to.change(file.Node)
	p.put(file)
	return nil
}
