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

// Xattrs reads the extended attributes that belong into an image of a file or
// directory; name has no symbolic link in it.
func (t *Tree) Xattrs(name string) (map[string]string, error) {
	// O_PATH would do, but attributes are not read through it.
	file, err := t.root.OpenFile(local(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var list [maxXattrs]byte
	n, err := unix.Flistxattr(int(file.Fd()), list[:])
	if n == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the attributes of %q: %w", name, err)
	}
	var kept map[string]string
	for raw := range bytes.SplitSeq(list[:n], []byte{0}) {
		attribute := string(raw)
		if !keepsXattr(attribute) {
			continue
		}
		var value [maxXattrs]byte
		n, err := unix.Fgetxattr(int(file.Fd()), attribute, value[:])
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the attribute %s of %q: %w", attribute, name, err)
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[attribute] = string(value[:n])
	}
	return kept, nil
}
