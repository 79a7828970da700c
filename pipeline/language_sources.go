package pipeline

import (
	"fmt"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
)

// The most that a deploy may have; the rollout package has the same limits.
const (
	maxImageFields = 50
	maxReadiness   = 50
)

var (
	valueKey          = newPattern(`^[A-Za-z0-9_][A-Za-z0-9_./\[\]\\-]{0,252}$`)
	kindPattern       = newPattern(`^[A-Z][A-Za-z0-9]{0,62}(\.[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$`)
	imagePathPattern  = newPattern(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+|\[(\*|[0-9]{1,4}|"[^"\]]+")\])*$`)
	kubeVersion       = newPattern(`^v?[0-9]+\.[0-9]+(\.[0-9]+)?([-+][A-Za-z0-9.+-]+)?$`)
	apiVersionPattern = newPattern(`^[a-z0-9.-]+(/[A-Za-z0-9]+){0,2}$`)
)

var helmShape = object{
	name: "helm", doc: "A Helm chart of the checkout, rendered without a release of Helm's.", short: "chart",
	fields: []field{
		{key: "chart", shape: text{mode: valueText, check: checkPath}, required: true, doc: "The chart's directory, or a packaged chart."},
		{key: "values", shape: list{item: text{mode: valueText, check: checkPath}, single: true, min: 1, max: maxList}, doc: "Files of values, laid over the chart's own in this order."},
		{key: "set", shape: dictionary{value: text{mode: valueText, loose: true, empty: true}, keys: valueKey, keyWhat: "path of a value", max: maxList},
			doc: "Values by their paths, such as image.tag; numbers, true, false and null have their types."},
		{key: "set-string", shape: dictionary{value: text{mode: valueText, loose: true, empty: true}, keys: valueKey, keyWhat: "path of a value", max: maxList},
			doc: "Values by their paths that are text whatever they look like."},
		{key: "kube-version", shape: text{check: checkKubeVersion, pattern: kubeVersion.String()}, doc: "The version in .Capabilities; the cluster's when not set."},
		{key: "api-versions", shape: list{item: text{check: checkAPIVersion, pattern: apiVersionPattern.String()}, min: 1, max: maxList, unique: true},
			doc: "Versions in .Capabilities beside those of the cluster."},
		{key: "skip-hooks", shape: boolean{}, doc: "Leaves the chart's hooks out."},
		{key: "skip-crds", shape: boolean{}, doc: "Leaves the chart's crds directory out."},

		{key: "release", unsupported: "leave it out: there is no release of Helm's; .Release.Name is the app"},
		{key: "repo", unsupported: "nothing is fetched: commit the chart, and name its directory under chart"},
		{key: "version", unsupported: "nothing is fetched: commit the chart in the version that you want"},
	},
}

var imageFieldShape = object{
	name: "image-field", doc: "Where objects of a kind hold an image.",
	fields: []field{
		{key: "kind", shape: text{check: checkKind, pattern: kindPattern.String()}, required: true, doc: "Their kind, with its group or without: Workflow, Workflow.argoproj.io."},
		{key: "path", shape: text{check: checkImagePath, pattern: imagePathPattern.String()}, required: true, doc: "The field, such as spec.steps[*].container.image."},
	},
}

var readinessShape = object{
	name: "readiness", doc: "When objects of a kind are ready.",
	fields: []field{
		{key: "kind", shape: text{check: checkKind, pattern: kindPattern.String()}, required: true, doc: "Their kind, with its group or without: Database, Database.example.com."},
		{key: "ready", shape: text{check: checkReadiness}, required: true, doc: "A CEL expression over object: true when it is ready."},
		{key: "failed", shape: text{check: checkReadiness}, doc: "A CEL expression over object: true when waiting cannot help."},
	},
}

func checkKubeVersion(value string) (Rule, string, string) {
	if !kubeVersion.MatchString(value) {
		return RuleValue, fmt.Sprintf("%q is no version of Kubernetes", clip(value)), "write it like 1.36 or v1.36.1"
	}
	return "", "", ""
}

func checkAPIVersion(value string) (Rule, string, string) {
	if !apiVersionPattern.MatchString(value) {
		return RuleValue, fmt.Sprintf("%q is no version of an API", clip(value)), "write it like batch/v1 or monitoring.coreos.com/v1/ServiceMonitor"
	}
	return "", "", ""
}

func checkKind(value string) (Rule, string, string) {
	if !kindPattern.MatchString(value) {
		return RuleValue, fmt.Sprintf("%q is no kind of object", clip(value)), "write it like Database, or with its group: Database.example.com"
	}
	return "", "", ""
}

func checkImagePath(value string) (Rule, string, string) {
	if !imagePathPattern.MatchString(value) {
		return RuleValue, fmt.Sprintf("%q is no path of a field", clip(value)), `write it like spec.image or spec.steps[*].container.image; a key with dots is written ["a.b"]`
	}
	return "", "", ""
}

// readinessEnvironment declares what rules of readiness see.
var readinessEnvironment = sync.OnceValues(func() (*cel.Env, error) {
	return cel.NewEnv(cel.Variable("object", cel.DynType))
})

func checkReadiness(value string) (Rule, string, string) {
	environment, err := readinessEnvironment()
	if err != nil {
		return RuleExpression, err.Error(), ""
	}
	ast, issues := environment.Compile(value)
	if issues.Err() != nil {
		return RuleExpression, strings.TrimSpace(firstIssue(issues).Error()), `the object is called object: object.status.phase == "Ready"`
	}
	if kind := ast.OutputType(); !kind.IsExactType(cel.BoolType) && !kind.IsExactType(cel.DynType) {
		return RuleExpression, "the expression gives a " + kind.String() + "; it must give true or false", ""
	}
	return "", "", ""
}

// checkSources checks what the objects of a deploy are made from.
func (d *decoder) checkSources(path string, s *DeploySpec) {
	if !d.has(path+".manifests") && !d.has(path+".kustomize") && !d.has(path+".helm") {
		if d.suggested[path+".manifests"] || d.suggested[path+".kustomize"] || d.suggested[path+".helm"] {
			return // said already, as a misspelt key
		}
		d.add(d.at(path), RuleRequired, "name files under manifests, a directory under kustomize, or a chart under helm", "%s says nothing to deploy", path)
	}
	seen := map[string]bool{}
	for i, rule := range s.Readiness {
		if rule.Kind != "" && seen[rule.Kind] {
			d.add(d.at(fmt.Sprintf("%s.readiness[%d].kind", path, i)), RuleDuplicate, "join the two with || or &&", "two rules say when a %s is ready", rule.Kind)
		}
		seen[rule.Kind] = true
	}
}
