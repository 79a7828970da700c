package plan

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

func itoa(n int) string { return strconv.Itoa(n) }

// Position is a place in a Dockerfile. Lines and columns count from 1; a Line
// of 0 means "unknown".
type Position struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	EndLine int    `json:"endLine"`
}

func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Error is a fault in a Dockerfile: where, what, and the lines around it.
type Error struct {
	Pos Position
	Err error
	// Hint says what to do, empty if there is nothing to say.
	Hint    string
	Excerpt string
}

func (e *Error) Error() string {
	message := fmt.Sprintf("%s: %s", e.Pos, e.Err)
	if e.Hint != "" {
		message += ": " + e.Hint
	}
	if e.Excerpt != "" {
		message += "\n" + e.Excerpt
	}
	return message
}

func (e *Error) Unwrap() error { return e.Err }

// excerptContext is how many lines around the marked ones are shown, and
// excerptLine how much of a line.
const (
	excerptContext = 2
	excerptLine    = 160
	excerptMarked  = 12
)

// Excerpt shows the lines of a position with those around them; the position's
// own lines are marked. It is empty for an unknown position.
func (d *Document) Excerpt(pos Position) string {
	if pos.Line < 1 || pos.Line > len(d.lines) {
		return ""
	}
	last := max(pos.EndLine, pos.Line)
	end := min(last+excerptContext, len(d.lines))
	// A long heredoc would bury the message: its head is enough.
	if last-pos.Line >= excerptMarked {
		last = pos.Line + excerptMarked - 1
		end = last
	}
	for end > last && strings.TrimSpace(d.lines[end-1]) == "" {
		end--
	}
	var b strings.Builder
	for n := max(1, pos.Line-excerptContext); n <= end; n++ {
		mark := " "
		if n >= pos.Line && n <= last {
			mark = ">"
		}
		text := d.lines[n-1]
		if len(text) > excerptLine {
			text = strings.ToValidUTF8(text[:excerptLine], "") + "…"
		}
		fmt.Fprintf(&b, "  %s %4d | %s\n", mark, n, text)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (d *Document) position(ranges []parser.Range) Position {
	pos := Position{File: d.Name}
	for _, r := range ranges {
		if pos.Line == 0 || r.Start.Line < pos.Line {
			pos.Line = r.Start.Line
		}
		pos.EndLine = max(pos.EndLine, r.End.Line)
	}
	if pos.Line >= 1 && pos.Line <= len(d.lines) {
		line := d.lines[pos.Line-1]
		pos.Column = len(line) - len(strings.TrimLeft(line, " \t")) + 1
	}
	return pos
}

// at moves a position to where token stands in its lines, if it does.
func (d *Document) at(pos Position, token string) Position {
	if token == "" {
		return pos
	}
	for n := pos.Line; n >= 1 && n <= max(pos.EndLine, pos.Line) && n <= len(d.lines); n++ {
		if i := strings.Index(d.lines[n-1], token); i >= 0 {
			pos.Line, pos.Column = n, i+1
			return pos
		}
	}
	return pos
}

func (d *Document) fail(pos Position, hint, format string, args ...any) error {
	return &Error{Pos: pos, Err: fmt.Errorf(format, args...), Hint: hint, Excerpt: d.Excerpt(pos)}
}

// wrap gives err a position: the parser's own, or else the one given.
func (d *Document) wrap(err error, pos Position) error {
	if err == nil {
		return nil
	}
	var located *Error
	if errors.As(err, &located) {
		return err
	}
	var parsed *parser.LocationError
	if errors.As(err, &parsed) && len(parsed.Locations) > 0 && len(parsed.Locations[0]) > 0 {
		pos = d.position(parsed.Locations[0])
	}
	return &Error{Pos: pos, Err: err, Excerpt: d.Excerpt(pos)}
}
