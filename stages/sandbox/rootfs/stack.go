package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/scoped"
)

// stack is the trees of layers, top first, seen as overlayfs will show them.
type stack []string

// lookUp finds what the layers show under name, none of whose parents may be a
// link: the file's place in its layer, empty if there is nothing.
func (s stack) lookUp(name string) (file string, stat unix.Stat_t, err error) {
	for _, layer := range s {
		at, hidden, err := lookUpIn(layer, name, &stat)
		if err != nil || hidden {
			return "", stat, err
		}
		if at != "" {
			return at, stat, nil
		}
	}
	return "", stat, nil
}

// lookUpIn looks in one layer. hidden means that the layer hides whatever those
// below it have under the name.
func lookUpIn(layer, name string, stat *unix.Stat_t) (file string, hidden bool, err error) {
	at, opaque := layer, false
	for rest := name; ; {
		err := unix.Lstat(at, stat)
		if errors.Is(err, unix.ENOENT) {
			return "", opaque, nil
		}
		if err != nil {
			return "", false, fmt.Errorf("stat %s: %w", at, err)
		}
		if isWhiteout(stat) {
			return "", true, nil
		}
		if rest == "" {
			return at, false, nil
		}
		if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			return "", true, nil
		}
		if !opaque {
			if opaque, err = isOpaque(at); err != nil {
				return "", false, err
			}
		}
		var component string
		component, rest, _ = strings.Cut(rest, "/")
		at = filepath.Join(at, component)
	}
}

// directory finds the directory that the layers show under name; empty if there
// is none.
func (s stack) directory(name string) (string, error) {
	file, stat, err := s.lookUp(name)
	if err != nil || file == "" || stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", err
	}
	return file, nil
}

// resolve follows the links in name as a process chrooted to the root would.
// What does not exist is taken as it is written.
func (s stack) resolve(name string) (string, error) {
	at := ""
	links := 0
	for rest := name; rest != ""; {
		var component string
		component, rest, _ = strings.Cut(rest, "/")
		switch component {
		case "", ".":
			continue
		case "..":
			at = strings.TrimPrefix(path.Dir("/"+at), "/")
			continue
		}
		next := path.Join(at, component)
		file, stat, err := s.lookUp(next)
		if err != nil {
			return "", err
		}
		if file == "" || stat.Mode&unix.S_IFMT != unix.S_IFLNK {
			at = next
			continue
		}
		if links++; links > maxDangling {
			return "", fmt.Errorf("/%s: %w", name, unix.ELOOP)
		}
		target, err := os.Readlink(file)
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(target, "/") {
			at = ""
		}
		if rest = target + "/" + rest; len(rest) > scoped.MaxName {
			return "", fmt.Errorf("/%s: %w", shorten(name), unix.ENAMETOOLONG)
		}
	}
	return at, nil
}
