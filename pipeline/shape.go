package pipeline

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// A shape says what a value of the file may be. It reads the value into the Go
// type, describes it as JSON Schema and finds the templates in it: one
// description drives all three, so that they cannot drift apart.
type shape interface {
	// decode reads n, which stands at path, into the settable value.
	decode(d *decoder, n *node, path string, into reflect.Value)
	// schema describes the value as JSON Schema.
	schema(s *schemaWriter) map[string]any
	// rewrite passes every text below the value through fn.
	rewrite(value reflect.Value, path string, fn rewriter)
}

// rewriter returns what a text becomes; t says what it may hold.
type rewriter func(path string, t text, value string) string

// textMode says which expressions a text may hold.
type textMode int

const (
	plainText  textMode = iota // none
	valueText                  // `${{ }}`
	scriptText                 // none, ever: it is run by a shell
	conditionText
)

const (
	maxTextLen   = 4096
	maxScriptLen = 64 << 10
)

// text is a string.
type text struct {
	mode textMode
	// loose accepts numbers and booleans, as written.
	loose bool
	// empty allows "".
	empty bool
	// choices, when set, are the only values.
	choices []string
	// check examines a value that holds no expression (any more).
	check   check
	pattern string // what check accepts, for the schema; may be wider
	maxLen  int    // 0 means maxTextLen
}

// check examines a text. It returns the rule that the text breaks, what is
// wrong, and what to do; an empty message means that nothing is.
type check func(value string) (rule Rule, message, hint string)

func (t text) decode(d *decoder, n *node, path string, into reflect.Value) {
	switch {
	case n.kind == stringNode, t.loose && (n.kind == boolNode || n.kind == intNode || n.kind == floatNode):
	case n.kind == nullNode:
		d.add(n.pos, RuleType, `write a value, or "" for an empty text`, "%s has no value", path)
		return
	case n.scalar():
		d.add(n.pos, RuleType, "put it in quotes: "+strconv.Quote(clip(n.text)), "%s must be text, not %s", path, n.kind)
		return
	default:
		d.add(n.pos, RuleType, "", "%s must be text, not %s", path, n.kind)
		return
	}
	if limit := t.limit(); len(n.text) > limit {
		d.add(n.pos, RuleLimit, "", "%s is %d bytes long; at most %d are allowed", path, len(n.text), limit)
		return
	}
	if n.text == "" && !t.empty {
		d.add(n.pos, RuleValue, "", "%s is empty", path)
		return
	}
	into.SetString(d.text(t, n, path))
}

func (t text) limit() int {
	if t.maxLen > 0 {
		return t.maxLen
	}
	return maxTextLen
}

// verify applies the rules that hold for a value without expressions.
func (t text) verify(value string) (rule Rule, message, hint string) {
	if len(t.choices) > 0 {
		for _, choice := range t.choices {
			if value == choice {
				return "", "", ""
			}
		}
		hint = didYouMean(value, t.choices)
		return RuleValue, fmt.Sprintf("%q is none of its values", clip(value)), hint
	}
	if t.check == nil || value == "" && t.empty {
		return "", "", ""
	}
	return t.check(value)
}

func (t text) schema(*schemaWriter) map[string]any {
	out := map[string]any{"type": "string"}
	if t.loose {
		out["type"] = []string{"string", "number", "boolean"}
	}
	if len(t.choices) > 0 {
		out["enum"] = t.choices
	}
	if !t.empty {
		out["minLength"] = 1
	}
	out["maxLength"] = t.limit()
	switch {
	case t.pattern == "":
	case t.mode == valueText:
		out["pattern"] = `\$\{\{|` + t.pattern
	default:
		out["pattern"] = t.pattern
	}
	if t.mode == scriptText {
		out["not"] = map[string]any{"pattern": `\$\{\{`}
	}
	return out
}

func (t text) rewrite(value reflect.Value, path string, fn rewriter) {
	value.SetString(fn(path, t, value.String()))
}

// number is a whole number.
type number struct{ min, max int }

func (s number) decode(d *decoder, n *node, path string, into reflect.Value) {
	if n.kind != intNode {
		d.add(n.pos, RuleType, "", "%s must be a whole number, not %s", path, n.describe())
		return
	}
	value, err := strconv.Atoi(n.text)
	if err != nil {
		d.add(n.pos, RuleType, "", "%s must be a decimal whole number, not %q", path, clip(n.text))
		return
	}
	if value < s.min || value > s.max {
		if s.min == s.max {
			d.add(n.pos, RuleValue, "", "%s is %d; it must be %d", path, value, s.min)
			return
		}
		d.add(n.pos, RuleValue, "", "%s is %d; it must be from %d to %d", path, value, s.min, s.max)
		return
	}
	into.SetInt(int64(value))
}

func (s number) schema(*schemaWriter) map[string]any {
	return map[string]any{"type": "integer", "minimum": s.min, "maximum": s.max}
}

func (number) rewrite(reflect.Value, string, rewriter) {}

// boolean is true or false.
// decimal is a number that is not negative.
type decimal struct{}

func (decimal) decode(d *decoder, n *node, path string, into reflect.Value) {
	value, err := strconv.ParseFloat(n.text, 64)
	if (n.kind != intNode && n.kind != floatNode) || err != nil || math.IsInf(value, 0) || math.IsNaN(value) {
		d.add(n.pos, RuleType, "", "%s must be a number, not %s", path, n.describe())
		return
	}
	if value < 0 {
		d.add(n.pos, RuleValue, "", "%s is %s; it can't be negative", path, clip(n.text))
		return
	}
	if into.Kind() == reflect.Pointer {
		into.Set(reflect.ValueOf(&value))
		return
	}
	into.SetFloat(value)
}

func (decimal) schema(*schemaWriter) map[string]any {
	return map[string]any{"type": "number", "minimum": 0}
}

func (decimal) rewrite(reflect.Value, string, rewriter) {}

type boolean struct{}

func (boolean) decode(d *decoder, n *node, path string, into reflect.Value) {
	if n.kind != boolNode {
		hint := "write true or false"
		d.add(n.pos, RuleType, hint, "%s must be true or false, not %s", path, n.describe())
		return
	}
	into.SetBool(strings.EqualFold(n.text, "true"))
}

func (boolean) schema(*schemaWriter) map[string]any { return map[string]any{"type": "boolean"} }

func (boolean) rewrite(reflect.Value, string, rewriter) {}

// duration is a length of time such as 90s or 1h30m.
type duration struct{ min, max time.Duration }

func (s duration) decode(d *decoder, n *node, path string, into reflect.Value) {
	const example = "write a number with a unit, such as 30s, 10m or 1h30m"
	if n.kind != stringNode && (n.kind != intNode || n.text != "0") {
		hint := example
		if n.kind == intNode {
			hint = fmt.Sprintf("write %ss for seconds or %sm for minutes", clip(n.text), clip(n.text))
		}
		d.add(n.pos, RuleDuration, hint, "%s must be a duration, not %s", path, n.describe())
		return
	}
	value, err := time.ParseDuration(n.text)
	if err != nil {
		hint := example
		if days, ok := strings.CutSuffix(n.text, "d"); ok {
			if count, err := strconv.Atoi(days); err == nil && count > 0 && count < 1000 {
				hint = fmt.Sprintf("days are written in hours: %dh", count*24)
			}
		}
		d.add(n.pos, RuleDuration, hint, "%s: %q is not a duration", path, clip(n.text))
		return
	}
	if value < s.min || value > s.max {
		d.add(n.pos, RuleDuration, "", "%s is %s; it must be from %s to %s", path, value, s.min, s.max)
		return
	}
	if into.Kind() == reflect.Pointer {
		into.Set(reflect.ValueOf(&value))
		return
	}
	into.SetInt(int64(value))
}

func (s duration) schema(*schemaWriter) map[string]any {
	texts := map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]*)?(ns|us|µs|μs|ms|s|m|h))+$|^0$`}
	if s.min > 0 {
		return texts
	}
	return map[string]any{"anyOf": []any{texts, map[string]any{"const": 0}}}
}

func (duration) rewrite(reflect.Value, string, rewriter) {}

// describe names a value in a message.
func (n *node) describe() string {
	if n.scalar() && n.kind != nullNode {
		return n.kind.String() + " (" + strconv.Quote(clip(n.text)) + ")"
	}
	return n.kind.String()
}
