package render

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// helm renders a chart of the checkout. There is no release of Helm's: its
// objects and hooks become Tidegate's.
func helm(base *os.Root, h Helm, target Target) ([]*unstructured.Unstructured, []Hook, error) {
	h.Chart = path.Clean(h.Chart)
	loaded, err := loadChart(base, h.Chart)
	if err != nil {
		return nil, nil, err
	}
	values, err := chartValues(base, h)
	if err != nil {
		return nil, nil, err
	}
	capabilities, err := h.capabilities(loaded, target)
	if err != nil {
		return nil, nil, err
	}
	if err := chartutil.ProcessDependencies(loaded, values); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", h.Chart, err)
	}
	if err := checkValues(loaded, values); err != nil {
		return nil, nil, fmt.Errorf("%s: the values are not what values.schema.json asks for: %w", h.Chart, err)
	}
	release := common.ReleaseOptions{Name: target.Name, Namespace: target.Namespace, Revision: 1, IsInstall: !target.Upgrade, IsUpgrade: target.Upgrade}
	// The library's own check of the schema could fetch what that refers to.
	all, err := util.ToRenderValuesWithSchemaValidation(loaded, values, release, capabilities, true)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", h.Chart, err)
	}
	// The zero engine asks no cluster and no name server.
	rendered, err := engine.Engine{}.Render(loaded, all)
	if err != nil {
		return nil, nil, h.explain(loaded, err)
	}
	return h.collect(loaded, rendered, target.Upgrade)
}

// capabilities is what .Capabilities shows, and holds the chart to its kubeVersion.
func (h Helm) capabilities(loaded *chart.Chart, target Target) (*common.Capabilities, error) {
	version := cmp.Or(h.KubeVersion, target.KubeVersion)
	if version == "" {
		return nil, fmt.Errorf("%s: the version of the cluster is not known; set the chart's kube-version", h.Chart)
	}
	parsed, err := common.ParseKubeVersion(version)
	if err != nil {
		return nil, fmt.Errorf("%s: kube-version %q: write it like 1.36 or v1.36.1", h.Chart, version)
	}
	if wants := loaded.Metadata.KubeVersion; wants != "" && !chartutil.IsCompatibleRange(wants, parsed.String()) {
		return nil, fmt.Errorf("%s/Chart.yaml: the chart wants Kubernetes %s, and the cluster has %s", h.Chart, wants, parsed)
	}
	capabilities := common.DefaultCapabilities.Copy()
	capabilities.KubeVersion = *parsed
	if versions := slices.Concat(h.APIVersions, target.APIVersions); len(versions) > 0 {
		capabilities.APIVersions = versions
	}
	return capabilities, nil
}

// collect takes what was rendered apart into objects and hooks.
func (h Helm) collect(loaded *chart.Chart, rendered map[string]string, upgrade bool) ([]*unstructured.Unstructured, []Hook, error) {
	var objects []*unstructured.Unstructured
	var hooks []chartHook
	if !h.SkipCRDs {
		for _, crd := range loaded.CRDObjects() {
			parsed, err := manifest.Parse(h.file(loaded, crd.Filename), crd.File.Data)
			if err != nil {
				return nil, nil, err
			}
			objects = append(objects, parsed...)
		}
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		content := rendered[name]
		if path.Base(name) == "NOTES.txt" || strings.TrimSpace(content) == "" {
			continue
		}
		if size += len(content); size > maxRendered {
			return nil, nil, fmt.Errorf("%s: more than %d bytes were rendered", h.Chart, maxRendered)
		}
		file := h.file(loaded, name)
		parsed, err := manifest.Parse(file+" (rendered)", []byte(content))
		if err != nil {
			return nil, nil, err
		}
		for _, u := range parsed {
			if _, ok := u.GetAnnotations()[hookAnnotation]; !ok {
				objects = append(objects, u)
				continue
			}
			found, err := hookOf(file, u, upgrade)
			if err != nil && !h.SkipHooks {
				return nil, nil, err
			}
			hooks = append(hooks, found...)
		}
	}
	if h.SkipHooks {
		hooks = nil
	}
	if len(objects) == 0 {
		return nil, nil, fmt.Errorf("%s: the chart gives no objects with these values", h.Chart)
	}
	return objects, inOrder(hooks), nil
}

// file is where a template is in the checkout: the library puts the chart's name first.
func (h Helm) file(loaded *chart.Chart, name string) string {
	if below, ok := strings.CutPrefix(name, loaded.Name()+"/"); ok {
		return path.Join(h.Chart, below)
	}
	return path.Join(h.Chart, name)
}

// located matches the place of a mistake in what the library says.
var located = lazyregexp.New(`^(?:parse error at|execution error at|error calling [a-z]+:)? ?\(?([^\s():]+\.(?:ya?ml|tpl|txt|json)):(\d+)(?::(\d+))?\)?:?\s*`)

// explain puts the place first, as a file of the checkout.
func (h Helm) explain(loaded *chart.Chart, err error) error {
	text := strings.TrimSpace(err.Error())
	found := located().FindStringSubmatch(text)
	if found == nil {
		return fmt.Errorf("%s: %s", h.Chart, text)
	}
	place := h.file(loaded, found[1]) + ":" + found[2]
	if found[3] != "" {
		column, err := strconv.Atoi(found[3])
		if err == nil {
			place += ":" + strconv.Itoa(column+1) // text/template counts bytes from 0
		}
	}
	rest := strings.Join(strings.Fields(text[len(found[0]):]), " ")
	return fmt.Errorf("%s: %s", place, rest)
}

const (
	hookAnnotation       = "helm.sh/hook"
	hookWeightAnnotation = "helm.sh/hook-weight"
)

type chartHook struct {
	Hook
	weight int
}

// hookOf makes hooks of an object that a chart calls one: Jobs before and after
// a release. Tests and hooks of deletion belong to commands that there are not.
func hookOf(file string, u *unstructured.Unstructured, upgrade bool) ([]chartHook, error) {
	weight := 0
	if text := u.GetAnnotations()[hookWeightAnnotation]; text != "" {
		var err error
		if weight, err = strconv.Atoi(text); err != nil {
			return nil, fmt.Errorf("%s: %s %q: %s %q is not a whole number", file, u.GetKind(), u.GetName(), hookWeightAnnotation, text)
		}
	}
	var hooks []chartHook
	for event := range strings.SplitSeq(u.GetAnnotations()[hookAnnotation], ",") {
		var after bool
		switch event = strings.TrimSpace(event); event {
		case "pre-install", "post-install":
			if upgrade {
				continue
			}
			after = event == "post-install"
		case "pre-upgrade", "post-upgrade":
			if !upgrade {
				continue
			}
			after = event == "post-upgrade"
		case "test", "test-success", "test-failure", "pre-delete", "post-delete":
			continue
		default:
			return nil, fmt.Errorf("%s: %s %q is a hook for %q, and there is no such moment here: a rollback applies the release before, and runs nothing; leave it out, or set skip-hooks: true", file, u.GetKind(), u.GetName(), event)
		}
		if u.GetKind() != "Job" {
			return nil, fmt.Errorf("%s: %s %q is a hook for %s, and only Jobs can be hooks: what a Job needs must be in the release before, or in its image; make it an ordinary object, or set skip-hooks: true", file, u.GetKind(), u.GetName(), event)
		}
		hooks = append(hooks, chartHook{Hook: Hook{After: after, Name: strings.ReplaceAll(u.GetName(), ".", "-"), Manifest: u.DeepCopy()}, weight: weight})
	}
	return hooks, nil
}

// inOrder sorts hooks by their weights, then their names, as Helm does.
func inOrder(found []chartHook) []Hook {
	slices.SortStableFunc(found, func(a, b chartHook) int {
		return cmp.Or(cmp.Compare(a.weight, b.weight), cmp.Compare(a.Name, b.Name), compareAfter(a.After, b.After))
	})
	hooks := make([]Hook, len(found))
	named := map[string]bool{}
	for i, hook := range found {
		if named[hook.Name] { // a Job may be for several moments
			hook.Name += "-after"
		}
		named[hook.Name] = true
		hooks[i] = hook.Hook
		annotations := hook.Manifest.GetAnnotations()
		maps.DeleteFunc(annotations, func(name, _ string) bool { return strings.HasPrefix(name, hookAnnotation) })
		hook.Manifest.SetAnnotations(annotations)
	}
	if len(hooks) == 0 {
		return nil
	}
	return hooks
}

func compareAfter(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// errLibrary is for charts that hold nothing but definitions.
var errLibrary = errors.New("it is a library chart: it has definitions for others and no objects of its own")

var utf8bom = []byte{0xEF, 0xBB, 0xBF}

func withoutMark(content []byte) []byte { return bytes.TrimPrefix(content, utf8bom) }
