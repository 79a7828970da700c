package rootfs

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/scoped"
)

// tree is a directory that hostile names are written into. Every name is
// resolved as a process chrooted there would: ".." stops at the top, absolute
// links start there. The kernel enforces it (openat2, RESOLVE_IN_ROOT).
type tree struct {
	root int // O_PATH descriptor
	// lastName and lastFD remember the directory used last: entries of an
	// archive mostly come directory by directory.
	lastName string
	lastFD   int
	// implied names directories made for what lies in them, until an entry
	// describes them.
	implied map[string]struct{}
}

// maxDangling bounds how many dangling links one name may lead through, as the
// kernel bounds links.
const maxDangling = 40

func openTree(dir string) (*tree, error) {
	fd, err := scoped.Root(dir)
	if err != nil {
		return nil, err
	}
	return &tree{root: fd, lastFD: -1, implied: map[string]struct{}{}}, nil
}

func (t *tree) close() {
	t.forget()
	unix.Close(t.root)
}

// forget drops the remembered directory; needed whenever something is removed.
func (t *tree) forget() {
	if t.lastFD >= 0 {
		unix.Close(t.lastFD)
	}
	t.lastFD, t.lastName = -1, ""
}

// clean turns the name of an archive's entry into a path relative to the tree,
// "" for the tree itself.
func clean(name string) (string, error) {
	if len(name) > scoped.MaxName {
		return "", fmt.Errorf("name of %d bytes: longer than %d", len(name), scoped.MaxName)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("name %q holds a zero byte", name)
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

// directory returns a descriptor of the directory name, which is valid until
// the next call or forget. It makes what is missing if create is set.
func (t *tree) directory(name string, create bool) (int, error) {
	if t.lastFD >= 0 && t.lastName == name {
		return t.lastFD, nil
	}
	fd, err := t.resolve(name)
	if errors.Is(err, unix.ENOENT) && create {
		if err := t.make(name, maxDangling); err != nil {
			return -1, err
		}
		fd, err = t.resolve(name)
	}
	if err != nil {
		return -1, fmt.Errorf("directory %q: %w", name, err)
	}
	t.forget()
	t.lastName, t.lastFD = name, fd
	return fd, nil
}

func (t *tree) resolve(name string) (int, error) {
	return scoped.Open(t.root, name, unix.O_PATH|unix.O_DIRECTORY)
}

// make makes the missing directories of name, following links that dangle in
// this layer to the place inside the tree that they mean: it is often a
// directory of a layer below.
func (t *tree) make(name string, dangling int) error {
	if len(name) > scoped.MaxName {
		return fmt.Errorf("directory name of %d bytes: longer than %d", len(name), scoped.MaxName)
	}
	done := ""
	for rest := name; rest != ""; {
		var component string
		component, rest, _ = strings.Cut(rest, "/")
		next := path.Join(done, component)
		fd, err := t.resolve(next)
		if err == nil {
			unix.Close(fd)
			done = next
			continue
		}
		if !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("directory %q: %w", next, err)
		}
		parent, err := t.resolve(done)
		if err != nil {
			return fmt.Errorf("directory %q: %w", done, err)
		}
		target, linkErr := scoped.Readlink(parent, component)
		if linkErr != nil {
			err = unix.Mkdirat(parent, component, 0o755)
		}
		unix.Close(parent)
		if linkErr != nil {
			if err != nil {
				return fmt.Errorf("make directory %q: %w", next, err)
			}
			where, err := t.real(next)
			if err != nil {
				return err
			}
			t.implied[where] = struct{}{}
			done = next
			continue
		}
		if dangling == 0 {
			return fmt.Errorf("directory %q: %w", next, unix.ELOOP)
		}
		// The link's own directory may itself have been reached through links;
		// where it really is counts for a relative target.
		where, err := t.real(done)
		if err != nil {
			return err
		}
		if strings.HasPrefix(target, "/") {
			where = ""
		}
		if err := t.make(strings.TrimPrefix(path.Clean("/"+where+"/"+target), "/"), dangling-1); err != nil {
			return err
		}
		if fd, err = t.resolve(next); err != nil {
			return fmt.Errorf("directory %q: link to %q: %w", next, target, err)
		}
		unix.Close(fd)
		done = next
	}
	return nil
}

// real tells the link-free path of an existing directory, relative to the tree.
func (t *tree) real(name string) (string, error) {
	fd, err := t.resolve(name)
	if err != nil {
		return "", fmt.Errorf("directory %q: %w", name, err)
	}
	defer unix.Close(fd)
	at, err := scoped.Readlink(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", err
	}
	top, err := scoped.Readlink(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", t.root))
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(strings.TrimPrefix(at, top), "/"), nil
}

// remove removes name and all below it from the directory dir, never through a link.
func remove(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	names, err := readNames(fd)
	if err == nil {
		for _, child := range names {
			if err = remove(fd, child); err != nil {
				break
			}
		}
	}
	unix.Close(fd)
	if err != nil {
		return err
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

func readNames(dir int) ([]string, error) {
	buffer := make([]byte, 64<<10)
	var names []string
	for {
		n, err := unix.ReadDirent(dir, buffer)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}
