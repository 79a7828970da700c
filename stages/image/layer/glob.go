package layer

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"syscall"
)

func hasWildcard(pattern string) bool {
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

func unescape(pattern string) string {
	if !strings.Contains(pattern, `\`) {
		return pattern
	}
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		if pattern[i] == '\\' && i+1 < len(pattern) {
			i++
		}
		b.WriteByte(pattern[i])
	}
	return b.String()
}

// glob expands a pattern, component by component. Directories on the way may be
// symbolic links; the names stay as written.
func (s *Selector) glob(ctx context.Context, pattern string) ([]string, error) {
	found := []string{""}
	components := strings.Split(pattern, "/")
	for i, component := range components {
		var next []string
		for _, dir := range found {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if !hasWildcard(component) {
				next = append(next, path.Join(dir, unescape(component)))
				continue
			}
			if component == "**" && s.Parents {
				below, err := s.directoriesBelow(ctx, dir)
				if err != nil {
					return nil, err
				}
				next = append(next, below...)
				if i == len(components)-1 {
					next = next[:len(next)-len(below)]
					next = append(next, dir)
				}
				continue
			}
			names, err := s.names(dir)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				ok, err := path.Match(component, name)
				if err != nil {
					return nil, err
				}
				if ok {
					next = append(next, path.Join(dir, name))
				}
			}
		}
		found = next
	}
	return found, nil
}

func (s *Selector) directoriesBelow(ctx context.Context, dir string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all := []string{dir}
	names, err := s.names(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		child := path.Join(dir, name)
		if info, err := s.Tree.Lstat(child); err == nil && info.IsDir() {
			below, err := s.directoriesBelow(ctx, child)
			if err != nil {
				return nil, err
			}
			all = append(all, below...)
		}
	}
	return all, nil
}

// names lists a directory that may be reached through links; what is no
// directory holds nothing.
func (s *Selector) names(dir string) ([]string, error) {
	resolved, err := s.Tree.Resolve(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrLinks) {
			return nil, nil
		}
		return nil, err
	}
	names, err := s.Tree.Names(resolved)
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}
