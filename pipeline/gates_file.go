package pipeline

import (
	"reflect"
)

// Gates are what a file of gates holds, in the words of a deploy stage.
type Gates struct {
	// Gates of the strategy's steps, Hooks around the release.
	Gates []GateSpec `json:"gates,omitempty"`
	Hooks *HooksSpec `json:"hooks,omitempty"`
}

var gatesFileShape = object{
	name: "gates-file", doc: "Gates and hooks of a release that is started by hand.",
	fields: []field{
		{key: "gates", shape: list{item: gateShape, min: 1, max: 20}, doc: "Gates of every step, beside the health of its pods."},
		{key: "hooks", shape: hooksShape, doc: "Kubernetes Jobs around the release."},
	},
	rules: map[string]any{"minProperties": 1},
}

// ParseGates reads a file of gates and hooks for a strategy of so many steps, as
// strictly as a pipeline file. `${{ }}` is refused: there is no event to fill it in.
// When something is wrong the error is an Errors with all of it.
func ParseGates(file string, data []byte, steps int, compares bool) (Gates, error) {
	var gates Gates
	d := &decoder{file: file, source: string(data), nodes: map[string]*node{}, suggested: map[string]bool{}, current: noScope}
	root := readYAML(file, data, &d.problems)
	if root == nil {
		return gates, d.problems.err()
	}
	gatesFileShape.decode(d, root, "", reflect.ValueOf(&gates).Elem())
	for _, u := range d.uses {
		d.add(u.at, RuleExpression, "write the value itself", "there is no event here that could fill in an expression")
	}
	d.checkGates("gates", gates.Gates, steps)
	d.checkHooks("hooks", gates.Hooks)
	if !compares {
		d.checkUncompared("gates", gates.Gates)
	}
	return gates, d.problems.err()
}
