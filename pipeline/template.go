package pipeline

import (
	"errors"
	"fmt"
	"strings"
)

// A template is text with `${{ expression }}` in it. `$${{` stands for the
// characters `${{` themselves.
const (
	openMark   = "${{"
	escapeMark = "$${{"
)

// piece is a part of a template: literal text, or an expression.
type piece struct {
	literal    string
	expression string
	// offset is where the expression begins in the template, in bytes.
	offset int
	isExpr bool
}

var (
	errUnclosed = errors.New("${{ is not closed by }}")
	errEmpty    = errors.New("${{ }} is empty")
)

// templateError is a template that cannot be read, at a byte offset in it.
type templateError struct {
	offset int
	err    error
}

func (e *templateError) Error() string { return e.err.Error() }
func (e *templateError) Unwrap() error { return e.err }

// splitTemplate cuts a template into pieces. A `}}` inside a string or map of
// the expression does not close it.
func splitTemplate(template string) ([]piece, error) {
	var pieces []piece
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			pieces = append(pieces, piece{literal: literal.String()})
			literal.Reset()
		}
	}
	for at := 0; at < len(template); {
		found := strings.Index(template[at:], openMark)
		if found < 0 {
			literal.WriteString(template[at:])
			break
		}
		open := at + found
		if open > at && template[open-1] == '$' {
			literal.WriteString(template[at : open-1])
			literal.WriteString(openMark)
			at = open + len(openMark)
			continue
		}
		literal.WriteString(template[at:open])
		begin := open + len(openMark)
		length := expressionLength(template[begin:])
		if length < 0 {
			return nil, &templateError{open, errUnclosed}
		}
		expression := template[begin : begin+length]
		trimmed := strings.TrimSpace(expression)
		if trimmed == "" {
			return nil, &templateError{open, errEmpty}
		}
		flush()
		offset := begin + strings.Index(expression, trimmed)
		pieces = append(pieces, piece{expression: trimmed, offset: offset, isExpr: true})
		at = begin + length + len("}}")
	}
	flush()
	return pieces, nil
}

// expressionLength finds the `}}` that closes an expression, or returns -1.
func expressionLength(text string) int {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\'', '"':
			end := stringEnd(text, i)
			if end < 0 {
				return -1
			}
			i = end
		case '{':
			depth++
		case '}':
			if depth > 0 {
				depth--
			} else if strings.HasPrefix(text[i:], "}}") {
				return i
			}
		}
	}
	return -1
}

// stringEnd returns the index of the last byte of the CEL string literal that
// begins at i, or -1. Raw strings take no escapes.
func stringEnd(text string, i int) int {
	quote := text[i : i+1]
	if strings.HasPrefix(text[i:], strings.Repeat(quote, 3)) {
		quote = strings.Repeat(quote, 3)
	}
	raw := i > 0 && (text[i-1] == 'r' || text[i-1] == 'R')
	for j := i + len(quote); j < len(text); j++ {
		switch {
		case text[j] == '\\' && !raw:
			j++
		case strings.HasPrefix(text[j:], quote):
			return j + len(quote) - 1
		}
	}
	return -1
}

// escapeTemplate makes a template whose value is the text.
func escapeTemplate(text string) string { return strings.ReplaceAll(text, openMark, escapeMark) }

// hasExpression tells whether a template holds an expression or an escape, that
// is, whether its value is another text than the template.
func hasExpression(template string) bool { return strings.Contains(template, openMark) }

// maxValueLen bounds what a template may grow to, in bytes.
const maxValueLen = 64 << 10

var errValueTooLong = fmt.Errorf("the value grows beyond %d bytes", maxValueLen)

// joinTemplate puts pieces together to a template again. Each expression becomes
// what fill returns, or stays where keep is set. What fill returns is text: it is
// escaped together with the literals beside it, so that no expression can come
// into being, not even across the border of two values.
func joinTemplate(pieces []piece, fill func(piece) (value string, keep bool, err error)) (string, error) {
	var out, known strings.Builder
	flush := func(beforeExpression bool) {
		value := known.String()
		known.Reset()
		if text := strings.TrimRight(value, "$"); beforeExpression && text != value {
			// A $ in front of ${{ would make an escape of it.
			out.WriteString(escapeTemplate(text) + `${{ "` + value[len(text):] + `" }}`)
			return
		}
		out.WriteString(escapeTemplate(value))
	}
	for _, p := range pieces {
		value := p.literal
		if p.isExpr {
			var keep bool
			var err error
			if value, keep, err = fill(p); err != nil {
				return "", err
			}
			if keep {
				flush(true)
				out.WriteString(openMark + " " + p.expression + " }}")
				continue
			}
		}
		known.WriteString(value)
		if known.Len()+out.Len() > maxValueLen {
			return "", errValueTooLong
		}
	}
	flush(false)
	return out.String(), nil
}
