package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/render"
)

// sourceFlags say what a release is made from.
type sourceFlags struct {
	files       []string
	kustomize   string
	chart       render.Helm
	imageFields []string
	ready       []string
	failed      []string
}

func (f *sourceFlags) register(command *cobra.Command) {
	flags := command.Flags()
	flags.StringArrayVarP(&f.files, "file", "f", nil, "manifest file or directory below the working directory; may be repeated")
	flags.StringVarP(&f.kustomize, "kustomize", "k", "", "directory with a kustomization, below the working directory; nothing is fetched")
	flags.StringVar(&f.chart.Chart, "helm", "", "directory of a Helm chart, or a packaged one, below the working directory; it is rendered, without a release of Helm's")
	flags.StringArrayVar(&f.chart.Values, "values", nil, "--helm: a file of values; may be repeated, the last one wins")
	flags.StringToStringVar(&f.chart.Set, "set", nil, "--helm: PATH=VALUE, such as image.tag=v1; numbers, true, false and null have their types")
	flags.StringToStringVar(&f.chart.SetString, "set-string", nil, "--helm: PATH=VALUE that is text whatever it looks like")
	flags.StringVar(&f.chart.KubeVersion, "kube-version", "", "--helm: the version in .Capabilities (default: the cluster's)")
	flags.StringArrayVar(&f.chart.APIVersions, "api-version", nil, "--helm: one more version in .Capabilities; may be repeated")
	flags.BoolVar(&f.chart.SkipHooks, "skip-hooks", false, "--helm: leave the chart's hooks out")
	flags.BoolVar(&f.chart.SkipCRDs, "skip-crds", false, "--helm: leave the chart's crds directory out")
	flags.StringArrayVar(&f.imageFields, "image-field", nil, "KIND=PATH of a field of custom resources that holds an image, such as Workflow=spec.steps[*].image; may be repeated")
	flags.StringArrayVar(&f.ready, "ready", nil, "KIND=EXPRESSION (CEL over object) that says when custom resources are ready; may be repeated")
	flags.StringArrayVar(&f.failed, "failed", nil, "KIND=EXPRESSION that says when waiting for them cannot help; needs a --ready of the kind; may be repeated")
	cobra.CheckErr(command.MarkFlagDirname("kustomize"))
	cobra.CheckErr(command.MarkFlagFilename("values", "yaml", "yml", "json"))
}

// source checks the flags together.
func (f *sourceFlags) source() (render.Source, []manifest.ImageField, []rollout.Readiness, error) {
	source := render.Source{Manifests: f.files, Kustomize: f.kustomize}
	refuse := func(format string, args ...any) (render.Source, []manifest.ImageField, []rollout.Readiness, error) {
		return render.Source{}, nil, nil, usageErrorf(format, args...)
	}
	h := f.chart
	switch {
	case h.Chart != "":
		source.Helm = &h
	case len(h.Values)+len(h.Set)+len(h.SetString)+len(h.APIVersions) > 0, h.KubeVersion != "", h.SkipHooks, h.SkipCRDs:
		return refuse("--values, --set, --set-string, --kube-version, --api-version, --skip-hooks and --skip-crds belong to --helm CHART")
	case len(f.files) == 0 && f.kustomize == "":
		return refuse("nothing to roll out: name manifests with -f, a kustomization with --kustomize, or a chart with --helm")
	}
	var fields []manifest.ImageField
	for _, text := range f.imageFields {
		kind, path, ok := strings.Cut(text, "=")
		field := manifest.ImageField{Kind: kind, Path: path}
		if !ok {
			return refuse("--image-field %q: write KIND=PATH, such as Workflow=spec.image", text)
		}
		if err := field.Check(); err != nil {
			return refuse("--image-field %q: %w", text, err)
		}
		fields = append(fields, field)
	}
	rules, err := f.rules()
	if err != nil {
		return refuse("%w", err)
	}
	return source, fields, rules, nil
}

// rules joins --ready and --failed by their kinds.
func (f *sourceFlags) rules() ([]rollout.Readiness, error) {
	var rules []rollout.Readiness
	find := func(kind string) *rollout.Readiness {
		for i := range rules {
			if rules[i].Kind == kind {
				return &rules[i]
			}
		}
		return nil
	}
	for _, text := range f.ready {
		kind, expression, ok := strings.Cut(text, "=")
		if !ok || find(kind) != nil {
			return nil, usageErrorf(`--ready %q: write KIND=EXPRESSION once a kind, such as Database='object.status.phase == "Ready"'`, text)
		}
		rules = append(rules, rollout.Readiness{Kind: kind, Ready: expression})
	}
	for _, text := range f.failed {
		kind, expression, ok := strings.Cut(text, "=")
		rule := find(kind)
		if !ok || rule == nil || rule.Failed != "" {
			return nil, usageErrorf("--failed %q: write KIND=EXPRESSION once, for a kind that has --ready", text)
		}
		rule.Failed = expression
	}
	for i := range rules {
		if err := rules[i].Check(); err != nil {
			return nil, usageErrorf("%w", err)
		}
	}
	return rules, nil
}
