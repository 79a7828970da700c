// Package render makes the objects of a release from what a repository holds:
// plain YAML, a kustomization, a Helm chart. Everything is read from inside the
// checkout: nothing is fetched, no program is started, no cluster is asked.
//
// Templates are programs, and whoever may push may write them. They run in a
// process of their own, which is bounded in time and memory.
package render

import (
	"context"
	"errors"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Source says what a release is made from. What several of its fields give is
// one release; at least one must be set.
type Source struct {
	// Manifests are YAML files or directories.
	Manifests []string `json:"manifests,omitempty"`
	// Kustomize is a directory with a kustomization file.
	Kustomize string `json:"kustomize,omitempty"`
	// Helm is a chart; nil means none.
	Helm *Helm `json:"helm,omitempty"`
}

// Helm is a chart and what it is rendered with. Only Chart is required.
type Helm struct {
	// Chart is a directory, or a packaged chart (.tgz).
	Chart string `json:"chart"`
	// Values are files that are laid over the chart's own values, in order.
	Values []string `json:"values,omitempty"`
	// Set and SetString are values by their paths, laid over those; Set gives
	// numbers, truth values and null their types, as helm --set does.
	Set       map[string]string `json:"set,omitempty"`
	SetString map[string]string `json:"setString,omitempty"`
	// KubeVersion and APIVersions are what .Capabilities shows; empty means those
	// of the Target.
	KubeVersion string   `json:"kubeVersion,omitempty"`
	APIVersions []string `json:"apiVersions,omitempty"`
	// SkipHooks leaves the chart's hooks out, SkipCRDs its crds directory.
	SkipHooks bool `json:"skipHooks,omitempty"`
	SkipCRDs  bool `json:"skipCRDs,omitempty"`
}

// Target is where the release goes, as far as templates may know.
type Target struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	// Upgrade is true when a verified release is there already.
	Upgrade bool `json:"upgrade,omitempty"`
	// KubeVersion ("v1.36.1") and APIVersions ("apps/v1", "apps/v1/Deployment")
	// are those of the cluster; empty means that the templates must not need them.
	KubeVersion string   `json:"kubeVersion,omitempty"`
	APIVersions []string `json:"apiVersions,omitempty"`
}

// Hook is a Job that a chart wants to run around its release.
type Hook struct {
	// After is true for one that runs when the release is up, false for one that
	// runs before anything is written.
	After    bool
	Name     string
	Manifest *unstructured.Unstructured
}

// Result is what a source gives.
type Result struct {
	Objects []*unstructured.Unstructured
	// Hooks in the order in which they run.
	Hooks []Hook
}

// ErrNothing says that a source names nothing to render.
var ErrNothing = errors.New("no manifests, no kustomization and no chart given: name at least one of them")

// Render makes the objects. Paths are relative to root and may not leave it, by
// symbolic links neither. Errors name the file, and its line where that is known.
func Render(ctx context.Context, root string, source Source, target Target) (*Result, error) {
	if source.Kustomize == "" && source.Helm == nil {
		return render(root, source, target) // plain manifests are read within bounds
	}
	return renderConfined(ctx, root, source, target)
}

// render does it in this process.
func render(root string, source Source, target Target) (*Result, error) {
	if len(source.Manifests) == 0 && source.Kustomize == "" && source.Helm == nil {
		return nil, ErrNothing
	}
	result := &Result{}
	if len(source.Manifests) > 0 {
		objects, err := manifest.Load(root, source.Manifests)
		if err != nil {
			return nil, err
		}
		result.Objects = objects
	}
	if source.Kustomize == "" && source.Helm == nil {
		return result, nil
	}
	base, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("opening the directory of the manifests: %w", err)
	}
	defer base.Close()
	if source.Kustomize != "" {
		objects, err := kustomize(base, source.Kustomize)
		if err != nil {
			return nil, err
		}
		result.Objects = append(result.Objects, objects...)
	}
	if source.Helm != nil {
		objects, hooks, err := helm(base, *source.Helm, target)
		if err != nil {
			return nil, err
		}
		result.Objects, result.Hooks = append(result.Objects, objects...), hooks
	}
	if len(result.Objects) > manifest.MaxObjects {
		return nil, fmt.Errorf("the release has %d objects; at most %d are allowed", len(result.Objects), manifest.MaxObjects)
	}
	if len(result.Objects) == 0 {
		return nil, errors.New("nothing was rendered: the release would be empty")
	}
	return result, nil
}
