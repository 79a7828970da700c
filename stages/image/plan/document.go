package plan

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// MaxDockerfile bounds a Dockerfile, in bytes.
const MaxDockerfile = 4 << 20

// Document is a Dockerfile that parses.
type Document struct {
	// Name is what messages call the file.
	Name string
	// Syntax is the value of `# syntax=`, if any.
	Syntax string

	data     []byte
	lines    []string
	escape   rune
	stages   []instructions.Stage
	global   []instructions.ArgCommand
	linter   *linter.Linter
	warnings []Warning
}

// Parse reads a Dockerfile. An error is an *Error that says where.
func Parse(name string, data []byte) (*Document, error) { return parse(name, data, "") }

// parse is Parse with another value for the file's check directive, unless empty.
func parse(name string, data []byte, check string) (document *Document, err error) {
	d := &Document{Name: name, data: data, lines: strings.Split(string(data), "\n")}
	if len(data) > MaxDockerfile {
		return nil, &Error{Pos: Position{File: name}, Err: fmt.Errorf("larger than %d bytes", MaxDockerfile)}
	}
	// The parser packages are not written for hostile input in every corner: a
	// panic in them is a file that cannot be parsed, not the end of the server.
	defer func() {
		if r := recover(); r != nil {
			document, err = nil, &Error{Pos: Position{File: name}, Err: fmt.Errorf("cannot be parsed: %v", r)}
		}
	}()
	d.Syntax, _, _, _ = parser.DetectSyntax(data)
	config := &linter.Config{}
	if options, _, ranges, ok := parser.ParseDirective("check", data); ok && check == "" {
		if config, err = linter.ParseLintOptions(options); err != nil {
			return nil, d.wrap(fmt.Errorf("check directive: %w", err), d.position(ranges))
		}
	} else if check != "" {
		if config, err = linter.ParseLintOptions(check); err != nil {
			return nil, &Error{Pos: Position{File: name}, Err: fmt.Errorf("%s: %w", CheckArgument, err)}
		}
	}
	config.Warn = func(rule, description, url, message string, location []parser.Range) {
		d.warnings = append(d.warnings, Warning{Pos: d.position(location), Rule: rule, Message: message, Description: description, URL: url})
	}
	d.linter = linter.New(config)

	if len(bytes.TrimSpace(data)) == 0 {
		return nil, &Error{Pos: Position{File: name}, Err: errors.New("the Dockerfile is empty"), Hint: "it needs at least a FROM instruction"}
	}
	result, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, d.wrap(err, Position{File: name})
	}
	d.escape = result.EscapeToken
	for _, w := range result.Warnings {
		var location []parser.Range
		if w.Location != nil {
			location = []parser.Range{*w.Location}
		}
		if w.URL == linter.RuleNoEmptyContinuation.URL {
			d.linter.Run(&linter.RuleNoEmptyContinuation, location, linter.RuleNoEmptyContinuation.Format())
			continue
		}
		d.warnings = append(d.warnings, Warning{Pos: d.position(location), Message: w.Short, URL: w.URL})
	}
	if d.stages, d.global, err = instructions.Parse(result.AST, d.linter); err != nil {
		return nil, d.wrap(err, Position{File: name})
	}
	if len(d.stages) == 0 {
		return nil, &Error{Pos: Position{File: name}, Err: errors.New("no build stage"), Hint: "add a FROM instruction (FROM scratch starts from nothing)"}
	}
	d.checkFile()
	return d, nil
}

// StageNames lists the names a target can have.
func (d *Document) StageNames() []string {
	var names []string
	for _, s := range d.stages {
		if s.Name != "" {
			names = append(names, s.Name)
		}
	}
	return names
}

func (d *Document) lex() *shell.Lex { return shell.NewLex(d.escape) }
