// Package ignore reads .dockerignore files.
package ignore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Name is the file read when the Dockerfile has none of its own.
const Name = ".dockerignore"

// MaxFile bounds an ignore file, in bytes.
const MaxFile = 1 << 20

// Matcher tells which paths of a tree are left out. The zero value leaves
// nothing out.
type Matcher struct {
	matcher *patternmatcher.PatternMatcher
}

// Parse reads patterns, one a line.
func Parse(name string, data []byte) (*Matcher, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, MaxFile)
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return compile(name, patterns, lines(data))
}

// New makes a matcher from patterns, such as those of COPY --exclude.
func New(name string, patterns []string) (*Matcher, error) {
	return compile(name, patterns, nil)
}

func compile(name string, patterns, text []string) (*Matcher, error) {
	if len(patterns) == 0 {
		return &Matcher{}, nil
	}
	for _, pattern := range patterns {
		if _, err := patternmatcher.New([]string{pattern}); err != nil {
			where := name
			for i, line := range text {
				if strings.Contains(line, strings.TrimPrefix(pattern, "!")) {
					where = fmt.Sprintf("%s:%d:1", name, i+1)
					break
				}
			}
			return nil, fmt.Errorf("%s: pattern %q: %w", where, pattern, err)
		}
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &Matcher{matcher: matcher}, nil
}

func lines(data []byte) []string { return strings.Split(string(data), "\n") }

// Open finds the ignore file of a Dockerfile: "NAME.dockerignore" beside it, or
// else .dockerignore at the root of the context. Read gives a file's content by
// its path from the root and an error that is fs.ErrNotExist when it is not there.
// An empty dockerfile means one from outside the context.
func Open(dockerfile string, read func(name string) (io.ReadCloser, error)) (*Matcher, error) {
	names := []string{Name}
	if dockerfile != "" {
		names = []string{path.Clean(dockerfile) + Name, Name}
	}
	for _, name := range names {
		file, err := read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", name, err)
		}
		data, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
		_ = file.Close() // only read from
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return Parse(name, data)
	}
	return &Matcher{}, nil
}

// State is what a directory's children need to know of it; the zero value is
// the root's.
type State struct {
	info    patternmatcher.MatchInfo
	ignored bool
}

// Match tells whether name (slash-separated, from the root of the tree) is left
// out; parent is the State of its directory.
func (m *Matcher) Match(name string, parent State) (bool, State, error) {
	if m == nil || m.matcher == nil {
		return false, State{}, nil
	}
	ignored, info, err := m.matcher.MatchesUsingParentResults(name, parent.info)
	if err != nil {
		return false, State{}, fmt.Errorf("match %s: %w", name, err)
	}
	return ignored, State{info: info, ignored: ignored}, nil
}

// MayReturn tells whether something below an ignored directory can still be
// wanted, by a pattern that starts with "!".
func (m *Matcher) MayReturn(directory string) bool {
	if m == nil || m.matcher == nil || !m.matcher.Exclusions() {
		return false
	}
	for _, pattern := range m.matcher.Patterns() {
		if !pattern.Exclusion() {
			continue
		}
		text := pattern.String()
		// Wildcards may reach anywhere; so may a pattern below the directory or
		// a parent of it.
		if strings.ContainsAny(text, "*?[") ||
			strings.HasPrefix(text+"/", directory+"/") || strings.HasPrefix(directory+"/", text+"/") {
			return true
		}
	}
	return false
}

// Hides tells whether a source, a path or pattern as COPY names it, is left out
// for sure. Files with "!" patterns leave that open, so then the answer is no.
func (m *Matcher) Hides(source string) bool {
	if m == nil || m.matcher == nil || m.matcher.Exclusions() {
		return false
	}
	source = path.Clean(source)
	if source == "." || source == "/" {
		// The root itself is in no pattern; what takes all its entries is.
		for _, pattern := range m.matcher.Patterns() {
			switch pattern.String() {
			case "*", "**", "**/*":
				return true
			}
		}
		return false
	}
	hidden, err := m.matcher.MatchesOrParentMatches(source)
	return err == nil && hidden
}
