package manifest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// Bounds on what is read: manifests come from a repository anyone may have
// pushed to.
const (
	MaxFileBytes = 4 << 20
	MaxFiles     = 1000
	MaxObjects   = 2000
	maxDepth     = 100 // of nested YAML values
)

// Load reads manifest files, or every *.yaml, *.yml and *.json below
// directories, in lexical order. Paths are relative to root and may not leave it.
func Load(root string, paths []string) ([]*unstructured.Unstructured, error) {
	if len(paths) == 0 {
		return nil, errors.New("no manifests given: name at least one file or directory")
	}
	base, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("opening the directory of the manifests: %w", err)
	}
	defer base.Close()
	var objects []*unstructured.Unstructured
	files := 0
	for _, path := range paths {
		names, err := list(base, filepath.Clean(path))
		if err != nil {
			return nil, err
		}
		if files += len(names); files > MaxFiles {
			return nil, fmt.Errorf("manifests: more than %d files", MaxFiles)
		}
		for _, name := range names {
			content, err := ReadFile(base, name)
			if err != nil {
				return nil, err
			}
			parsed, err := Parse(name, content)
			if err != nil {
				return nil, err
			}
			if objects = append(objects, parsed...); len(objects) > MaxObjects {
				return nil, fmt.Errorf("manifests: more than %d objects", MaxObjects)
			}
		}
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("no Kubernetes objects in %s", strings.Join(paths, ", "))
	}
	return objects, nil
}

func list(base *os.Root, path string) ([]string, error) {
	info, err := base.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("manifests %s: %w", path, err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var names []string
	err = fs.WalkDir(base.FS(), filepath.ToSlash(path), func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch filepath.Ext(name) {
		case ".yaml", ".yml", ".json":
			if !entry.IsDir() && entry.Name() != "kustomization.yaml" && entry.Name() != "kustomization.yml" {
				names = append(names, name)
			}
		}
		if len(names) > MaxFiles {
			return fmt.Errorf("more than %d files", MaxFiles)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("manifests %s: %w", path, err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("manifests %s: no .yaml, .yml or .json file in this directory", path)
	}
	slices.Sort(names)
	return names, nil
}

// ReadFile reads a file below base, which is not left, and no more than
// MaxFileBytes of it.
func ReadFile(base *os.Root, name string) ([]byte, error) {
	file, err := base.Open(name)
	if err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, MaxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("manifests: reading %s: %w", name, err)
	}
	if len(content) > MaxFileBytes {
		return nil, fmt.Errorf("manifests: %s is larger than %d bytes", name, MaxFileBytes)
	}
	return content, nil
}

// Parse reads the objects of one file of YAML documents or JSON. Objects of
// kind List are taken apart. Errors name the file, the line at which the
// document starts, and what to do.
func Parse(file string, content []byte) ([]*unstructured.Unstructured, error) {
	if len(content) > MaxFileBytes {
		return nil, fmt.Errorf("%s: larger than %d bytes", file, MaxFileBytes)
	}
	var objects []*unstructured.Unstructured
	for _, doc := range documents(content) {
		where := fmt.Sprintf("%s:%d", file, doc.line)
		if err := checkDepth(doc.text); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		var value any
		if err := yaml.UnmarshalStrict(doc.text, &value); err != nil {
			return nil, fmt.Errorf("%s: not valid YAML: %w", where, err)
		}
		if value == nil {
			continue
		}
		m, ok := value.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: a document must be a Kubernetes object (a mapping), not %T", where, value)
		}
		taken, err := take(where, m, 0)
		if err != nil {
			return nil, err
		}
		for _, u := range taken {
			setOrigin(u, originOf(file, doc))
		}
		if objects = append(objects, taken...); len(objects) > MaxObjects {
			return nil, fmt.Errorf("%s: more than %d objects", where, MaxObjects)
		}
	}
	return objects, nil
}

// Accept takes an object that was made elsewhere as if it stood in a file;
// where names its place in errors. A List gives its items.
func Accept(where string, object map[string]any) ([]*unstructured.Unstructured, error) {
	return take(where, object, 0)
}

func take(where string, m map[string]any, level int) ([]*unstructured.Unstructured, error) {
	// Numbers as the API machinery wants them (int64 or float64), never json.Number.
	normalise(m)
	u := &unstructured.Unstructured{Object: m}
	apiVersion, kind := text(m, "apiVersion"), text(m, "kind")
	if apiVersion == "" || kind == "" {
		return nil, fmt.Errorf("%s: not a Kubernetes object: apiVersion and kind are required", where)
	}
	if items, ok := m["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		if level > 0 {
			return nil, fmt.Errorf("%s: a List inside a List", where)
		}
		var objects []*unstructured.Unstructured
		for i, item := range items {
			entry, ok := item.(map[string]any)
			if !ok {
				return nil, fmt.Errorf("%s: item %d of the %s is not a mapping", where, i, kind)
			}
			taken, err := take(fmt.Sprintf("%s: item %d", where, i), entry, level+1)
			if err != nil {
				return nil, err
			}
			objects = append(objects, taken...)
		}
		return objects, nil
	}
	metadata, ok := m["metadata"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: %s has no metadata", where, kind)
	}
	if text(metadata, "name") == "" {
		if text(metadata, "generateName") != "" {
			return nil, fmt.Errorf("%s: %s uses generateName; a release needs fixed names", where, kind)
		}
		return nil, fmt.Errorf("%s: %s has no metadata.name", where, kind)
	}
	if errs := validation.IsDNS1123Subdomain(text(metadata, "name")); len(errs) > 0 && !strings.Contains(text(metadata, "name"), ":") {
		return nil, fmt.Errorf("%s: %s name %q: %s", where, kind, text(metadata, "name"), errs[0])
	}
	for _, key := range []string{"labels", "annotations"} {
		values, present := metadata[key]
		if !present || values == nil {
			continue
		}
		entries, ok := values.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: metadata.%s of %s %q is not a mapping", where, key, kind, u.GetName())
		}
		for name, value := range entries {
			if _, ok := value.(string); !ok {
				return nil, fmt.Errorf("%s: metadata.%s[%q] of %s %q must be a string; put it in quotes", where, key, name, kind, u.GetName())
			}
		}
	}
	delete(m, "status")
	for _, key := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"} {
		delete(metadata, key)
	}
	return []*unstructured.Unstructured{u}, nil
}

// normalise makes whole float64 numbers int64, in place: sigs.k8s.io/yaml goes
// through JSON, which knows only float64.
func normalise(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, child := range v {
			v[key] = normalise(child)
		}
	case []any:
		for i, child := range v {
			v[i] = normalise(child)
		}
	case float64:
		if whole := int64(v); float64(whole) == v && v < 1<<53 && v > -(1<<53) {
			return whole
		}
	case int:
		return int64(v)
	}
	return value
}

type document struct {
	line int
	text []byte
}

// documents splits at lines that are "---", as the YAML decoder would not do.
func documents(content []byte) []document {
	var docs []document
	current := document{line: 1}
	line := 0
	scanner := bufio.NewScanner(bytes.NewReader(content))
	scanner.Buffer(make([]byte, 0, 64<<10), MaxFileBytes+1)
	for scanner.Scan() {
		line++
		row := scanner.Bytes()
		if bytes.HasPrefix(row, []byte("---")) && (len(row) == 3 || row[3] == ' ' || row[3] == '\t' || row[3] == '\r') {
			docs = append(docs, current)
			current = document{line: line + 1, text: append([]byte(nil), row[3:]...)}
			if rest := bytes.TrimSpace(row[3:]); len(rest) == 0 || rest[0] == '#' {
				current.text = nil
			} else {
				current.line = line
			}
			current.text = append(current.text, '\n')
			continue
		}
		current.text = append(append(current.text, row...), '\n')
	}
	return append(docs, current)
}

// checkDepth refuses text whose flow nesting could exhaust the parser's stack.
func checkDepth(doc []byte) error {
	depth := 0
	for _, c := range doc {
		switch c {
		case '{', '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("values nested deeper than %d", maxDepth)
			}
		case '}', ']':
			depth = max(0, depth-1)
		}
	}
	return nil
}
