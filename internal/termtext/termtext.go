// Package termtext makes untrusted text fit for a terminal: what a build, a
// commit or a person wrote can neither move the cursor, nor change a title,
// nor hide what follows it. Widths are counted in terminal cells.
package termtext

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

const tab = "    "

// Clean returns text as one line without escape sequences, control characters
// or invisible formatting (bidirectional overrides, zero-width characters).
// Line ends become spaces, a tab four of them, and bytes that are not UTF-8
// become U+FFFD. Clean text is left as it is.
func Clean(text string) string {
	if isClean(text) {
		return text
	}
	text = strings.ToValidUTF8(text, string(utf8.RuneError))
	text = strings.TrimRight(text, "\r\n")
	text = ansi.Strip(text)
	var b strings.Builder
	b.Grow(len(text))
	for _, r := range text {
		switch {
		case r == '\t':
			b.WriteString(tab)
		case r == '\n' || r == '\r' || r == '\u2028' || r == '\u2029':
			b.WriteByte(' ')
		case hidden(r):
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// Latest is Clean for a line that was redrawn with carriage returns, as
// progress bars do: only what was drawn last is left.
func Latest(text string) string {
	text = strings.TrimRight(text, "\r\n\t ")
	if i := strings.LastIndexByte(text, '\r'); i >= 0 {
		text = text[i+1:]
	}
	return Clean(text)
}

// Lines cleans text that may span lines, dropping empty lines at its end.
func Lines(text string) []string {
	lines := strings.Split(strings.TrimRight(text, "\r\n\t "), "\n")
	for i, line := range lines {
		lines[i] = Clean(line)
	}
	return lines
}

func isClean(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < 0x20 || c >= 0x7f {
			return false
		}
	}
	return true
}

// hidden tells whether a character has no glyph of its own. The zero-width
// joiner stays: emoji are made with it.
func hidden(r rune) bool {
	return r != '\u200d' && (unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r))
}

// Width counts the cells that clean text takes.
func Width(text string) int { return ansi.StringWidth(text) }

// Truncate shortens clean text to at most width cells; an ellipsis marks the cut.
func Truncate(text string, width int) string {
	if width <= 0 {
		return ""
	}
	return ansi.Truncate(text, width, "…")
}

// Pad fills clean text with spaces up to width cells.
func Pad(text string, width int) string {
	if missing := width - Width(text); missing > 0 {
		return text + strings.Repeat(" ", missing)
	}
	return text
}
