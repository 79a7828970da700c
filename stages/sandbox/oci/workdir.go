package oci

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
	"github.com/tidegate-ci/tidegate/stages/sandbox/scoped"
)

// workingDirectory tells where a working directory is, links of the image and of
// mounts followed as the container will see them. One that leads to the files
// that processes have open would take an old runtime to those of the host
// (CVE-2024-21626); what belongs to the container is refused altogether.
func (b *bundle) workingDirectory(points *stubs, dir string) (string, error) {
	at := ""
	links := maxLinks
	for rest := strings.Trim(dir, "/"); rest != ""; {
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
		if kept := belongsToContainer("/" + next); kept != "" {
			return "", fmt.Errorf("working directory %q: it lies in %s, which belongs to the container", dir, kept)
		}
		target, err := b.readlink(points, "/"+next)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // no link, or not there yet
			at = next
			continue
		case err != nil:
			return "", fmt.Errorf("working directory %q: /%s: %w", dir, next, err)
		}
		if links--; links < 0 {
			return "", fmt.Errorf("working directory %q: %w", dir, unix.ELOOP)
		}
		if strings.HasPrefix(target, "/") {
			at = ""
		}
		if rest = target + "/" + rest; len(rest) > scoped.MaxName {
			return "", fmt.Errorf("working directory %q: %w", dir, unix.ENAMETOOLONG)
		}
	}
	return "/" + at, nil
}

// readlink reads the link at a path without links but the last, in what is
// mounted there or else in the root.
func (b *bundle) readlink(points *stubs, name string) (string, error) {
	root, below, over := points.top, name, ""
	for i, at := range b.points {
		if name == at {
			return "", unix.EINVAL // a mount point is no link
		}
		if strings.HasPrefix(name, at+"/") && len(at) > len(over) {
			root, below, over = b.staged[i].fd, strings.TrimPrefix(name, at), at
		}
	}
	if root < 0 {
		return "", unix.ENOTDIR
	}
	parent, err := scoped.OpenPlain(root, strings.TrimPrefix(path.Dir(below), "/"), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return "", err
	}
	defer unix.Close(parent)
	return scoped.Readlink(parent, path.Base(below))
}

// The bounds of what a command may be given. A kernel takes far less on one
// command line; these keep an image from filling memory before it says so.
const (
	maxArguments = 1 << 16
	maxArguing   = 8 << 20 // bytes, of arguments and environment together
)

// checkText refuses what no process can be given.
func checkText(command sandbox.Command) error {
	if len(command.Args)+len(command.Env) > maxArguments {
		return fmt.Errorf("more than %d arguments and variables", maxArguments)
	}
	size := 0
	check := func(what, text string) error {
		if strings.Contains(text, "\x00") {
			return fmt.Errorf("%s holds a zero byte", what)
		}
		size += len(text)
		return nil
	}
	for _, arg := range command.Args {
		if err := check("an argument", arg); err != nil {
			return err
		}
	}
	for name, value := range command.Env {
		if strings.Contains(name, "=") || name == "" {
			return fmt.Errorf("%q can't be the name of a variable", name)
		}
		if err := errors.Join(check("the name of a variable", name), check("the variable "+name, value)); err != nil {
			return err
		}
	}
	if size > maxArguing {
		return fmt.Errorf("arguments and variables of more than %d bytes", maxArguing)
	}
	return errors.Join(check("the working directory", command.Dir), check("the user", command.User))
}
