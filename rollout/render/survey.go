package render

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// maxKustomizations bounds the bases and components of a kustomization.
const maxKustomizations = 200

// survey walks the kustomization files of a build before the library does, and
// refuses what would fetch something or start a program.
type survey struct {
	base *os.Root
	seen map[string]bool
}

func surveyed(base *os.Root, dir string) error {
	info, err := base.Stat(dir)
	if err != nil {
		return fmt.Errorf("kustomization %s: %w", dir, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("kustomization %s: it is a file; name the directory that holds it", dir)
	}
	s := &survey{base: base, seen: map[string]bool{}}
	return s.directory(dir)
}

// refusedKeys are those that start a program, and what to do instead.
var refusedKeys = map[string]string{
	"helmCharts":                  "charts are not inflated by kustomize: use helm: beside kustomize:, or commit what the chart gives",
	"helmChartInflationGenerator": "charts are not inflated by kustomize: use helm: beside kustomize:, or commit what the chart gives",
	"helmGlobals":                 "charts are not inflated by kustomize: use helm: beside kustomize:, or commit what the chart gives",
}

// Keys by what their entries are: directories or files with objects; files;
// maps that name files.
var (
	objectKeys    = []string{"resources", "bases", "components", "generators", "transformers", "validators"}
	pluginKeys    = []string{"generators", "transformers", "validators"}
	fileKeys      = []string{"crds", "configurations", "patchesStrategicMerge"}
	patchKeys     = []string{"patches", "patchesJson6902", "replacements"}
	generatorKeys = []string{"configMapGenerator", "secretGenerator"}
)

func (s *survey) directory(dir string) error {
	if s.seen[dir] {
		return nil // a cycle is refused by the library, which names it
	}
	if s.seen[dir] = true; len(s.seen) > maxKustomizations {
		return fmt.Errorf("%s: more than %d kustomizations", dir, maxKustomizations)
	}
	file, err := kustomizationIn(s.base, dir)
	if err != nil {
		return err
	}
	content, err := manifest.ReadFile(s.base, file)
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return fmt.Errorf("%s: not valid YAML: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode {
		return fmt.Errorf("%s:1:1: a kustomization is a mapping", file)
	}
	top := document.Content[0].Content
	for i := 0; i+1 < len(top); i += 2 {
		if err := s.key(dir, file, top[i], resolved(top[i+1])); err != nil {
			return err
		}
	}
	return nil
}

func (s *survey) key(dir, file string, key, value *yaml.Node) error {
	if hint, ok := refusedKeys[key.Value]; ok && len(value.Content) > 0 {
		return refuse(file, key, "%s: %s", key.Value, hint)
	}
	switch {
	case slices.Contains(objectKeys, key.Value):
		for _, entry := range value.Content {
			if err := s.objects(dir, file, key.Value, resolved(entry)); err != nil {
				return err
			}
		}
	case slices.Contains(fileKeys, key.Value):
		for _, entry := range value.Content {
			if entry = resolved(entry); key.Value == "patchesStrategicMerge" && inline(entry.Value) {
				continue
			}
			if err := s.file(dir, file, entry); err != nil {
				return err
			}
		}
	case slices.Contains(patchKeys, key.Value):
		for _, entry := range value.Content {
			if at := child(resolved(entry), "path"); at != nil {
				if err := s.file(dir, file, at); err != nil {
					return err
				}
			}
		}
	case slices.Contains(generatorKeys, key.Value):
		for _, entry := range value.Content {
			if err := s.generator(dir, file, resolved(entry)); err != nil {
				return err
			}
		}
	case key.Value == "openapi":
		if at := child(value, "path"); at != nil {
			return s.file(dir, file, at)
		}
	}
	return nil
}

// objects checks an entry that is a directory, a file, or, for plugins, a
// configuration in place.
func (s *survey) objects(dir, file, key string, entry *yaml.Node) error {
	plugin := slices.Contains(pluginKeys, key)
	if plugin && inline(entry.Value) {
		return s.plugin(file, entry, []byte(entry.Value))
	}
	at, err := s.local(dir, file, entry)
	if err != nil {
		return err
	}
	info, err := s.base.Stat(at)
	if err != nil {
		return refuse(file, entry, "%s is not in the repository (%v); nothing is fetched", entry.Value, unwrapped(err))
	}
	if info.IsDir() {
		return s.directory(at)
	}
	if key == "components" {
		return refuse(file, entry, "%s is a file; a component is a directory", entry.Value)
	}
	if !plugin {
		return nil
	}
	content, err := manifest.ReadFile(s.base, at)
	if err != nil {
		return err
	}
	return s.plugin(file, entry, content)
}

// plugin accepts the configuration of a built-in plugin. One of a program or a
// container says so in an annotation, or is of a group of its own.
func (s *survey) plugin(file string, at *yaml.Node, content []byte) error {
	decoder := yaml.NewDecoder(strings.NewReader(string(content)))
	for {
		var document struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string `yaml:"kind"`
			Metadata   struct {
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"metadata"`
		}
		if err := decoder.Decode(&document); err != nil {
			return nil //nolint:nilerr // the end, or what the library will refuse with better words
		}
		for name := range document.Metadata.Annotations {
			if strings.HasPrefix(name, "config.kubernetes.io/function") || strings.HasPrefix(name, "config.k8s.io/function") {
				return refuse(file, at, "%s is a function in a container or a program; only built-in plugins are run", document.Kind)
			}
		}
		if document.Kind == "HelmChartInflationGenerator" {
			return refuse(file, at, "%s", refusedKeys["helmCharts"])
		}
		if document.APIVersion != "" && document.APIVersion != "builtin" {
			return refuse(file, at, "%s of %s is not a built-in plugin; only those are run", document.Kind, document.APIVersion)
		}
	}
}

func (s *survey) generator(dir, file string, entry *yaml.Node) error {
	for _, key := range []string{"files", "envs"} {
		list := child(entry, key)
		if list == nil {
			continue
		}
		for _, item := range list.Content {
			item = resolved(item)
			if err := s.file(dir, file, &yaml.Node{Value: afterName(item.Value, key), Line: item.Line, Column: item.Column}); err != nil {
				return err
			}
		}
	}
	if at := child(entry, "env"); at != nil {
		return s.file(dir, file, at)
	}
	return nil
}

// afterName takes the name of a key off an entry of files.
func afterName(entry, key string) string {
	if _, name, named := strings.Cut(entry, "="); key == "files" && named {
		return name
	}
	return entry
}

func (s *survey) file(dir, file string, entry *yaml.Node) error {
	at, err := s.local(dir, file, entry)
	if err != nil {
		return err
	}
	info, err := s.base.Stat(at)
	switch {
	case err != nil:
		return refuse(file, entry, "%s is not in the repository (%v)", entry.Value, unwrapped(err))
	case info.IsDir():
		return refuse(file, entry, "%s is a directory, not a file", entry.Value)
	}
	return nil
}

// remote matches what the library would fetch, however it is spelled.
var remote = lazyregexp.New(`(?i)^git::|://|^https?:|^[a-z][a-z0-9-]*@|^github\.com[/:]`)

// local is the path in the checkout that an entry of a kustomization names.
func (s *survey) local(dir, file string, entry *yaml.Node) (string, error) {
	switch value := entry.Value; {
	case value == "":
		return "", refuse(file, entry, "a path is missing")
	case remote().MatchString(value):
		return "", refuse(file, entry, "%s is remote, and nothing is fetched: commit it to the repository", value)
	case path.IsAbs(value):
		return "", refuse(file, entry, "%s is absolute; write it relative to this file", value)
	}
	at := path.Join(dir, entry.Value)
	if at == ".." || strings.HasPrefix(at, "../") {
		return "", refuse(file, entry, "%s leaves the repository", entry.Value)
	}
	return at, nil
}

func refuse(file string, at *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s:%d:%d: %s", file, at.Line, at.Column, fmt.Sprintf(format, args...))
}

// inline tells whether an entry holds YAML in place of a path.
func inline(value string) bool { return strings.Contains(value, "\n") }

func child(node *yaml.Node, key string) *yaml.Node {
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return resolved(node.Content[i+1])
		}
	}
	return nil
}

// resolved follows an alias to what it stands for.
func resolved(node *yaml.Node) *yaml.Node {
	for node.Kind == yaml.AliasNode && node.Alias != nil {
		node = node.Alias
	}
	return node
}

// unwrapped is the reason alone, without the path that the message has already.
func unwrapped(err error) error {
	if failed := (*os.PathError)(nil); errors.As(err, &failed) {
		return failed.Err
	}
	return err
}
