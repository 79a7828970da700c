package pipeline

import (
	"errors"
	"fmt"
)

// Resolve returns the stage with every `${{ }}` in it replaced, ready for an
// attempt. States must hold the result of every stage that it needs, by ID;
// EvaluateWhen has said that it runs. Values are inserted as they are: an
// expression inside one is never evaluated.
//
// Errors have CauseInvalid and name the place in the file.
func Resolve(stage PlannedStage, plan *Plan, states map[string]StageResult) (PlannedStage, error) {
	template := Stage{
		Name: stage.Name, Env: stage.Env, Run: stage.Run, Build: stage.Build, Deploy: stage.Deploy, Approve: stage.Approve,
	}
	needed := false
	template.rewrite(func(_ string, t text, value string) string {
		needed = needed || t.mode == valueText && hasExpression(value)
		return value
	})
	if !needed {
		return stage, nil
	}
	vars := &values{event: viewOf(plan.Event), matrix: stage.Matrix, inputs: plan.Inputs, ended: endedFor(&stage, plan, states)}
	filled, err := fillStage(template, vars)
	if err != nil {
		return PlannedStage{}, Fail(CauseInvalid, "%s: stage %q: %w", stage.Pos, stage.ID, err)
	}
	filled = filled.rewrite(func(_ string, t text, value string) string {
		if t.mode == valueText {
			return unescapeTemplate(value)
		}
		return value
	})
	stage.Env, stage.Run, stage.Build, stage.Deploy, stage.Approve = filled.Env, filled.Run, filled.Build, filled.Deploy, filled.Approve
	return stage, nil
}

// fillStage evaluates what can be evaluated in the values of a stage. The
// result holds templates: what is known in them is escaped.
func fillStage(s Stage, vars *values) (Stage, error) {
	var failed error
	out := s.rewrite(func(path string, t text, value string) string {
		if failed != nil || t.mode != valueText || !hasExpression(value) {
			return value
		}
		filled, err := fillTemplate(value, vars)
		if err == nil {
			err = t.verifyFilled(filled)
		}
		if err != nil {
			failed = fmt.Errorf("%s: %w", path, err)
			return value
		}
		return filled
	})
	return out, failed
}

// verifyFilled applies the rules of a text once its value is known.
func (t text) verifyFilled(template string) error {
	pieces, err := splitTemplate(template)
	if err != nil {
		return err
	}
	value := ""
	for _, p := range pieces {
		if p.isExpr {
			return nil
		}
		value += p.literal
	}
	if value == "" && !t.empty {
		return errors.New("the value is empty")
	}
	if limit := t.limit(); len(value) > limit {
		return fmt.Errorf("the value is %d bytes long; at most %d are allowed", len(value), limit)
	}
	if _, message, hint := t.verify(value); message != "" {
		if hint != "" {
			message += ": " + hint
		}
		return errors.New(message)
	}
	return nil
}

// fillTemplate evaluates the expressions of a template that can be evaluated
// and keeps the others. The result is a template.
func fillTemplate(template string, vars *values) (string, error) {
	if !hasExpression(template) {
		return template, nil
	}
	pieces, err := splitTemplate(template)
	if err != nil {
		return "", err
	}
	return joinTemplate(pieces, func(p piece) (string, bool, error) {
		e, err := compile(p.expression)
		if err != nil {
			return "", false, fmt.Errorf("${{ %s }}: %w", clip(p.expression), err)
		}
		if e.later && vars.ended == nil {
			return "", true, nil
		}
		value, err := e.evaluate(vars)
		if err != nil {
			return "", false, fmt.Errorf("${{ %s }}: %w", clip(p.expression), err)
		}
		text, err := textOf(value)
		if err != nil {
			return "", false, fmt.Errorf("${{ %s }}: %w", clip(p.expression), err)
		}
		return text, false, nil
	})
}

// unescapeTemplate is the value of a template without expressions.
func unescapeTemplate(template string) string {
	pieces, err := splitTemplate(template)
	if err != nil {
		return template
	}
	value := ""
	for _, p := range pieces {
		value += p.literal
	}
	return value
}
