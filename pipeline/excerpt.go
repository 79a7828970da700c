package pipeline

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
)

// excerptWidth bounds how much of a source line is shown, in characters.
const excerptWidth = 120

const (
	styleReset  = "\x1b[0m"
	styleBold   = "\x1b[1m"
	styleRed    = "\x1b[1;31m"
	styleBlue   = "\x1b[34m"
	styleYellow = "\x1b[33m"
)

// Render writes the problems for a terminal: each with the line of source it
// is about, a caret under the column, and the hint. Source is the file the
// problems were found in; control characters in it are never passed on.
func (e Errors) Render(source []byte, color bool) string {
	lines := bytes.Split(source, []byte("\n"))
	paint := func(style, text string) string {
		if !color || text == "" {
			return text
		}
		return style + text + styleReset
	}
	var out strings.Builder
	for i, problem := range e {
		if i > 0 {
			out.WriteByte('\n')
		}
		fmt.Fprintf(&out, "%s %s %s\n", paint(styleBold, problem.Position.String()+":"),
			paint(styleRed, problem.Message), paint(styleBlue, "["+string(problem.Rule)+"]"))
		if problem.Line >= 1 && problem.Line <= len(lines) {
			text, caret := excerptLine(string(lines[problem.Line-1]), problem.Column)
			number := fmt.Sprintf("%5d", problem.Line)
			fmt.Fprintf(&out, "%s %s\n", paint(styleBlue, number+" |"), text)
			fmt.Fprintf(&out, "%s %s%s\n", paint(styleBlue, "      |"), strings.Repeat(" ", caret), paint(styleRed, "^"))
		}
		if problem.Hint != "" {
			fmt.Fprintf(&out, "%s %s\n", paint(styleBlue, "      ="), paint(styleYellow, problem.Hint))
		}
	}
	return out.String()
}

// excerptLine returns what to show of a line and how many characters stand
// before the caret.
func excerptLine(line string, column int) (text string, caret int) {
	shown := []rune(strings.TrimRight(line, "\r"))
	for i, r := range shown {
		if !unicode.IsPrint(r) {
			shown[i] = ' '
		}
	}
	caret = min(max(column-1, 0), len(shown))
	if len(shown) <= excerptWidth {
		return string(shown), caret
	}
	start := max(0, caret-excerptWidth/2)
	end := min(len(shown), start+excerptWidth)
	return string(shown[start:end]), caret - start
}
