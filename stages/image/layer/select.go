package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/image/ignore"
	"github.com/tidegate-ci/tidegate/stages/sandbox/userns"
)

// Item is a file that a COPY or ADD takes, before it is known where it goes.
type Item struct {
	// Path is where the tree has it.
	Path string
	// Target is where it goes, relative to the destination directory. It is ""
	// for a directory whose content alone is copied.
	Target string
	// Top is set for what a source pattern itself named.
	Top bool
	Node
	Size int64
	// Xattrs are those that belong into an image, of a tree that keeps them.
	Xattrs map[string]string
	// Digest is of the content of a regular file.
	Digest Sum
	// Same is not 0 for a hard link: items with equal numbers that follow the same
	// Top item are one file.
	Same int
	// stamp is what tells that the file has not changed since it was hashed.
	stamp stamp
	inode inode
}

// stamp changes whenever a file's content may have.
type stamp struct {
	Size, Modified, Changed int64
	Inode                   uint64
}

// Selector picks files of a tree.
type Selector struct {
	Tree *Tree
	// Ignore leaves files of the tree out, Exclude such below a source.
	Ignore, Exclude *ignore.Matcher
	// Parents keeps the directories that lead to a source.
	Parents bool
	// Where names the tree in messages, such as "the build context".
	Where string
}

// NotFoundError says that a source names nothing.
type NotFoundError struct {
	Source, Where string
	// Ignored is set when it is there, but left out by an ignore file.
	Ignored bool
}

func (e *NotFoundError) Error() string {
	if e.Ignored {
		return fmt.Sprintf("%q is left out of %s by .dockerignore: change that file to use it", e.Source, e.Where)
	}
	return fmt.Sprintf("%q is not in %s: check the path, which is relative to its root", e.Source, e.Where)
}

// Select gives the files that the sources name. A pattern that matches nothing
// selects nothing; a plain name that is not there is a *NotFoundError.
func (s *Selector) Select(ctx context.Context, sources []string) ([]Item, error) {
	var items []Item
	for _, source := range sources {
		var err error
		if items, err = s.source(ctx, items, source); err != nil {
			return nil, err
		}
	}
	return items, nil
}

func (s *Selector) source(ctx context.Context, items []Item, source string) ([]Item, error) {
	base, pattern := "", cleanName(source)
	if s.Parents {
		if before, after, ok := strings.Cut(source, "/./"); ok {
			base, pattern = cleanName(before), cleanName(after)
		}
	}
	full := path.Join(base, pattern)
	var matches []string
	plain := !hasWildcard(full)
	if plain {
		full = unescape(full)
		matches = []string{full}
	} else {
		var err error
		if matches, err = s.glob(ctx, full); err != nil {
			return nil, fmt.Errorf("%q: %w", source, err)
		}
	}
	for _, match := range matches {
		selected, err := s.match(ctx, items, match, base)
		var missing *NotFoundError
		switch {
		case errors.As(err, &missing) && !plain:
			continue
		case errors.As(err, &missing):
			missing.Source = source
			return nil, err
		case err != nil:
			return nil, err
		}
		items = selected
	}
	return items, nil
}

// state tells whether a path is ignored, by way of its directories.
func (s *Selector) state(name string) (bool, ignore.State, error) {
	var state ignore.State
	if name == "" {
		return false, state, nil
	}
	ignored := false
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		var err error
		if ignored, state, err = s.Ignore.Match(name[:i], state); err != nil {
			return false, state, err
		}
	}
	return ignored, state, nil
}

func (s *Selector) match(ctx context.Context, items []Item, match, base string) ([]Item, error) {
	resolved, err := s.Tree.Resolve(match)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &NotFoundError{Source: match, Where: s.Where}
	}
	if err != nil {
		return nil, fmt.Errorf("look up %q in %s: %w", match, s.Where, err)
	}
	info, err := s.Tree.stat(resolved)
	if err != nil {
		return nil, fmt.Errorf("look up %q in %s: %w", match, s.Where, err)
	}
	isDir := info.Mode&unix.S_IFMT == unix.S_IFDIR
	ignored, state, err := s.state(resolved)
	if err != nil {
		return nil, err
	}
	if ignored && (!isDir || !s.Ignore.MayReturn(resolved)) {
		return nil, &NotFoundError{Source: match, Where: s.Where, Ignored: true}
	}
	target := path.Base(match)
	if isDir {
		target = ""
	}
	if s.Parents {
		target = strings.TrimPrefix(strings.TrimPrefix(match, base), "/")
		if items, err = s.leading(items, base, target); err != nil {
			return nil, err
		}
	}
	if isDir {
		before := len(items)
		items, err = s.walk(ctx, items, Item{Path: resolved, Target: target, Top: true}, "", info, state, ignore.State{}, ignored)
		if err == nil {
			numberLinks(items[before:])
		}
		return items, err
	}
	if out, _, err := s.Exclude.Match(path.Base(match), ignore.State{}); err != nil || out {
		return items, err
	}
	item, ok, err := s.item(resolved, target, info)
	if err != nil || !ok {
		return items, err
	}
	item.Top = true
	if item.Xattrs, err = s.xattrs(&item); err != nil {
		return nil, err
	}
	return append(items, item), nil
}

// inode identifies a file of this machine that has several names; the zero value
// is any other.
type inode struct{ device, number uint64 }

// numberLinks gives items that are one file the same number.
func numberLinks(items []Item) {
	numbers := map[inode]int{}
	count := map[inode]int{}
	for i := range items {
		if items[i].inode != (inode{}) {
			count[items[i].inode]++
		}
	}
	for i := range items {
		in := items[i].inode
		if count[in] < 2 {
			continue // the other names are elsewhere
		}
		if numbers[in] == 0 {
			numbers[in] = len(numbers) + 1
		}
		items[i].Same = numbers[in]
	}
}

// leading adds the directories between base and target, with their own modes.
func (s *Selector) leading(items []Item, base, target string) ([]Item, error) {
	for i := range len(target) {
		if target[i] != '/' {
			continue
		}
		resolved, err := s.Tree.Resolve(path.Join(base, target[:i]))
		if err != nil {
			return nil, err
		}
		info, err := s.Tree.stat(resolved)
		if err != nil {
			return nil, err
		}
		item, _, err := s.item(resolved, target[:i], info)
		if err != nil {
			return nil, err
		}
		if item.Xattrs, err = s.xattrs(&item); err != nil {
			return nil, err
		}
		items = append(items, item)
	}
	return items, nil
}

// xattrs are those that an item takes along.
func (s *Selector) xattrs(item *Item) (map[string]string, error) {
	if !s.Tree.KeepOwner || (item.Type != tar.TypeReg && item.Type != tar.TypeDir) {
		return nil, nil
	}
	return s.Tree.xattrs(item.Path)
}

// walk adds a directory and all below it. An ignored directory is only added
// when something below it is not ignored.
func (s *Selector) walk(ctx context.Context, items []Item, dir Item, below string, stat *unix.Stat_t, state, excluded ignore.State, ignored bool) ([]Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	self, _, err := s.item(dir.Path, dir.Target, stat)
	if err != nil {
		return nil, err
	}
	self.Top = dir.Top
	at := len(items)
	items = append(items, self)
	// It stays open for the directories below it too: the kernel bounds how deep
	// they nest.
	open, names, err := s.Tree.list(dir.Path)
	if err != nil {
		return nil, fmt.Errorf("read directory %q of %s: %w", dir.Path, s.Where, err)
	}
	defer open.close()
	if s.Tree.KeepOwner {
		if items[at].Xattrs, err = openXattrs(int(open.file.Fd())); err != nil {
			return nil, fmt.Errorf("directory %q of %s: %w", dir.Path, s.Where, err)
		}
	}
	var info unix.Stat_t
	for _, name := range names {
		child := join(dir.Path, name)
		err := open.lstat(name, &info)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since it was listed
		}
		if err != nil {
			return nil, fmt.Errorf("read %q of %s: %w", child, s.Where, err)
		}
		childIgnored, childState, err := s.Ignore.Match(child, state)
		if err != nil {
			return nil, err
		}
		relative := tail(child, below, name)
		out, outState, err := s.Exclude.Match(relative, excluded)
		if err != nil {
			return nil, err
		}
		target := tail(child, dir.Target, name)
		if info.Mode&unix.S_IFMT == unix.S_IFDIR {
			if (childIgnored && !s.Ignore.MayReturn(child)) || (out && !s.Exclude.MayReturn(relative)) {
				continue
			}
			items, err = s.walk(ctx, items, Item{Path: child, Target: target}, relative, &info, childState, outState, childIgnored || out)
			if err != nil {
				return nil, err
			}
			continue
		}
		if childIgnored || out {
			continue
		}
		item, ok, err := s.item(child, target, &info)
		if err != nil {
			return nil, err
		}
		if ok && item.Type == tar.TypeReg && s.Tree.KeepOwner {
			if item.Xattrs, err = open.xattrs(name); err != nil {
				return nil, fmt.Errorf("%q of %s: %w", child, s.Where, err)
			}
		}
		if ok {
			if len(items) == cap(items) {
				items = slices.Grow(items, len(items)) // append itself grows large slices by little, and copies often
			}
			items = append(items, item)
		}
	}
	if len(items) > maxEntries {
		return nil, fmt.Errorf("%s has more than %d files: leave some out with .dockerignore", s.Where, maxEntries)
	}
	if ignored && !dir.Top && len(items) == at+1 {
		items = items[:at]
	}
	return items, nil
}

// join is path.Join for clean parts.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// tail gives join(dir, name), within full where that ends so: a tree of many
// files is held in memory once.
func tail(full, dir, name string) string {
	n := len(name)
	if dir != "" {
		n += len(dir) + 1
	}
	if n == len(full) || (n < len(full) && full[len(full)-n-1] == '/') {
		if part := full[len(full)-n:]; dir == "" || (part[len(dir)] == '/' && part[:len(dir)] == dir) {
			return part
		}
	}
	return join(dir, name)
}

// item describes a file; false for one that no image can hold, such as a socket.
func (s *Selector) item(name, target string, stat *unix.Stat_t) (Item, bool, error) {
	var flag byte
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		flag = tar.TypeReg
	case unix.S_IFDIR:
		flag = tar.TypeDir
	case unix.S_IFLNK:
		flag = tar.TypeSymlink
	case unix.S_IFIFO:
		flag = tar.TypeFifo
	default:
		return Item{}, false, nil
	}
	item := Item{
		Path: name, Target: target, Node: Node{Type: flag, Mode: stat.Mode & 0o7777},
		stamp: stamp{Size: stat.Size, Modified: stat.Mtim.Nano(), Changed: stat.Ctim.Nano(), Inode: stat.Ino},
	}
	if s.Tree.KeepOwner {
		item.UID, item.GID = userns.Owner(filepath.Join(s.Tree.Dir, local(name)), stat.Uid, stat.Gid)
	}
	switch flag {
	case tar.TypeReg:
		item.Size = stat.Size
		if stat.Nlink > 1 {
			item.inode = inode{uint64(stat.Dev), stat.Ino} //nolint:unconvert // its size differs between processors
		}
	case tar.TypeSymlink:
		link, err := s.Tree.Readlink(name)
		if err != nil {
			return Item{}, false, fmt.Errorf("read link %q of %s: %w", name, s.Where, err)
		}
		item.Link, item.Mode = link, 0o777
	}
	return item, true, nil
}
