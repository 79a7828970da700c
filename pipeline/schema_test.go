package pipeline

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func compileSchema(t testing.TB) *jsonschema.Schema {
	t.Helper()
	data, err := JSONSchema()
	require.NoError(t, err)
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	require.NoError(t, err)
	compiler := jsonschema.NewCompiler()
	require.NoError(t, compiler.AddResource(SchemaID, document))
	schema, err := compiler.Compile(SchemaID)
	require.NoError(t, err)
	return schema
}

// asJSON reads YAML by the decoder of the library rather than by ours.
func asJSON(t testing.TB, data []byte) any {
	t.Helper()
	converted, err := yaml.YAMLToJSON(data)
	require.NoError(t, err)
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(converted))
	require.NoError(t, err)
	return document
}

func validFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/valid/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, pattern := range []string{"../examples/*/.tidegate.yaml", "../examples/*/.tidegate/*.yaml"} {
		examples, err := filepath.Glob(pattern)
		require.NoError(t, err)
		files = append(files, examples...)
	}
	return files
}

func TestSchemaAndParserAcceptEveryExample(t *testing.T) {
	schema := compileSchema(t)
	for _, file := range validFiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			_, err = Parse(file, data)
			require.NoError(t, err)
			require.NoError(t, schema.Validate(asJSON(t, data)))
		})
	}
}

// structural tells whether a schema can see the problem. Names, patterns and
// what is between values are beyond it.
func structural(p Problem) bool {
	switch p.Rule {
	case RuleUnknownKey, RuleType, RuleRequired:
		return !strings.Contains(p.Message, "choice")
	case RuleUnsupported:
		return true
	}
	return false
}

func TestSchemaRefusesWhatTheParserRefusesForItsStructure(t *testing.T) {
	schema := compileSchema(t)
	files, err := filepath.Glob("testdata/errors/*.yaml")
	require.NoError(t, err)
	seen := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		var problems Errors
		_, err = Parse(file, data)
		require.True(t, errors.As(err, &problems))
		if !slices.ContainsFunc(problems, structural) {
			continue
		}
		converted, err := yaml.YAMLToJSON(data)
		if err != nil {
			continue // not YAML for the other library either
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(converted))
		require.NoError(t, err)
		require.Error(t, schema.Validate(document), file)
		seen++
	}
	require.Greater(t, seen, 8)
}

// Whatever is done to the structure of a valid file, schema and parser agree
// about it: they are made from one description.
func TestSchemaAndParserAgreeOnMutations(t *testing.T) {
	schema := compileSchema(t)
	var documents []any
	for _, file := range validFiles(t) {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		documents = append(documents, asJSON(t, data))
	}
	rapid.Check(t, func(t *rapid.T) {
		document := mutate(t, rapid.SampledFrom(documents).Draw(t, "document"))
		data, err := json.Marshal(document)
		require.NoError(t, err)
		_, err = Parse("mutated.yaml", data)
		invalid := schema.Validate(asJSONDocument(t, data))
		if err == nil {
			require.NoError(t, invalid, "the parser accepts, the schema does not: %s", data)
			return
		}
		var problems Errors
		require.True(t, errors.As(err, &problems))
		if slices.ContainsFunc(problems, structural) {
			require.Error(t, invalid, "the parser refuses (%v), the schema does not: %s", err, data)
		}
	})
}

func asJSONDocument(t *rapid.T, data []byte) any {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	require.NoError(t, err)
	return document
}

// mutate changes one place of a JSON document.
func mutate(t *rapid.T, value any) any {
	replacement := rapid.SampledFrom([]any{nil, true, json.Number("7"), json.Number("1.5"), "text", []any{}, []any{"a"}, map[string]any{}, map[string]any{"a": "b"}})
	switch v := value.(type) {
	case map[string]any:
		out := maps.Clone(v)
		keys := slices.Sorted(maps.Keys(v))
		if len(keys) == 0 {
			return replacement.Draw(t, "replacement")
		}
		key := rapid.SampledFrom(keys).Draw(t, "key")
		switch rapid.IntRange(0, 7).Draw(t, "change") {
		case 0:
			delete(out, key)
		case 1:
			out[key+"s"] = v[key]
			delete(out, key)
		case 2:
			out[rapid.SampledFrom([]string{"needs", "run", "build", "approve", "when", "env", "timeout", "push", "services"}).Draw(t, "new")] = replacement.Draw(t, "replacement")
		case 3:
			out[key] = replacement.Draw(t, "replacement")
		default:
			out[key] = mutate(t, v[key])
		}
		return out
	case []any:
		if len(v) == 0 {
			return replacement.Draw(t, "replacement")
		}
		out := slices.Clone(v)
		i := rapid.IntRange(0, len(v)-1).Draw(t, "item")
		if rapid.Bool().Draw(t, "append") {
			return append(out, replacement.Draw(t, "replacement"))
		}
		out[i] = mutate(t, v[i])
		return out
	}
	return replacement.Draw(t, "replacement")
}

// Every field of the types that a file can set has a key in the description.
func TestEveryFieldHasAKey(t *testing.T) {
	notFromTheFile := []string{"Stage.name", "Stage.pos", "Pipeline.pos"}
	covered := map[string]bool{}
	var walk func(s shape, goType reflect.Type)
	walkObject := func(o object, goType reflect.Type) {
		for goType.Kind() == reflect.Pointer {
			goType = goType.Elem()
		}
		for _, f := range o.fields {
			if f.unsupported != "" {
				continue
			}
			require.NotEmpty(t, f.doc, f.key)
			at := goType
			for _, tag := range f.goPath() {
				for at.Kind() == reflect.Pointer {
					at = at.Elem()
				}
				covered[at.Name()+"."+tag] = true
				at = at.Field(fieldIndex(at, tag)).Type
			}
			walk(f.shape, at)
		}
		for i := range goType.NumField() {
			tag, _, _ := strings.Cut(goType.Field(i).Tag.Get("json"), ",")
			name := goType.Name() + "." + tag
			require.True(t, covered[name] || slices.Contains(notFromTheFile, name), "no key for %s", name)
		}
	}
	walk = func(s shape, goType reflect.Type) {
		switch v := s.(type) {
		case object:
			walkObject(v, goType)
		case triggerSet:
			walkObject(v.object, goType)
		case list:
			walk(v.item, goType.Elem())
		case dictionary:
			walk(v.value, goType.Elem())
		case stageMap:
			walk(v.value, goType.Elem())
		}
	}
	walk(language, reflect.TypeFor[Pipeline]())
	for i := range reflect.TypeFor[RunSpec]().NumField() {
		tag, _, _ := strings.Cut(reflect.TypeFor[RunSpec]().Field(i).Tag.Get("json"), ",")
		require.True(t, covered["RunSpec."+tag], "no key for RunSpec.%s", tag)
	}
}
