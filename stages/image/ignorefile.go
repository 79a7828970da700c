package image

import (
	"io"
	"path/filepath"
	"strings"

	"github.com/tidegate-ci/tidegate/stages/image/ignore"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
)

// openIgnore finds the ignore file. The one named after the Dockerfile is also
// honoured when the Dockerfile is outside the context, from beside it.
func openIgnore(tree *layer.Tree, dir, dockerfile string) (*ignore.Matcher, bool, error) {
	read := func(name string) (io.ReadCloser, error) {
		resolved, err := tree.Resolve(name)
		if err != nil {
			return nil, err
		}
		return tree.Open(resolved)
	}
	inside := ""
	beside := tree
	if absolute, err := filepath.Abs(dockerfile); err == nil {
		if real, err := filepath.EvalSymlinks(filepath.Dir(absolute)); err == nil {
			absolute = filepath.Join(real, filepath.Base(absolute))
		}
		relative, err := filepath.Rel(dir, absolute)
		if err == nil && relative != ".." && !strings.HasPrefix(relative, ".."+string(filepath.Separator)) {
			inside = filepath.ToSlash(relative)
		} else if outside, err := layer.OpenTree(filepath.Dir(absolute), false); err == nil {
			defer outside.Close()
			beside = outside
		}
	}
	if beside != tree {
		name := filepath.Base(dockerfile) + ignore.Name
		if _, err := beside.Lstat(name); err == nil {
			m, err := ignore.Open(filepath.Base(dockerfile), func(name string) (io.ReadCloser, error) { return beside.Open(name) })
			return m, true, err
		}
	}
	opened := false
	m, err := ignore.Open(inside, func(name string) (io.ReadCloser, error) {
		file, err := read(name)
		opened = opened || err == nil
		return file, err
	})
	return m, opened, err
}
