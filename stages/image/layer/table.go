package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"strconv"
	"strings"
)

// Node is what a table of contents knows of a file.
type Node struct {
	// Type is a tar type flag; hard links are of the type they link to.
	Type byte `json:"t"`
	// Mode holds the permission bits with setuid, setgid and sticky as 04000, 02000 and 01000.
	Mode uint32 `json:"m"`
	UID  int    `json:"u,omitempty"`
	GID  int    `json:"g,omitempty"`
	// Link is where a symbolic link points.
	Link string `json:"l,omitempty"`
}

// Table is a layer's table of contents: enough to put files above the layer
// without unpacking it.
type Table struct {
	// Nodes are by path without leading slash; the root is "".
	Nodes map[string]Node `json:"nodes"`
	// Removed are paths the layer takes away, Opaque directories whose lower
	// content it hides.
	Removed map[string]bool `json:"removed,omitempty"`
	Opaque  map[string]bool `json:"opaque,omitempty"`
	// Passwd and Group are the content of /etc/passwd and /etc/group, if the
	// layer has them.
	Passwd []byte `json:"passwd,omitempty"`
	Group  []byte `json:"group,omitempty"`
	// Implied are directories that no entry describes: something lies in them.
	// What they are is for the layers below to say.
	Implied map[string]bool `json:"implied,omitempty"`
	// bytes are what the names take, searched the names looked at to replace directories.
	bytes    int64
	searched int
}

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	// reservedPrefix marks what AUFS kept for itself; it says nothing about files.
	reservedPrefix = ".wh..wh."
	// maxAccounts bounds /etc/passwd and /etc/group, in bytes.
	maxAccounts = 4 << 20
	// maxEntries bounds the files of a layer.
	maxEntries = 4 << 20
	// maxNames bounds what the names of a layer take together, in bytes.
	maxNames = 1 << 30
	// maxSearched bounds the work of replacing directories by files, which no
	// tool that writes layers makes them do.
	maxSearched = 64 << 20
)

func newTable() *Table {
	return &Table{Nodes: map[string]Node{}, Removed: map[string]bool{}, Opaque: map[string]bool{}, Implied: map[string]bool{}}
}

// add takes an entry of a layer's tar stream, as unpacking it over nothing would:
// links of the layer on the way to a name are followed within the layer.
func (t *Table) add(header *tar.Header) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := cleanName(header.Name)
	switch {
	case len(header.Name) > maxName || len(header.Linkname) > maxName:
		return fmt.Errorf("an entry has a name or link of more than %d bytes", maxName)
	case strings.Contains(header.Name+header.Linkname, "\x00"):
		return fmt.Errorf("entry %q: its name or link holds a zero byte", header.Name)
	case len(t.Nodes)+len(t.Removed)+len(t.Implied)+len(t.Opaque) > maxEntries:
		return fmt.Errorf("layer has more than %d files", maxEntries)
	}
	if t.bytes += int64(len(name) + len(header.Linkname)); t.bytes > maxNames {
		return fmt.Errorf("the names in the layer take more than %d bytes", maxNames)
	}
	if name == "" && header.Typeflag != tar.TypeDir {
		return errors.New("the root of a layer can only be a directory")
	}
	dir, err := t.place(parent(name))
	if err != nil {
		return fmt.Errorf("entry %q: %w", header.Name, err)
	}
	base := path.Base("/" + name)
	removed, whiteout := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case base == opaqueMarker:
		t.Opaque[dir] = true
		return nil
	case strings.HasPrefix(base, reservedPrefix):
		return nil
	case whiteout && (removed == "" || removed == "." || removed == ".."):
		return fmt.Errorf("entry %q: a whiteout that hides no name", header.Name)
	case whiteout:
		removed = path.Join(dir, removed)
		// It speaks of the layers below; a file of this one hides theirs anyway.
		if node, ok := t.Nodes[removed]; !ok || node.Type == tar.TypeDir {
			t.Removed[removed] = true
		}
		return nil
	case header.Typeflag == tar.TypeLink && cleanName(header.Linkname) == name:
		return nil // a link to itself says nothing
	}
	if header.Typeflag == tar.TypeChar && header.Devmajor == 0 && header.Devminor == 0 {
		// What overlayfs takes for a whiteout is one.
		t.Removed[path.Join(dir, base)] = true
		return nil
	}
	node, err := t.node(header)
	if err != nil {
		return fmt.Errorf("entry %q: %w", header.Name, err)
	}
	if name != "" {
		name = path.Join(dir, base)
	}
	if node.Type != tar.TypeDir {
		if err := t.replace(name); err != nil {
			return fmt.Errorf("entry %q: %w", header.Name, err)
		}
	}
	delete(t.Implied, name)
	t.Nodes[name] = node
	return nil
}

// replace drops what an earlier entry of the layer left under name.
func (t *Table) replace(name string) error {
	delete(t.Removed, name)
	if t.Nodes[name].Type != tar.TypeDir && !t.Implied[name] {
		return nil
	}
	if t.searched += len(t.Nodes) + len(t.Implied) + len(t.Removed) + len(t.Opaque); t.searched > maxSearched {
		return errors.New("the layer replaces directories by files too often")
	}
	delete(t.Opaque, name)
	below := func(other string) bool { return strings.HasPrefix(other, name+"/") }
	maps.DeleteFunc(t.Nodes, func(other string, _ Node) bool { return below(other) })
	for _, set := range []map[string]bool{t.Implied, t.Removed, t.Opaque} {
		maps.DeleteFunc(set, func(other string, _ bool) bool { return below(other) })
	}
	return nil
}

func (t *Table) node(header *tar.Header) (Node, error) {
	node := Node{Type: header.Typeflag, Mode: uint32(header.Mode & 0o7777), UID: header.Uid, GID: header.Gid}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		node.Type = tar.TypeReg
	case tar.TypeDir, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
	case tar.TypeSymlink:
		node.Link, node.Mode = header.Linkname, 0o777
	case tar.TypeLink:
		target := cleanName(header.Linkname)
		dir, err := t.resolve(parent(target))
		if err != nil {
			return Node{}, err
		}
		if original, ok := t.Nodes[path.Join(dir, path.Base("/"+target))]; ok {
			return original, nil
		}
		node.Type = tar.TypeReg
	default:
		return Node{}, fmt.Errorf("entries of type %q are not known", header.Typeflag)
	}
	return node, nil
}

// place finds where the directory dir of an entry is, and notes the directories
// on the way that no entry has described.
func (t *Table) place(dir string) (string, error) {
	if node, ok := t.Nodes[dir]; ok && node.Type == tar.TypeDir || t.Implied[dir] || dir == "" {
		return dir, nil
	}
	resolved, err := t.resolve(dir)
	if err != nil {
		return "", err
	}
	for at := resolved; at != "" && !t.Implied[at]; at = parent(at) {
		if node, ok := t.Nodes[at]; ok {
			if node.Type != tar.TypeDir {
				return "", fmt.Errorf("/%s is not a directory", at)
			}
			break
		}
		t.bytes += int64(len(at))
		t.Implied[at] = true
	}
	return resolved, nil
}

func (t *Table) resolve(name string) (string, error) {
	return resolve(name, func(at string) (string, bool, error) {
		node := t.Nodes[at]
		return node.Link, node.Type == tar.TypeSymlink, nil
	})
}

// ReadTable reads a layer's tar stream to its end.
func ReadTable(stream io.Reader) (*Table, error) {
	t := newTable()
	reader := tar.NewReader(stream)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, fmt.Errorf("read layer: %w", err)
		}
		if err := t.add(header); err != nil {
			return nil, fmt.Errorf("read layer: %w", err)
		}
		var content *[]byte
		switch cleanName(header.Name) {
		case "etc/passwd":
			content = &t.Passwd
		case "etc/group":
			content = &t.Group
		}
		if content != nil && header.Typeflag == tar.TypeReg {
			if *content, err = io.ReadAll(io.LimitReader(reader, maxAccounts)); err != nil {
				return nil, fmt.Errorf("read layer: %w", err)
			}
		}
	}
	// What follows the end marker belongs to the layer's digest.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	return t, nil
}

// View is a stack of tables, lowest first: what a filesystem made of those
// layers holds.
type View []*Table

// Lookup finds name itself, without following a link it is.
func (v View) Lookup(name string) (Node, bool) {
	implied := false
	for i := len(v) - 1; i >= 0; i-- {
		t := v[i]
		node, ok := t.Nodes[name]
		switch {
		case ok && (!implied || node.Type == tar.TypeDir || node.Type == tar.TypeSymlink):
			return node, true
		case ok:
			return impliedDirectory, true
		case t.Implied[name]:
			implied = true
		}
		if t.hides(name) {
			return impliedDirectory, implied
		}
	}
	if name == "" {
		return Node{Type: tar.TypeDir, Mode: 0o755}, true
	}
	return impliedDirectory, implied
}

// impliedDirectory is what a directory is that nothing describes.
var impliedDirectory = Node{Type: tar.TypeDir, Mode: 0o755}

// hides tells whether nothing below the layer can be seen at name.
func (t *Table) hides(name string) bool {
	if name == "" {
		return false
	}
	if t.Removed[name] {
		return true
	}
	for dir := parent(name); dir != ""; dir = parent(dir) {
		if t.Removed[dir] || t.Opaque[dir] {
			return true
		}
		if node, ok := t.Nodes[dir]; ok && node.Type != tar.TypeDir {
			return true
		}
	}
	return t.Opaque[""]
}

// Resolve follows every symbolic link in name, the last component included,
// within the root. Components that do not exist are kept as they are.
func (v View) Resolve(name string) (string, error) {
	resolved, err := resolve(name, func(at string) (string, bool, error) {
		node, ok := v.Lookup(at)
		return node.Link, ok && node.Type == tar.TypeSymlink, nil
	})
	if err != nil {
		return "", fmt.Errorf("resolve /%s in the image: %w", cleanName(name), err)
	}
	return resolved, nil
}

// Owner turns "user[:group]", names or numbers, into numbers; names are looked
// up in the image's /etc/passwd and /etc/group. A user without group gets its
// primary group if it is listed, and else the group of its own number. ":group"
// alone leaves the user root.
func (v View) Owner(text string) (uid, gid int, err error) {
	user, group, hasGroup := strings.Cut(text, ":")
	uid, numeric := parseID(user)
	gid = uid
	if user == "" && hasGroup {
		numeric = true // a group alone is root's
	}
	if !numeric {
		fields, ok := v.account("etc/passwd", func(t *Table) []byte { return t.Passwd }, user)
		if !ok || len(fields) < 4 {
			return 0, 0, fmt.Errorf("user %q is not in the image's /etc/passwd: use its number, or create it in an earlier RUN", user)
		}
		if uid, ok = parseID(fields[2]); !ok {
			return 0, 0, fmt.Errorf("user %q has the number %q in the image's /etc/passwd", user, fields[2])
		}
		if gid, ok = parseID(fields[3]); !ok {
			return 0, 0, fmt.Errorf("user %q has the group %q in the image's /etc/passwd", user, fields[3])
		}
	}
	if !hasGroup || group == "" {
		return uid, gid, nil
	}
	gid, numeric = parseID(group)
	if !numeric {
		fields, ok := v.account("etc/group", func(t *Table) []byte { return t.Group }, group)
		if !ok || len(fields) < 3 {
			return 0, 0, fmt.Errorf("group %q is not in the image's /etc/group: use its number, or create it in an earlier RUN", group)
		}
		if gid, ok = parseID(fields[2]); !ok {
			return 0, 0, fmt.Errorf("group %q has the number %q in the image's /etc/group", group, fields[2])
		}
	}
	return uid, gid, nil
}

func parseID(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err == nil
}

func (v View) account(file string, content func(*Table) []byte, name string) ([]string, bool) {
	for i := len(v) - 1; i >= 0; i-- {
		if _, ok := v[i].Nodes[file]; !ok {
			if v[i].hides(file) {
				break
			}
			continue
		}
		for _, line := range strings.Split(string(content(v[i])), "\n") {
			if fields := strings.Split(strings.TrimSpace(line), ":"); fields[0] == name && name != "" {
				return fields, true
			}
		}
		break
	}
	return nil, false
}
