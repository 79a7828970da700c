package render

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/ignore"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Bounds of a chart.
const (
	maxChartFiles = 5000
	maxChartBytes = 32 << 20 // of a chart, and of each packaged one inside it
	maxChartDepth = 30       // of directories
)

// boundArchives tells the library how large a packaged chart may be.
var boundArchives = sync.OnceFunc(func() {
	archive.MaxDecompressedChartSize, archive.MaxDecompressedFileSize = maxChartBytes, manifest.MaxFileBytes
})

// loadChart reads a chart and refuses one whose dependencies are not with it.
func loadChart(base *os.Root, at string) (*chart.Chart, error) {
	boundArchives()
	info, err := base.Stat(at)
	if err != nil {
		return nil, fmt.Errorf("chart %s: %w", at, err)
	}
	var loaded *chart.Chart
	if info.IsDir() {
		loaded, err = loadDirectory(base, at)
	} else {
		loaded, err = loadPackage(base, at)
	}
	if err != nil {
		return nil, err
	}
	if loaded.Metadata.Type == "library" {
		return nil, fmt.Errorf("%s: %w", at, errLibrary)
	}
	return loaded, checkDependencies(base, at, loaded)
}

func loadPackage(base *os.Root, at string) (*chart.Chart, error) {
	content, err := manifest.ReadFile(base, at)
	if err != nil {
		return nil, err
	}
	loaded, err := loader.LoadArchive(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%s: not a packaged chart: %w", at, err)
	}
	return loaded, nil
}

func loadDirectory(base *os.Root, at string) (*chart.Chart, error) {
	if _, err := base.Stat(path.Join(at, "Chart.yaml")); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: no Chart.yaml in this directory", at)
	}
	r := &chartReader{base: base, root: at, rules: ignore.Empty()}
	content, err := manifest.ReadFile(base, path.Join(at, ".helmignore"))
	if err == nil {
		if r.rules, err = ignore.Parse(bytes.NewReader(content)); err != nil {
			return nil, fmt.Errorf("%s/.helmignore: %w", at, err)
		}
	}
	r.rules.AddDefaults()
	if err := r.directory("", 0); err != nil {
		return nil, err
	}
	loaded, err := loader.LoadFiles(r.files)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return loaded, nil
}

// chartReader gathers the files of a chart's directory. Links are followed
// inside the checkout only.
type chartReader struct {
	base  *os.Root
	root  string
	rules *ignore.Rules
	files []*archive.BufferedFile
	bytes int
}

func (r *chartReader) directory(below string, depth int) error {
	if depth > maxChartDepth {
		return fmt.Errorf("%s: directories nested deeper than %d", path.Join(r.root, below), maxChartDepth)
	}
	entries, err := fs.ReadDir(r.base.FS(), path.Join(r.root, below))
	if err != nil {
		return fmt.Errorf("chart %s: %w", r.root, err)
	}
	for _, entry := range entries {
		name := path.Join(below, entry.Name())
		at := path.Join(r.root, name)
		info, err := r.base.Stat(at)
		if err != nil {
			return fmt.Errorf("chart %s: %w", r.root, err)
		}
		if r.rules.Ignore(name, info) {
			continue
		}
		if info.IsDir() {
			if err := r.directory(name, depth+1); err != nil {
				return err
			}
			continue
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("chart %s: %s is not a regular file", r.root, name)
		}
		content, err := manifest.ReadFile(r.base, at)
		if err != nil {
			return err
		}
		if r.bytes += len(content); r.bytes > maxChartBytes || len(r.files) >= maxChartFiles {
			return fmt.Errorf("chart %s: more than %d files or %d bytes", r.root, maxChartFiles, maxChartBytes)
		}
		r.files = append(r.files, &archive.BufferedFile{Name: name, Data: withoutMark(content)})
	}
	return nil
}

// checkDependencies refuses a chart that names others which are not with it:
// they are not fetched.
func checkDependencies(base *os.Root, at string, loaded *chart.Chart) error {
	with := map[string]bool{}
	for _, dependency := range loaded.Dependencies() {
		with[dependency.Name()] = true
	}
	for _, wanted := range loaded.Metadata.Dependencies {
		if with[wanted.Name] {
			continue
		}
		return fmt.Errorf("%s: the chart needs %q %s, which is not in %s/charts, and nothing is fetched: run \"helm dependency update %s\" and commit what it puts there",
			dependencyPlace(base, at, wanted.Name), wanted.Name, wanted.Version, at, at)
	}
	return nil
}

// dependencyPlace is where Chart.yaml names a dependency, as far as can be told.
func dependencyPlace(base *os.Root, at, name string) string {
	file := path.Join(at, "Chart.yaml")
	content, err := manifest.ReadFile(base, file)
	if err != nil {
		return at
	}
	var document yaml.Node
	if yaml.Unmarshal(content, &document) != nil || len(document.Content) == 0 {
		return file
	}
	list := child(document.Content[0], "dependencies")
	if list == nil {
		return file
	}
	for _, entry := range list.Content {
		if found := child(resolved(entry), "name"); found != nil && found.Value == name {
			return fmt.Sprintf("%s:%d:%d", file, found.Line, found.Column)
		}
	}
	return strings.TrimSuffix(file, "/")
}
