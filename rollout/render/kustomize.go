package render

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// kustomizing keeps builds apart: the library's schemas are global.
var kustomizing sync.Mutex

// kustomize builds the kustomization in a directory of the checkout. What would
// leave the checkout (remote bases, plugins, charts) has been refused before the
// library sees it; it is told not to as well.
func kustomize(base *os.Root, dir string) ([]*unstructured.Unstructured, error) {
	dir = path.Clean(dir)
	if err := surveyed(base, dir); err != nil {
		return nil, err
	}
	options := krusty.MakeDefaultOptions()
	// Files of a base may be anywhere in the checkout; the file system ends there.
	options.LoadRestrictions = types.LoadRestrictionsNone
	options.PluginConfig = types.DisabledPluginConfig()
	kustomizing.Lock()
	defer kustomizing.Unlock()
	made, err := krusty.MakeKustomizer(options).Run(&checkout{root: base}, path.Join("/", dir))
	if err != nil {
		return nil, fmt.Errorf("%s: %s", dir, ownPaths(err))
	}
	if made.Size() > manifest.MaxObjects {
		return nil, fmt.Errorf("%s: more than %d objects", dir, manifest.MaxObjects)
	}
	var objects []*unstructured.Unstructured
	for _, resource := range made.Resources() {
		content, err := resource.AsYAML()
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", dir, resource.CurId(), err)
		}
		parsed, err := manifest.Parse(fmt.Sprintf("%s (%s %s, built)", dir, resource.GetKind(), resource.GetName()), content)
		if err != nil {
			return nil, err
		}
		objects = append(objects, parsed...)
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("%s: the kustomization gives no objects", dir)
	}
	return objects, nil
}

// ownPaths is what the library says, with paths as people write them: it sees
// the checkout as the whole file system.
func ownPaths(err error) string {
	text := strings.ReplaceAll(err.Error(), "'/", "'")
	return strings.ReplaceAll(text, "\"/", "\"")
}

// kustomizationFiles are the names that a kustomization may have.
var kustomizationFiles = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

// kustomizationIn finds the one file in a directory.
func kustomizationIn(base *os.Root, dir string) (string, error) {
	found := ""
	for _, name := range kustomizationFiles {
		info, err := base.Stat(path.Join(dir, name))
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return "", fmt.Errorf("%s: %w", dir, err)
		case info.IsDir():
			continue
		case found != "":
			return "", fmt.Errorf("%s: both %s and %s are there; keep one", dir, path.Base(found), name)
		}
		found = path.Join(dir, name)
	}
	if found == "" {
		return "", fmt.Errorf("%s: no kustomization.yaml in this directory", dir)
	}
	return found, nil
}
