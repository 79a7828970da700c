package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A layer may hold tmp/file without an entry for tmp. Unpacked over the layers
// below, as most tools do, the file lands in their tmp, whatever its mode and
// wherever a link of that name leads. Unpacked on its own, the layer has a tmp
// of its own that would hide theirs. A correction is a small tree mounted right
// above such a layer, which makes up for that.
type correction struct {
	tree    string // of the layer
	dir     string // of the correction
	below   stack
	implied map[string]bool
	made    bool
}

// correct makes the correction of a layer over those below it in dir. made is
// false when the layer needs none.
func correct(tree, dir string, implied []string, below stack) (made bool, err error) {
	c := &correction{tree: tree, dir: dir, below: below, implied: map[string]bool{}}
	for _, name := range implied {
		c.implied[name] = true
	}
	var moved []string
	// Sorted names put a directory before what is in it.
	for _, name := range implied {
		if name == "" || within(name, moved) || !c.parentsImplied(name) {
			continue
		}
		stat := unix.Stat_t{}
		if err := unix.Lstat(filepath.Join(tree, name), &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue // a later entry of the layer took its place
		}
		file, stat, err := below.lookUp(name)
		if err != nil {
			return false, err
		}
		switch stat.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			if file == "" {
				continue
			}
			err = c.directory(name)
		case unix.S_IFLNK:
			if file == "" {
				continue
			}
			moved = append(moved, name)
			err = c.moveThroughLink(name, file)
		}
		if err != nil {
			return false, fmt.Errorf("correct /%s: %w", shorten(name), err)
		}
	}
	return c.made, nil
}

func within(name string, parents []string) bool {
	for _, parent := range parents {
		if strings.HasPrefix(name, parent+"/") {
			return true
		}
	}
	return false
}

// parentsImplied tells whether the layers below show through to name: where the
// layer itself describes a parent that they do not have as a directory, or hides
// what they have in one, they do not.
func (c *correction) parentsImplied(name string) bool {
	for parent := path.Dir(name); parent != "."; parent = path.Dir(parent) {
		if directory, err := c.below.directory(parent); err != nil || directory == "" {
			return false
		}
		if opaque, err := isOpaque(filepath.Join(c.tree, parent)); err != nil || opaque {
			return false
		}
	}
	opaque, err := isOpaque(c.tree)
	return err == nil && !opaque
}

// directory makes name and its parents in the correction, each as the image
// should show it: as the layer says, where it does, else as the layers below do.
func (c *correction) directory(name string) error {
	if name == "" || name == "." {
		c.made = true
		return mkdir(c.dir)
	}
	parent := path.Dir(name)
	if err := c.directory(parent); err != nil {
		return err
	}
	at := filepath.Join(c.dir, name)
	if _, err := os.Lstat(at); err == nil {
		return nil
	}
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	own := filepath.Join(c.tree, name)
	info, err := os.Lstat(own)
	if err == nil && info.IsDir() && !c.implied[name] {
		return copyAttributes(at, own)
	}
	source, err := c.below.directory(name)
	if err != nil || source == "" {
		return err
	}
	return copyAttributes(at, source)
}

func mkdir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// moveThroughLink puts the layer's directory name to where the link of that name
// below it leads, and shows the link again.
func (c *correction) moveThroughLink(name, link string) error {
	target, err := c.below.resolve(name)
	if err != nil {
		return err
	}
	file, stat, err := c.below.lookUp(target)
	if err != nil {
		return err
	}
	if file != "" && stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil // it leads to no directory: the layer's own takes its place
	}
	if err := c.directory(path.Dir(name)); err != nil {
		return err
	}
	text, err := os.Readlink(link)
	if err != nil {
		return err
	}
	at := filepath.Join(c.dir, name)
	if err := os.Symlink(text, at); err != nil {
		return err
	}
	var owner unix.Stat_t
	if err := unix.Lstat(link, &owner); err != nil {
		return err
	}
	if err := os.Lchown(at, int(owner.Uid), int(owner.Gid)); err != nil {
		return err
	}
	return c.graft(name, target)
}

// graft shows the layer's directory name under target too. Files are hard links:
// nothing is copied.
func (c *correction) graft(name, target string) error {
	if err := c.directory(target); err != nil {
		return err
	}
	children, err := os.ReadDir(filepath.Join(c.tree, name))
	if err != nil {
		return err
	}
	for _, child := range children {
		from, to := path.Join(name, child.Name()), path.Join(target, child.Name())
		if !child.IsDir() {
			if err := os.Link(filepath.Join(c.tree, from), filepath.Join(c.dir, to)); err != nil {
				return err
			}
			continue
		}
		if c.implied[from] {
			// It may be a link below there as well.
			if to, err = c.below.resolve(to); err != nil {
				return err
			}
		}
		if err := c.graft(from, to); err != nil {
			return err
		}
		if c.implied[from] {
			continue
		}
		at, own := filepath.Join(c.dir, to), filepath.Join(c.tree, from)
		if err := copyAttributes(at, own); err != nil {
			return err
		}
		opaque, err := isOpaque(own)
		if err == nil && opaque {
			err = unix.Lsetxattr(at, disk().opaque(), []byte("y"), 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
