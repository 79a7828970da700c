package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
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
}

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	// maxAccounts bounds /etc/passwd and /etc/group, in bytes.
	maxAccounts = 4 << 20
	// maxEntries bounds the files of a layer.
	maxEntries = 4 << 20
	// maxLinks bounds how many symbolic links one lookup follows, as the kernel's own limit.
	maxLinks = 40
)

func newTable() *Table {
	return &Table{Nodes: map[string]Node{}, Removed: map[string]bool{}, Opaque: map[string]bool{}}
}

// cleanName makes a tar entry's name a key of a table. Names cannot leave the root.
func cleanName(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

func (t *Table) add(header *tar.Header) error {
	name := cleanName(header.Name)
	if len(t.Nodes)+len(t.Removed) > maxEntries {
		return fmt.Errorf("layer has more than %d files", maxEntries)
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if base == opaqueMarker {
		t.Opaque[dir] = true
		return nil
	}
	if removed, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		t.Removed[path.Join(dir, removed)] = true
		return nil
	}
	node := Node{Type: header.Typeflag, Mode: uint32(header.Mode & 0o7777), UID: header.Uid, GID: header.Gid}
	switch header.Typeflag {
	case tar.TypeSymlink:
		node.Link = header.Linkname
	case tar.TypeLink:
		if target, ok := t.Nodes[cleanName(header.Linkname)]; ok {
			node = target
		} else {
			node.Type = tar.TypeReg
		}
	case tar.TypeXGlobalHeader:
		return nil
	}
	t.Nodes[name] = node
	return nil
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
		if err != nil {
			return nil, fmt.Errorf("read layer: %w", err)
		}
		if err := t.add(header); err != nil {
			return nil, err
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
	for i := len(v) - 1; i >= 0; i-- {
		t := v[i]
		if node, ok := t.Nodes[name]; ok {
			return node, true
		}
		if t.hides(name) {
			return Node{}, false
		}
	}
	if name == "" {
		return Node{Type: tar.TypeDir, Mode: 0o755}, true
	}
	return Node{}, false
}

// hides tells whether nothing below the layer can be seen at name.
func (t *Table) hides(name string) bool {
	if t.Removed[name] {
		return true
	}
	for dir := path.Dir(name); dir != "." && dir != "/"; dir = path.Dir(dir) {
		if t.Removed[dir] || t.Opaque[dir] {
			return true
		}
		if node, ok := t.Nodes[dir]; ok && node.Type != tar.TypeDir {
			return true
		}
	}
	return t.Opaque[""]
}

// ErrLinks is returned for a loop of symbolic links.
var ErrLinks = errors.New("too many symbolic links")

// Resolve follows every symbolic link in name, the last component included,
// within the root. Components that do not exist are kept as they are.
func (v View) Resolve(name string) (string, error) {
	pending := strings.Split(cleanName(name), "/")
	done := ""
	for links := 0; len(pending) > 0; {
		component := pending[0]
		pending = pending[1:]
		switch component {
		case "", ".":
			continue
		case "..":
			done = strings.TrimPrefix(path.Dir("/"+done), "/")
			continue
		}
		next := path.Join(done, component)
		node, ok := v.Lookup(next)
		if !ok || node.Type != tar.TypeSymlink {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolve /%s in the image: %w", name, ErrLinks)
		}
		if path.IsAbs(node.Link) {
			done = ""
		}
		pending = append(strings.Split(node.Link, "/"), pending...)
	}
	return done, nil
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
