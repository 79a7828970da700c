package layer

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

const (
	// maxLinks bounds how many symbolic links one lookup follows, as the kernel's own limit.
	maxLinks = 40
	// maxName bounds a path and a link's target, in bytes: PATH_MAX without its terminator.
	maxName = 4095
)

// ErrLinks is returned for a loop of symbolic links.
var ErrLinks = errors.New("too many symbolic links")

// cleanName makes a name from outside a path below the root, without leading
// slash; the root is "". Names cannot leave it.
func cleanName(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// resolve follows every symbolic link in name, the last component included, as a
// process chrooted to the root would. look tells of a path without links whether
// it is one and where that points; the error it returns ends the walk.
func resolve(name string, look func(name string) (target string, link bool, err error)) (string, error) {
	done, rest := "", cleanName(name)
	for links := 0; rest != ""; {
		var component string
		component, rest, _ = strings.Cut(rest, "/")
		switch component {
		case "", ".":
			continue
		case "..":
			done = parent(done)
			continue
		}
		next := path.Join(done, component)
		target, link, err := look(next)
		if err != nil {
			return "", err
		}
		if !link {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", ErrLinks
		}
		if len(target)+len(rest) > maxName {
			return "", fmt.Errorf("a link leads to a name of more than %d bytes", maxName)
		}
		if path.IsAbs(target) {
			done = ""
		}
		rest = target + "/" + rest
	}
	return done, nil
}

// parent is the directory of a path below the root; the root's is itself.
func parent(name string) string { return strings.TrimPrefix(path.Dir("/"+name), "/") }
