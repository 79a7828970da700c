package pipeline

import (
	"errors"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Parse reads a pipeline file and checks everything that can be known without
// an event. When something is wrong the error is an Errors with all of it; file
// is only the name that positions carry.
func Parse(file string, data []byte) (*Pipeline, error) {
	d := &decoder{file: file, source: string(data), nodes: map[string]*node{}, suggested: map[string]bool{}, current: noScope}
	root := readYAML(file, data, &d.problems)
	if root == nil {
		return nil, d.problems.err()
	}
	p := &Pipeline{Pos: root.pos}
	language.decode(d, root, "", reflect.ValueOf(p).Elem())
	if len(d.uses) > maxExpressions {
		d.add(d.uses[maxExpressions].at, RuleLimit, "compute the values once, in a script, and hand them on as outputs",
			"the file has %d expressions; at most %d are allowed", len(d.uses), maxExpressions)
		return nil, d.problems.err()
	}
	d.check(p)
	if err := d.problems.err(); err != nil {
		return nil, err
	}
	return p, nil
}

// keyMark ends the path under which a key, rather than its value, is noted.
const keyMark = "#key"

const noScope = -1

// scope is a stage while it is read.
type scope struct {
	name, path string
	finally    bool
}

// use is an expression of the file.
type use struct {
	source    string
	at        Position
	path      string
	scope     int // index of scopes, or noScope
	condition bool
}

// decoder reads nodes into the types and notes where everything stands.
type decoder struct {
	file     string
	source   string
	problems problemList
	nodes    map[string]*node
	// suggested holds the paths that misspelt keys were meant to be.
	suggested map[string]bool
	scopes    []scope
	current   int
	uses      []use
	lines     []int // where each line begins in source
}

func (d *decoder) add(at Position, rule Rule, hint, format string, args ...any) {
	d.problems.add(at, rule, hint, format, args...)
}

func (d *decoder) note(path string, n *node) { d.nodes[path] = n }

// has tells whether the file holds a value at the path.
func (d *decoder) has(path string) bool { return d.nodes[path] != nil }

// at is where the value at the path stands, or the nearest above it.
func (d *decoder) at(path string) Position {
	for {
		if n := d.nodes[path]; n != nil {
			return n.pos
		}
		cut := strings.LastIndexAny(path, ".[#")
		if cut < 0 {
			return Position{File: d.file, Line: 1, Column: 1}
		}
		path = path[:cut]
	}
}

// keyAt is where the key at the path stands.
func (d *decoder) keyAt(path string) Position { return d.at(path + keyMark) }

// text checks a text of the file, notes its expressions and returns the value
// to keep.
func (d *decoder) text(t text, n *node, path string) string {
	switch t.mode {
	case scriptText:
		if i := strings.Index(n.text, openMark); i >= 0 {
			d.add(d.locate(n, openMark, 0), RuleScript,
				"set it under env and use the variable in the script, such as \"$NAME\"",
				"${{ }} is not allowed in a script: what it holds could become shell")
		}
		return n.text
	case conditionText:
		source := unwrapCondition(n.text)
		d.uses = append(d.uses, use{source: source, at: d.locate(n, source, 0), path: path, scope: d.current, condition: true})
		return source
	case valueText:
		d.template(t, n, path)
		return n.text
	}
	if i := strings.Index(n.text, openMark); i >= 0 && t.check == nil && len(t.choices) == 0 {
		d.add(d.locate(n, openMark, 0), RuleExpression, "write the value out", "${{ }} is not allowed in %s", path)
		return n.text
	}
	d.verify(t, n, path, n.text)
	return n.text
}

// template notes the expressions of a value.
func (d *decoder) template(t text, n *node, path string) {
	pieces, err := splitTemplate(n.text)
	if err != nil {
		at := n.pos
		var bad *templateError
		if errors.As(err, &bad) {
			at = d.locate(n, n.text[bad.offset:min(len(n.text), bad.offset+len(openMark))], strings.Count(n.text[:bad.offset], openMark))
		}
		d.add(at, RuleExpression, "write ${{ expression }}, or $${{ for the characters themselves", "%s: %s", path, err)
		return
	}
	seen := map[string]int{}
	var literal strings.Builder
	computed := false
	for _, p := range pieces {
		if !p.isExpr {
			literal.WriteString(p.literal)
			continue
		}
		computed = true
		d.uses = append(d.uses, use{source: p.expression, at: d.locate(n, p.expression, seen[p.expression]), path: path, scope: d.current})
		seen[p.expression]++
	}
	if !computed {
		d.verify(t, n, path, literal.String())
	}
}

func (d *decoder) verify(t text, n *node, path, value string) {
	if rule, message, hint := t.verify(value); message != "" {
		d.add(n.pos, rule, hint, "%s: %s", path, message)
	}
}

// unwrapCondition takes `${{ }}` off a condition that someone wrote it around.
func unwrapCondition(condition string) string {
	trimmed := strings.TrimSpace(condition)
	if pieces, err := splitTemplate(trimmed); err == nil && len(pieces) == 1 && pieces[0].isExpr {
		return pieces[0].expression
	}
	return trimmed
}

// locate finds where the n-th occurrence of a part of a text stands in the
// file; the beginning of the text when escapes hide it.
func (d *decoder) locate(n *node, part string, skip int) Position {
	begin := d.offset(n.pos)
	if n.block {
		if end := strings.IndexByte(d.source[begin:], '\n'); end >= 0 {
			begin += end
		}
	}
	// What stands in the file is longer than the value by indentation and escapes.
	const slack = 256
	end := min(len(d.source), begin+2*len(n.text)+slack+strings.Count(n.text, "\n")*maxDepth*2)
	region := d.source[begin:end]
	from := 0
	for range skip {
		i := strings.Index(region[from:], part)
		if i < 0 {
			return n.pos
		}
		from += i + len(part)
	}
	i := strings.Index(region[from:], part)
	if i < 0 {
		return n.pos
	}
	return d.position(begin + from + i)
}

func (d *decoder) lineStarts() []int {
	if d.lines == nil {
		d.lines = []int{0}
		for i := range len(d.source) {
			if d.source[i] == '\n' {
				d.lines = append(d.lines, i+1)
			}
		}
	}
	return d.lines
}

// offset is the byte at a position.
func (d *decoder) offset(p Position) int {
	starts := d.lineStarts()
	if p.Line < 1 || p.Line > len(starts) {
		return 0
	}
	at := starts[p.Line-1]
	for range p.Column - 1 {
		if at >= len(d.source) || d.source[at] == '\n' {
			break
		}
		_, size := utf8.DecodeRuneInString(d.source[at:])
		at += size
	}
	return min(at, len(d.source))
}

// position is the line and column of a byte.
func (d *decoder) position(offset int) Position {
	starts := d.lineStarts()
	line := 0
	for low, high := 0, len(starts); low < high; {
		middle := (low + high) / 2
		if starts[middle] <= offset {
			line, low = middle, middle+1
		} else {
			high = middle
		}
	}
	return Position{File: d.file, Line: line + 1, Column: utf8.RuneCountInString(d.source[starts[line]:offset]) + 1}
}
