package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Rule names the rule of the language that a Problem breaks.
type Rule string

// The rules. Their names are stable: editors and reports may rely on them.
const (
	RuleSyntax      Rule = "syntax"      // not YAML 1.2, or YAML the language has no use for
	RuleLimit       Rule = "limit"       // too large, too deep, too many
	RuleUnknownKey  Rule = "unknown-key" // the key does not exist here
	RuleDuplicate   Rule = "duplicate"   // the same key or value twice
	RuleType        Rule = "type"        // a value of the wrong sort
	RuleRequired    Rule = "required"    // a key is missing
	RuleValue       Rule = "value"       // right sort, wrong value
	RuleName        Rule = "name"        // a name that cannot be one
	RuleKind        Rule = "kind"        // a stage with no kind, or several
	RuleNeeds       Rule = "needs"       // needs that cannot be met
	RuleCycle       Rule = "cycle"       // stages that wait for each other
	RuleUnreachable Rule = "unreachable" // can never happen, or contradicts itself
	RuleExpression  Rule = "expression"  // CEL that does not compile
	RuleScript      Rule = "script"      // an expression inside a script
	RuleDuration    Rule = "duration"    // not a duration
	RuleCron        Rule = "cron"        // not a cron expression
	RuleTimezone    Rule = "timezone"    // not a time zone
	RuleGlob        Rule = "glob"        // not a pattern
	RuleUnsupported Rule = "unsupported" // known, but not in this version
)

// Problem is one thing that is wrong with a pipeline file.
type Problem struct {
	Position
	Message string `json:"message"`
	// Hint says what to do; it may be empty.
	Hint string `json:"hint,omitempty"`
	Rule Rule   `json:"rule"`
}

// String is "file:line:column: message [rule]", with the hint after the message.
func (p Problem) String() string {
	text := p.Position.String() + ": " + p.Message
	if p.Hint != "" {
		text += ": " + p.Hint
	}
	return text + " [" + string(p.Rule) + "]"
}

// Errors is everything that is wrong with a pipeline file, in the order of the
// file. Its cause is CauseInvalid.
type Errors []Problem

// Error is one problem a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, problem := range e {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// As lets errors.As find the cause: a file that is wrong is CauseInvalid.
func (e Errors) As(target any) bool {
	if t, ok := target.(**Error); ok {
		*t = &Error{Cause: CauseInvalid, Err: e}
		return true
	}
	return false
}

// maxProblems bounds what is reported for one file.
const maxProblems = 100

// problemList collects problems while a file is read.
type problemList struct {
	list    Errors
	dropped int
}

func (l *problemList) add(at Position, rule Rule, hint, format string, args ...any) {
	if len(l.list) >= maxProblems {
		l.dropped++
		return
	}
	l.list = append(l.list, Problem{Position: at, Message: fmt.Sprintf(format, args...), Hint: hint, Rule: rule})
}

// err returns what was collected, sorted and without repeats, or nil.
func (l *problemList) err() error {
	if len(l.list) == 0 {
		return nil
	}
	slices.SortStableFunc(l.list, func(a, b Problem) int {
		return cmp.Or(
			strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			strings.Compare(string(a.Rule), string(b.Rule)), strings.Compare(a.Message, b.Message),
		)
	})
	list := slices.Compact(l.list)
	if l.dropped > 0 {
		last := list[len(list)-1].Position
		list = append(list, Problem{
			Position: last, Rule: RuleLimit,
			Message: fmt.Sprintf("%d more problems are not shown", l.dropped), Hint: "fix these first",
		})
	}
	return list
}
