package layer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/userns"
)

// xattrPrefix is how PAX records name extended attributes.
const xattrPrefix = "SCHILY.xattr."

// maxXattrs bounds the extended attributes of a file, in bytes (Linux's own
// bound for their names and for each value).
const maxXattrs = 64 << 10

// keepsXattr tells whether an attribute belongs to a file of an image: the
// others say something about the machine the file is on.
func keepsXattr(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.") && name != userns.OwnerAttribute
}

// keptXattrs are those of an archive's entry.
func keptXattrs(records map[string]string) map[string]string {
	var kept map[string]string
	total := 0
	for key, value := range records {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if total += len(key) + len(value); !ok || !keepsXattr(name) || total > maxXattrs {
			continue
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[name] = value
	}
	return kept
}

// attributed is a file whose extended attributes are read: list gives their
// names, get the value of one. Both tell the size when the buffer is nil.
type attributed struct {
	list func(buffer []byte) (int, error)
	get  func(name string, buffer []byte) (int, error)
}

// xattrs reads the extended attributes that belong into an image of a regular
// file or directory; name has no symbolic link in it.
func (t *Tree) xattrs(name string) (map[string]string, error) {
	// O_PATH would do, but attributes are not read through it.
	file, err := t.root.OpenFile(local(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	kept, err := openXattrs(int(file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	return kept, nil
}

// openXattrs reads those of an open file.
func openXattrs(fd int) (map[string]string, error) {
	return readXattrs(attributed{
		list: func(buffer []byte) (int, error) { return unix.Flistxattr(fd, buffer) },
		get:  func(name string, buffer []byte) (int, error) { return unix.Fgetxattr(fd, name, buffer) },
	})
}

// xattrs reads those of a file in the directory, which need not be opened for
// it. The calls that would take the directory's descriptor are too new (Linux
// 6.13), hence the way through /proc, whose last component is name.
func (d *openDirectory) xattrs(name string) (map[string]string, error) {
	if d.path == "" {
		d.path = fmt.Sprintf("/proc/self/fd/%d/", d.file.Fd())
	}
	file := d.path + name
	return readXattrs(attributed{
		list: func(buffer []byte) (int, error) { return unix.Llistxattr(file, buffer) },
		get:  func(name string, buffer []byte) (int, error) { return unix.Lgetxattr(file, name, buffer) },
	})
}

func readXattrs(file attributed) (map[string]string, error) {
	// Nearly no file has any: its size alone says so.
	list, err := sized(file.list)
	if len(list) == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the names of its attributes: %w", err)
	}
	var kept map[string]string
	for raw := range bytes.SplitSeq(list, []byte{0}) {
		name := string(raw)
		if !keepsXattr(name) {
			continue
		}
		value, err := sized(func(buffer []byte) (int, error) { return file.get(name, buffer) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read its attribute %s: %w", name, err)
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[name] = string(value)
	}
	return kept, nil
}

// sized reads as much as there is. What grows between the two looks is read
// with the room that the kernel allows at most.
func sized(read func([]byte) (int, error)) ([]byte, error) {
	n, err := read(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buffer := make([]byte, n)
	n, err = read(buffer)
	if errors.Is(err, unix.ERANGE) {
		buffer = make([]byte, maxXattrs)
		n, err = read(buffer)
	}
	if err != nil {
		return nil, err
	}
	return buffer[:n], nil
}
