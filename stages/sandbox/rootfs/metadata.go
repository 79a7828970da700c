package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/userns"
)

// setMetadata gives a new entry the owner, attributes, mode and times of its
// header, in the order in which the kernel does not undo them.
func setMetadata(parent int, base string, header *tar.Header) error {
	if header.Uid < 0 || header.Gid < 0 {
		return fmt.Errorf("owner %d:%d does not exist", header.Uid, header.Gid)
	}
	if err := setOwner(parent, base, header); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", header.Uid, header.Gid, err)
	}
	for key, value := range header.PAXRecords {
		name, ok := strings.CutPrefix(key, paxAttribute)
		if !ok || !keptAttribute(name) {
			continue
		}
		if err := setAttribute(parent, base, name, value); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	if header.Typeflag == tar.TypeSymlink {
		times := timesOf(header)
		return unix.UtimesNanoAt(parent, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
	}
	// The entry was just made and is no link: following is harmless, and
	// fchmodat can't do otherwise.
	if err := unix.Fchmodat(parent, base, uint32(header.Mode&0o7777), 0); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	times := timesOf(header)
	if err := unix.UtimesNanoAt(parent, base, times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

func setOwner(parent int, base string, header *tar.Header) error {
	if !disk().single {
		err := unix.Fchownat(parent, base, header.Uid, header.Gid, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) && disk().ordinary {
			return fmt.Errorf("%w: /etc/subuid and /etc/subgid grant too few ids for this image", err)
		}
		return err
	}
	if header.Uid == 0 && header.Gid == 0 {
		return nil
	}
	err := setAttribute(parent, base, userns.OwnerAttribute, fmt.Sprintf("%d:%d", header.Uid, header.Gid))
	// Links and pipes can't carry one, and are root's then.
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// keptAttribute tells which extended attributes travel with a layer. Those that
// steer overlayfs must never come from outside: a redirect would show other
// directories of the image under a name of the layer's choice. Labels of
// security modules belong to the machine.
func keptAttribute(name string) bool {
	switch {
	case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
		return false
	case name == userns.OwnerAttribute:
		return false
	case strings.HasPrefix(name, "trusted."):
		return !disk().ordinary // none can be set
	case strings.HasPrefix(name, "user."):
		return true
	}
	return name == "security.capability"
}

// setAttribute sets an extended attribute of base itself, never of what a link
// leads to. The *at calls for attributes are too new (Linux 6.13), hence the
// way through /proc, whose last component is base.
func setAttribute(parent int, base, name, value string) error {
	return unix.Lsetxattr(entryOf(parent, base), name, []byte(value), 0)
}

// entryOf is a path to an entry of an open directory.
func entryOf(dir int, base string) string {
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + base
}

// attributes reads the extended attributes of file that a layer keeps.
func attributes(file string) (map[string]string, error) {
	names, err := listAttributes(file)
	if err != nil {
		return nil, err
	}
	return keptAttributes(file, names)
}

// keptAttributes reads those of the named attributes that a layer keeps.
func keptAttributes(file string, names []string) (map[string]string, error) {
	var kept map[string]string
	for _, name := range names {
		if !keptAttribute(name) {
			continue
		}
		value, err := getAttribute(file, name)
		if err != nil {
			return nil, fmt.Errorf("read attribute %s of %s: %w", name, file, err)
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[name] = value
	}
	return kept, nil
}

func listAttributes(file string) ([]string, error) {
	size, err := unix.Llistxattr(file, nil)
	if errors.Is(err, unix.ENOTSUP) || (err == nil && size == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes of %s: %w", file, err)
	}
	buffer := make([]byte, size)
	size, err = unix.Llistxattr(file, buffer)
	if err != nil {
		return nil, fmt.Errorf("list attributes of %s: %w", file, err)
	}
	return strings.FieldsFunc(string(buffer[:size]), func(r rune) bool { return r == 0 }), nil
}

func getAttribute(file, name string) (string, error) {
	size, err := unix.Lgetxattr(file, name, nil)
	if err != nil || size == 0 {
		return "", err
	}
	buffer := make([]byte, size)
	size, err = unix.Lgetxattr(file, name, buffer)
	if err != nil {
		return "", err
	}
	return string(buffer[:size]), nil
}

func isOpaque(directory string) (bool, error) {
	value, err := getAttribute(directory, disk().opaque())
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read attributes of %s: %w", directory, err)
	}
	return value == "y", nil
}
