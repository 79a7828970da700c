package render

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/internal/confined"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// rendering runs templates where they can find no secret. Real releases take a
// second and a tenth of the memory.
var rendering = confined.Part[request, response]{
	Name:   "tidegate-render",
	Bounds: confined.Bounds{Time: time.Minute, CPU: 20, Memory: 1 << 30, Output: maxRendered},
	Serve:  serve,
}

func init() { rendering.Main() }

// request and response are what the two processes say to each other.
type request struct {
	Root   string `json:"root"`
	Source Source `json:"source"`
	Target Target `json:"target"`
}

type response struct {
	Objects []map[string]any `json:"objects,omitempty"`
	Hooks   []renderedHook   `json:"hooks,omitempty"`
	// Trouble is why there is nothing.
	Trouble string `json:"trouble,omitempty"`
}

type renderedHook struct {
	After    bool           `json:"after,omitempty"`
	Name     string         `json:"name"`
	Manifest map[string]any `json:"manifest"`
}

// Bounds in bytes.
const (
	maxRendered = 64 << 20 // of all that is rendered
	maxTrouble  = 4 << 10  // of an error
)

// renderConfined renders in a process of its own.
func renderConfined(ctx context.Context, root string, source Source, target Target) (*Result, error) {
	absolute, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("rendering: %w", err)
	}
	answer, err := rendering.Ask(ctx, request{absolute, source, target})
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, confined.ErrTime):
		return nil, fmt.Errorf("rendering %s took %w: look for a template that loops", source.name(), err)
	case err != nil:
		return nil, fmt.Errorf("rendering %s: %w", source.name(), err)
	case answer.Trouble != "":
		return nil, errors.New(answer.Trouble)
	}
	return answer.result(source)
}

// result checks what the other process gave as if it came from a file.
func (a *response) result(source Source) (*Result, error) {
	result := &Result{}
	for _, object := range a.Objects {
		objects, err := manifest.Accept(source.name(), object)
		if err != nil {
			return nil, err
		}
		if result.Objects = append(result.Objects, objects...); len(result.Objects) > manifest.MaxObjects {
			return nil, fmt.Errorf("%s: more than %d objects", source.name(), manifest.MaxObjects)
		}
	}
	for _, hook := range a.Hooks {
		objects, err := manifest.Accept(source.name(), hook.Manifest)
		if err != nil {
			return nil, err
		}
		if len(objects) != 1 {
			return nil, fmt.Errorf("%s: hook %s is not one object", source.name(), hook.Name)
		}
		result.Hooks = append(result.Hooks, Hook{After: hook.After, Name: hook.Name, Manifest: objects[0]})
	}
	return result, nil
}

func (s Source) name() string {
	var names []string
	if s.Kustomize != "" {
		names = append(names, s.Kustomize)
	}
	if s.Helm != nil {
		names = append(names, s.Helm.Chart)
	}
	return strings.Join(append(names, s.Manifests...), ", ")
}

// serve is what the other process does.
func serve(asked request) response {
	result, err := render(asked.Root, asked.Source, asked.Target)
	if err != nil {
		return response{Trouble: clip(err.Error())}
	}
	answer := response{Objects: contents(result.Objects)}
	for _, hook := range result.Hooks {
		answer.Hooks = append(answer.Hooks, renderedHook{hook.After, hook.Name, hook.Manifest.Object})
	}
	return answer
}

func contents(objects []*unstructured.Unstructured) []map[string]any {
	all := make([]map[string]any, len(objects))
	for i, u := range objects {
		all[i] = u.Object
	}
	return all
}

func clip(s string) string {
	if len(s) <= maxTrouble {
		return s
	}
	return strings.ToValidUTF8(s[:maxTrouble], "") + " …"
}
