package pipeline

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// checkInputValue tells whether a value fits what an input asks for.
func checkInputValue(input Input, value string) error {
	switch input.Type {
	case "boolean":
		if value != "true" && value != "false" {
			return fmt.Errorf("%q is not true or false", clip(value))
		}
	case "number":
		if _, err := strconv.ParseFloat(value, 64); err != nil {
			return fmt.Errorf("%q is not a number", clip(value))
		}
	case "choice":
		if !slices.Contains(input.Choices, value) {
			hint := didYouMean(value, input.Choices)
			if hint != "" {
				hint = ": " + hint
			}
			return fmt.Errorf("%q is none of the choices%s", clip(value), hint)
		}
	}
	return nil
}

// bindInputs returns a value for every declared input: what the event gives,
// else the default, else the empty text. What is given must be declared, and
// required inputs are demanded, when the run is started by hand.
func bindInputs(p *Pipeline, e event.Event) (map[string]string, error) {
	declared := map[string]Input{}
	if p.On.Manual != nil {
		declared = p.On.Manual.Inputs
	}
	if e.Kind == event.Manual {
		for _, name := range keysOf(e.Inputs) {
			if !hasKey(declared, name) {
				hint := didYouMean(name, keysOf(declared))
				if len(declared) == 0 {
					hint = "the pipeline declares none under on.manual.inputs"
				}
				return nil, Fail(CauseInvalid, "pipeline %q has no input %q: %s", p.Name, clip(name), hint)
			}
		}
	}
	if len(declared) == 0 {
		return nil, nil
	}
	bound := make(map[string]string, len(declared))
	for _, name := range keysOf(declared) {
		input := declared[name]
		value, given := e.Inputs[name]
		switch {
		case given:
			if err := checkInputValue(input, value); err != nil {
				return nil, Fail(CauseInvalid, "input %q of pipeline %q: %w", name, p.Name, err)
			}
		case input.Required && e.Kind == event.Manual:
			return nil, Fail(CauseInvalid, "pipeline %q needs the input %q: give it a value, such as --input %s=VALUE", p.Name, name, name)
		default:
			value = input.Default
		}
		bound[name] = value
	}
	return bound, nil
}
