package pipeline

import (
	"maps"
	"slices"
)

// HelmSpec is a chart of the checkout, and what it is rendered with.
type HelmSpec struct {
	Chart string `json:"chart"`
	// Values are files that are laid over the chart's own, in order; then come Set,
	// whose values have the types that they look like, and SetString.
	Values    []string          `json:"values,omitempty"`
	Set       map[string]string `json:"set,omitempty"`
	SetString map[string]string `json:"set-string,omitempty"`
	// KubeVersion and APIVersions stand for what the cluster has; empty means that
	// it is asked.
	KubeVersion string   `json:"kube-version,omitempty"`
	APIVersions []string `json:"api-versions,omitempty"`
	// SkipHooks and SkipCRDs leave the chart's hooks, or its crds directory, out.
	SkipHooks bool `json:"skip-hooks,omitempty"`
	SkipCRDs  bool `json:"skip-crds,omitempty"`
}

func (h *HelmSpec) clone() *HelmSpec {
	if h == nil {
		return nil
	}
	copied := *h
	copied.Values, copied.APIVersions = slices.Clone(h.Values), slices.Clone(h.APIVersions)
	copied.Set, copied.SetString = maps.Clone(h.Set), maps.Clone(h.SetString)
	return &copied
}

// ImageFieldSpec says where objects of a kind hold an image outside pods.
type ImageFieldSpec struct {
	// Kind is that of the objects, with its group or without: Workflow, Workflow.argoproj.io.
	Kind string `json:"kind"`
	// Path of the field, such as spec.steps[*].container.image.
	Path string `json:"path"`
}

// ReadinessSpec says when objects of a kind are ready.
type ReadinessSpec struct {
	Kind string `json:"kind"`
	// Ready and Failed are CEL expressions over object; Failed is empty when there
	// is no such state.
	Ready  string `json:"ready"`
	Failed string `json:"failed,omitempty"`
}
