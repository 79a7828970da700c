package pipeline

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const (
	// File is where a repository's only pipeline stands.
	File = ".tidegate.yaml"
	// Directory holds the pipelines of a repository that has several, one a file.
	Directory = ".tidegate"
	// MaxFiles bounds the pipelines of a repository.
	MaxFiles = 64
)

// ErrNoPipeline tells that the repository holds no pipeline file.
var ErrNoPipeline = errors.New("no pipeline: there is neither .tidegate.yaml nor .tidegate/*.yaml")

// Load reads the pipelines of a repository: .tidegate.yaml and .tidegate/*.yaml
// below the root of fsys, in that order, then by name. Symbolic links are
// refused, so that a file cannot stand for one outside the repository.
//
// What could be read is returned also beside an error. The error is
// ErrNoPipeline, an Errors with the problems of all files, or what reading a
// file said.
func Load(fsys fs.FS) ([]*Pipeline, error) {
	files, err := Files(fsys)
	if err != nil {
		return nil, err
	}
	var pipelines []*Pipeline
	var problems Errors
	owner := map[string]string{}
	for _, file := range files {
		data, err := ReadFile(fsys, file)
		if err != nil {
			return pipelines, err
		}
		p, err := Parse(file, data)
		var found Errors
		switch {
		case errors.As(err, &found):
			problems = append(problems, found...)
			continue
		case err != nil:
			return pipelines, err
		}
		if other, taken := owner[p.Name]; taken {
			problems = append(problems, Problem{
				Position: p.Pos, Rule: RuleDuplicate, Message: fmt.Sprintf("the name %q is taken by %s", p.Name, other), Hint: "rename one of the pipelines",
			})
			continue
		}
		owner[p.Name] = file
		pipelines = append(pipelines, p)
	}
	if len(problems) > 0 {
		return pipelines, problems
	}
	return pipelines, nil
}

// Files lists the pipeline files of a repository, as Load reads them.
func Files(fsys fs.FS) ([]string, error) {
	var files []string
	switch info, err := fs.Lstat(fsys, File); {
	case err == nil && info.Mode().IsRegular():
		files = append(files, File)
	case err == nil:
		return nil, Fail(CauseInvalid, "%s is not a regular file: symbolic links are not followed", File)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("looking for %s: %w", File, err)
	}
	switch info, err := fs.Lstat(fsys, Directory); {
	case err == nil && !info.IsDir():
		return nil, Fail(CauseInvalid, "%s is not a directory: symbolic links are not followed", Directory)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("looking for %s: %w", Directory, err)
	case err == nil:
		entries, err := fs.ReadDir(fsys, Directory)
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", Directory, err)
		}
		for _, entry := range entries {
			name := entry.Name()
			if !strings.HasSuffix(name, ".yaml") && !strings.HasSuffix(name, ".yml") {
				continue
			}
			file := path.Join(Directory, name)
			if !entry.Type().IsRegular() {
				return nil, Fail(CauseInvalid, "%s is not a regular file: symbolic links are not followed", file)
			}
			files = append(files, file)
		}
	}
	if len(files) == 0 {
		return nil, Fail(CauseInvalid, "%w", ErrNoPipeline)
	}
	if len(files) > MaxFiles {
		return nil, Fail(CauseInvalid, "%s holds %d pipelines; at most %d are allowed", Directory, len(files), MaxFiles)
	}
	slices.SortStableFunc(files, func(a, b string) int {
		return strings.Compare(strings.TrimPrefix(a, File), strings.TrimPrefix(b, File))
	})
	return files, nil
}

// ReadFile reads one pipeline file and at most a byte more than Parse accepts.
func ReadFile(fsys fs.FS, file string) ([]byte, error) {
	f, err := fsys.Open(file)
	if err != nil {
		return nil, fmt.Errorf("opening the pipeline file: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the pipeline file %s: %w", file, err)
	}
	return data, nil
}
