package render

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// chartValues lays the values of files and settings over each other.
func chartValues(base *os.Root, h Helm) (map[string]any, error) {
	values := map[string]any{}
	for _, name := range h.Values {
		content, err := manifest.ReadFile(base, path.Clean(name))
		if err != nil {
			return nil, err
		}
		read, err := loader.LoadValues(bytes.NewReader(withoutMark(content)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, plainYAML(err))
		}
		values = loader.MergeMaps(values, read)
	}
	for _, settings := range []struct {
		what   string
		values map[string]string
		parse  func(string, map[string]any) error
	}{{"set", h.Set, strvals.ParseInto}, {"set-string", h.SetString, strvals.ParseIntoString}} {
		for _, key := range slices.Sorted(maps.Keys(settings.values)) {
			if key == "" || strings.ContainsAny(key, "=,") {
				return nil, fmt.Errorf("%s: %s %q: write the path of one value, such as image.tag", h.Chart, settings.what, key)
			}
			if err := settings.parse(key+"="+escaped(settings.values[key]), values); err != nil {
				return nil, fmt.Errorf("%s: %s %q: %w", h.Chart, settings.what, key, err)
			}
		}
	}
	return values, nil
}

// escaped keeps a value from being read as several, or as a list.
func escaped(value string) string {
	value = strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(value)
	if strings.HasPrefix(value, "{") {
		value = `\` + value
	}
	return value
}

// plainYAML is an error without the detours of the libraries.
func plainYAML(err error) error {
	text := err.Error()
	if at := strings.LastIndex(text, "yaml: "); at >= 0 {
		return errors.New("not valid YAML: " + text[at+len("yaml: "):])
	}
	return err
}

// checkValues holds the values of a chart and those below it to their schemas.
func checkValues(loaded *chart.Chart, values map[string]any) error {
	all, err := util.CoalesceValues(loaded, values)
	if err != nil {
		return err
	}
	return checkAgainst(loaded, all)
}

func checkAgainst(c *chart.Chart, values map[string]any) error {
	if len(c.Schema) > 0 {
		if err := validate(c.Schema, values); err != nil {
			return fmt.Errorf("%s: %w", c.Name(), err)
		}
	}
	for _, below := range c.Dependencies() {
		part, ok := values[below.Name()].(map[string]any)
		if !ok {
			part = map[string]any{}
		}
		if err := checkAgainst(below, part); err != nil {
			return err
		}
	}
	return nil
}

func validate(schema []byte, values map[string]any) error {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return fmt.Errorf("values.schema.json: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(notFetched{})
	const name = "file:///values.schema.json"
	if err := compiler.AddResource(name, document); err != nil {
		return fmt.Errorf("values.schema.json: %w", err)
	}
	compiled, err := compiler.Compile(name)
	if err != nil {
		return fmt.Errorf("values.schema.json: %w", err)
	}
	if err := compiled.Validate(values); err != nil {
		text := strings.TrimPrefix(err.Error(), "jsonschema validation failed with '"+name+"#'\n")
		return errors.New(strings.Join(strings.Fields(text), " "))
	}
	return nil
}

// notFetched is where a schema finds others: nowhere.
type notFetched struct{}

func (notFetched) Load(url string) (any, error) {
	return nil, fmt.Errorf("%s is not fetched: write it into the schema itself", url)
}
