// Package differential compares images that Tidegate builds with those that
// BuildKit builds from the same Dockerfile, over a corpus of small cases with
// one feature each. What may differ stands in a table, with the reason.
package differential

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Case is one Dockerfile with its context. It is read from a file like this:
//
//	What the case is about, in a sentence.
//	target: build
//	arg: VERSION=2
//	-- Dockerfile --
//	FROM busybox
//	COPY run.sh /
//	-- run.sh --
//	echo hello
//	-- setup --
//	chmod 0755 run.sh
//
// Everything between the lines with dashes is a file of the context. The section
// setup has what text can't say, a command a line: chmod MODE NAME, mkdir MODE
// NAME, symlink TARGET NAME, hardlink OLD NAME, fifo MODE NAME, xattr NAME KEY
// VALUE, chown UID:GID NAME, truncate SIZE NAME.
type Case struct {
	Name, About string
	Target      string
	Platform    string
	// Args are build arguments, Labels labels of the build, Secrets secrets by id.
	Args, Labels, Secrets map[string]string
	Files                 []ContextFile
	Setup                 []string
	// Fails is set when there is to be no image; the text has to be in our error.
	Fails string
}

// ContextFile is a file of the context.
type ContextFile struct {
	Name string
	Data []byte
}

// setupSection is the name that is no file.
const setupSection = "setup"

// Parse reads a case.
func Parse(name string, data []byte) (*Case, error) {
	c := &Case{Name: name, Args: map[string]string{}, Labels: map[string]string{}, Secrets: map[string]string{}}
	lines := bytes.SplitAfter(data, []byte("\n"))
	at := 0
	for ; at < len(lines); at++ {
		if _, ok := section(lines[at]); ok {
			break
		}
		line := strings.TrimSpace(string(lines[at]))
		if line == "" {
			continue
		}
		if err := c.header(line); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, at+1, err)
		}
	}
	if c.About == "" {
		return nil, fmt.Errorf("%s: its first line has to say what it is about", name)
	}
	var file *ContextFile
	for _, line := range lines[at:] {
		if section, ok := section(line); ok {
			c.Files = append(c.Files, ContextFile{Name: section})
			file = &c.Files[len(c.Files)-1]
			continue
		}
		file.Data = append(file.Data, line...)
	}
	if i := slices.IndexFunc(c.Files, func(f ContextFile) bool { return f.Name == setupSection }); i >= 0 {
		scanner := bufio.NewScanner(bytes.NewReader(c.Files[i].Data))
		for scanner.Scan() {
			if line := strings.TrimSpace(scanner.Text()); line != "" {
				c.Setup = append(c.Setup, line)
			}
		}
		c.Files = slices.Delete(c.Files, i, i+1)
	}
	if !slices.ContainsFunc(c.Files, func(f ContextFile) bool { return f.Name == "Dockerfile" }) {
		return nil, fmt.Errorf("%s: there is no Dockerfile", name)
	}
	return c, nil
}

func section(line []byte) (string, bool) {
	text := strings.TrimSuffix(string(line), "\n")
	name, ok := strings.CutPrefix(text, "-- ")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(name, " --")
}

func (c *Case) header(line string) error {
	key, value, ok := strings.Cut(line, ": ")
	if c.About == "" {
		c.About = line
		return nil
	}
	if !ok {
		return fmt.Errorf("%q: want KEY: VALUE", line)
	}
	pair := func(to map[string]string) error {
		name, value, ok := strings.Cut(value, "=")
		if !ok {
			return fmt.Errorf("%q: want NAME=VALUE", line)
		}
		to[name] = value
		return nil
	}
	switch key {
	case "target":
		c.Target = value
	case "platform":
		c.Platform = value
	case "arg":
		return pair(c.Args)
	case "label":
		return pair(c.Labels)
	case "secret":
		return pair(c.Secrets)
	case "fails":
		c.Fails = value
	default:
		return fmt.Errorf("there is no setting %q", key)
	}
	return nil
}

// WriteContext writes the context into dir, which is empty.
func (c *Case) WriteContext(dir string) error {
	for _, file := range c.Files {
		path := filepath.Join(dir, filepath.FromSlash(file.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, file.Data, 0o644); err != nil {
			return err
		}
	}
	for _, line := range c.Setup {
		if err := setup(dir, strings.Fields(line)); err != nil {
			return fmt.Errorf("%s: setup: %s: %w", c.Name, line, err)
		}
	}
	return nil
}

// setupCommands have fixed numbers of arguments; the one named like the file is last,
// but for xattr.
var setupCommands = map[string]struct {
	arguments int
	do        func(dir string, args []string) error
}{
	"chmod": {2, func(dir string, args []string) error {
		mode, err := parseMode(args[0])
		return errors.Join(err, syscall.Chmod(filepath.Join(dir, args[1]), mode))
	}},
	"mkdir": {2, func(dir string, args []string) error {
		mode, err := parseMode(args[0])
		name := filepath.Join(dir, args[1])
		return errors.Join(err, os.MkdirAll(name, 0o755), syscall.Chmod(name, mode))
	}},
	"symlink": {2, func(dir string, args []string) error {
		return os.Symlink(args[0], filepath.Join(dir, args[1]))
	}},
	"hardlink": {2, func(dir string, args []string) error {
		return os.Link(filepath.Join(dir, args[0]), filepath.Join(dir, args[1]))
	}},
	"fifo": {2, func(dir string, args []string) error {
		mode, err := parseMode(args[0])
		name := filepath.Join(dir, args[1])
		return errors.Join(err, unix.Mkfifo(name, mode), syscall.Chmod(name, mode))
	}},
	"xattr": {3, func(dir string, args []string) error {
		return unix.Lsetxattr(filepath.Join(dir, args[0]), args[1], []byte(args[2]), 0)
	}},
	"chown": {2, func(dir string, args []string) error {
		uid, gid, _ := strings.Cut(args[0], ":")
		u, err := strconv.Atoi(uid)
		g, err2 := strconv.Atoi(gid)
		return errors.Join(err, err2, os.Lchown(filepath.Join(dir, args[1]), u, g))
	}},
	"truncate": {2, func(dir string, args []string) error {
		size, err := strconv.ParseInt(args[0], 10, 64)
		return errors.Join(err, os.Truncate(filepath.Join(dir, args[1]), size))
	}},
}

func setup(dir string, fields []string) error {
	command, ok := setupCommands[fields[0]]
	if !ok || len(fields) != command.arguments+1 {
		return errors.New("unknown command or wrong number of arguments")
	}
	return command.do(dir, fields[1:])
}

func parseMode(text string) (uint32, error) {
	mode, err := strconv.ParseUint(text, 8, 12)
	return uint32(mode), err
}

// Corpus reads all cases of a directory, in the order of their names.
func Corpus(from fs.FS) ([]*Case, error) {
	names, err := fs.Glob(from, "*.txtar")
	if err != nil {
		return nil, err
	}
	var cases []*Case
	for _, name := range names {
		data, err := fs.ReadFile(from, name)
		if err != nil {
			return nil, err
		}
		c, err := Parse(strings.TrimSuffix(name, ".txtar"), data)
		if err != nil {
			return nil, err
		}
		cases = append(cases, c)
	}
	return cases, nil
}
