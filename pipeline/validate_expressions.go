package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// checkExpressions compiles every expression and checks what it refers to.
func (d *decoder) checkExpressions(p *Pipeline, acyclic bool) {
	names := map[string]*Stage{}
	for _, stages := range [][]Stage{p.Stages, p.Finally} {
		for i := range stages {
			names[stages[i].Name] = &stages[i]
		}
	}
	var above map[string]map[string]bool
	if acyclic && slices.ContainsFunc(d.uses, func(u use) bool { return strings.Contains(u.source, "stages") }) {
		above = ancestors(p.Stages)
	}
	for _, u := range d.uses {
		e, err := compile(u.source)
		if err != nil {
			d.addExpressionError(u, err, p)
			continue
		}
		switch {
		case u.condition && !e.isBool():
			d.add(u.at, RuleExpression, `compare it with something, such as event.branch == "main"`, "%s must be true or false, not %s", u.path, e.kind)
			continue
		case !u.condition && !e.isText():
			hint := "take one of its values"
			if e.kind.String() == "list(string)" {
				hint = `make it text, such as list.join(",")`
			}
			d.add(u.at, RuleExpression, hint, "%s: the expression gives %s, not text", u.path, e.kind)
			continue
		}
		if u.condition && e.constant {
			d.checkConstant(u, e)
		}
		d.checkRoots(u, e)
		if u.scope != noScope && above != nil {
			d.checkReferences(u, e, p, names, above)
		} else {
			d.checkReferences(u, e, p, names, nil)
		}
	}
}

func (d *decoder) addExpressionError(u use, err error, p *Pipeline) {
	at, hint := u.at, ""
	var bad *expressionError
	if errors.As(err, &bad) {
		at.Column += min(bad.column, utf8.RuneCountInString(u.source))
		hint = expressionHint(bad.message, u.source, p)
	}
	d.add(at, RuleExpression, hint, "%s: %s", u.path, err)
}

// expressionHint guesses what was meant.
func expressionHint(message, source string, p *Pipeline) string {
	for _, stage := range slices.Concat(p.Stages, p.Finally) {
		if strings.Contains(stage.Name, "-") && strings.Contains(source, "stages."+stage.Name) {
			return fmt.Sprintf("names with a dash are written stages[%q]", stage.Name)
		}
	}
	var name string
	switch {
	case strings.HasPrefix(message, "undeclared reference to '"):
		name, _, _ = strings.Cut(strings.TrimPrefix(message, "undeclared reference to '"), "'")
		return didYouMean(name, []string{
			"event", "ref", "matrix", "inputs", "stages", "always", "failure", "success", "changed", "slug", "has", "size", "string", "int",
		})
	case strings.HasPrefix(message, "undefined field '"):
		name, _, _ = strings.Cut(strings.TrimPrefix(message, "undefined field '"), "'")
		fields := []string{
			"id", "forge", "kind", "repository", "ref", "branch", "tag", "commit", "before", "message", "actor", "trust",
			"changedPaths", "pathsKnown", "pullRequest", "schedule", "inputs",
		}
		if strings.Contains(source, "pullRequest."+name) {
			fields = []string{"number", "baseBranch", "headBranch", "title"}
		}
		if strings.Contains(source, "repository."+name) {
			fields = []string{"fullName", "defaultBranch"}
		}
		if strings.Contains(source, "stages") && !strings.Contains(source, "event."+name) {
			fields = []string{"status", "outputs"}
		}
		return didYouMean(name, fields)
	case strings.Contains(message, "found no matching overload for '_&&_'"), strings.Contains(message, "found no matching overload for '_||_'"):
		return "both sides must be true or false"
	case strings.Contains(message, "found no matching overload for '_==_'"):
		return "both sides must be of the same type"
	case strings.Contains(message, "token recognition error at: '="), strings.Contains(message, "extraneous input '='"):
		return "write == to compare"
	case strings.Contains(message, "found no matching overload for '_+_'"):
		return "turn numbers into text by string(…)"
	}
	return ""
}

// checkConstant refuses a condition that decides nothing.
func (d *decoder) checkConstant(u use, e *expression) {
	value, err := e.evaluate(&values{event: &eventView{}})
	if err != nil {
		d.add(u.at, RuleExpression, "", "%s: %s", u.path, err)
		return
	}
	if value.Value() == false {
		d.add(u.at, RuleUnreachable, "remove the stage, or the condition", "%s is never true: the stage would never run", u.path)
	}
}

// checkRoots refuses variables where they mean nothing.
func (d *decoder) checkRoots(u use, e *expression) {
	refuse := func(root, hint string) {
		if e.roots[root] {
			d.add(u.at, RuleExpression, hint, "%s cannot use %s", u.path, root)
		}
	}
	status := e.status && !u.condition
	switch {
	case u.scope == noScope:
		refuse("matrix", "a matrix belongs to a stage")
		refuse("stages", "what a stage gives is known to the stages that need it, not here")
	case strings.HasPrefix(u.path, d.scopes[u.scope].path+".approve."):
		refuse("matrix", "an approval is asked once for all combinations")
	case u.condition && d.has(d.scopes[u.scope].path+".approve"):
		refuse("matrix", "an approval is asked once for all combinations; put the condition on a stage after it")
	}
	if status {
		d.add(u.at, RuleExpression, "use stages.NAME.status", "%s: always(), failure() and success() belong to when", u.path)
	}
}

// checkReferences checks stages.NAME, matrix.NAME and inputs.NAME. Without
// above, whether a stage is needed is not checked.
func (d *decoder) checkReferences(u use, e *expression, p *Pipeline, names map[string]*Stage, above map[string]map[string]bool) {
	for _, r := range e.refs {
		switch r.root {
		case "inputs":
			if p.On.Manual == nil || !hasKey(p.On.Manual.Inputs, r.name) {
				hint := "declare it under on.manual.inputs"
				if p.On.Manual != nil {
					if near := nearest(r.name, keysOf(p.On.Manual.Inputs)); near != "" {
						hint = fmt.Sprintf("did you mean %q?", near)
					}
				}
				d.add(u.at, RuleExpression, hint, "%s: there is no input %q", u.path, clip(r.name))
			}
		case "matrix":
			if u.scope != noScope {
				d.checkMatrixReference(u, r, names[d.scopes[u.scope].name])
			}
		case "stages":
			if u.scope != noScope {
				d.checkStageReference(u, e, r, names, above)
			}
		}
	}
}

func (d *decoder) checkMatrixReference(u use, r reference, stage *Stage) {
	var known []string
	if stage != nil {
		for _, axis := range stage.Matrix {
			known = append(known, axis.Name)
		}
	}
	if !slices.Contains(known, r.name) {
		hint := didYouMean(r.name, known)
		if len(known) == 0 {
			hint = "add matrix to the stage"
		}
		d.add(u.at, RuleExpression, hint, "%s: there is no matrix axis %q", u.path, clip(r.name))
	}
}

func (d *decoder) checkStageReference(u use, e *expression, r reference, names map[string]*Stage, above map[string]map[string]bool) {
	own := d.scopes[u.scope]
	// "unit (race=true)" and "production/approval" are nodes of their stage.
	base, _, _ := strings.Cut(r.name, " (")
	base = strings.TrimSuffix(base, "/approval")
	stage := names[base]
	if stage == nil {
		d.add(u.at, RuleExpression, didYouMean(base, keysOf(names)), "%s: there is no stage %q", u.path, clip(r.name))
		return
	}
	if above == nil || own.finally {
		return
	}
	splitOwn := base == own.name && strings.HasSuffix(r.name, "/approval") && !u.condition
	if !above[own.name][base] && !splitOwn {
		d.add(u.at, RuleExpression, fmt.Sprintf("add %q to its needs", base), "%s: stage %q does not need %q", u.path, own.name, base)
		return
	}
	if u.condition && r.field == "status" && !e.status && slices.Contains(names[own.name].Needs, base) {
		d.add(u.at, RuleUnreachable, "write always() && … to look at the condition whatever happened",
			"%s reads the status of %q, but without always(), failure() or success() the stage runs only when every need succeeded", u.path, base)
	}
}

func hasKey[V any](m map[string]V, key string) bool {
	_, ok := m[key]
	return ok
}

func keysOf[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
