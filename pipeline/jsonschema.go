package pipeline

import (
	"encoding/json"
	"fmt"
)

// SchemaID is the identifier of the JSON Schema of pipeline files.
const SchemaID = "https://tidegate.dev/schema/pipeline-v1.json"

// schemaWriter collects the definitions of a schema.
type schemaWriter struct {
	defs map[string]map[string]any
}

// define describes an object once and returns a reference to it.
func (w *schemaWriter) define(s object) map[string]any {
	ref := map[string]any{"$ref": "#/$defs/" + s.name}
	if _, done := w.defs[s.name]; done {
		return ref
	}
	out := map[string]any{"type": "object", "additionalProperties": false}
	w.defs[s.name] = out
	if s.doc != "" {
		out["description"] = s.doc
	}
	properties := map[string]any{}
	var required []string
	for _, f := range s.fields {
		if f.unsupported != "" {
			continue
		}
		property := f.shape.schema(w)
		if _, isRef := property["$ref"]; isRef {
			// A description beside $ref is allowed from draft 2019-09 on.
			property = map[string]any{"$ref": property["$ref"]}
		}
		property["description"] = f.doc
		properties[f.key] = property
		if f.required {
			required = append(required, f.key)
		}
	}
	out["properties"] = properties
	if len(required) > 0 {
		out["required"] = required
	}
	if s.extensions {
		out["patternProperties"] = map[string]any{"^x-": true}
	}
	for key, rule := range s.rules {
		out[key] = rule
	}
	return ref
}

// JSONSchema returns the JSON Schema (draft 2020-12) of pipeline files, made
// from the same description that Parse reads them by. What it accepts may still
// be refused by Parse: graphs and expressions are beyond a schema.
func JSONSchema() ([]byte, error) {
	w := &schemaWriter{defs: map[string]map[string]any{}}
	root := w.define(language)
	document := map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"$id":     SchemaID,
		"title":   "Tidegate pipeline",
		"$ref":    root["$ref"],
		"$defs":   w.defs,
	}
	data, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the JSON Schema: %w", err)
	}
	return append(data, '\n'), nil
}
