package termtext

import (
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestClean(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"plain":                {"ok 12/12", "ok 12/12"},
		"colour":               {"\x1b[31;1mred\x1b[0m", "red"},
		"cursor and clear":     {"\x1b[2J\x1b[Hgone", "gone"},
		"title, bell ended":    {"\x1b]0;pwned\x07text", "text"},
		"title, string ended":  {"\x1b]2;pwned\x1b\\text", "text"},
		"hyperlink":            {"\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\", "click"},
		"device control":       {"\x1bP$q\"p\x1b\\text", "text"},
		"C1 as a character":    {"a\u009b31mb", "a31mb"},
		"raw C1 byte":          {"a\x9b31mb", "a\ufffd31mb"},
		"unterminated":         {"text\x1b[31", "text"},
		"escape at the end":    {"text\x1b", "text"},
		"bell and backspace":   {"pass\a\b\b\bfail", "passfail"},
		"tab":                  {"a\tb", "a    b"},
		"line end at the end":  {"text\r\n", "text"},
		"line ends within":     {"one\ntwo\u2028three", "one two three"},
		"right-to-left":        {"a\u202ecba\u202c", "acba"},
		"zero width":           {"a\u200bb\ufeffc", "abc"},
		"emoji keeps together": {"👩\u200d💻", "👩\u200d💻"},
		"not UTF-8":            {"a\xffb", "a\ufffdb"},
		"other scripts":        {"größe 日本 ✓", "größe 日本 ✓"},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.want, Clean(c.in)) })
	}
}

func TestLatest(t *testing.T) {
	require.Equal(t, "100%", Latest("10%\r50%\r100%\r\n"))
	require.Equal(t, "plain", Latest("plain\n"))
	require.Equal(t, "", Latest("\r\n"))
}

func TestLines(t *testing.T) {
	require.Equal(t, []string{"one", "two"}, Lines("one\r\n\x1b[1mtwo\n\n"))
	require.Equal(t, []string{""}, Lines(""))
}

func TestWidths(t *testing.T) {
	require.Equal(t, 4, Width("日本"))
	require.Equal(t, "日…", Truncate("日本語", 4))
	require.Equal(t, "", Truncate("x", 0))
	require.Equal(t, "日本  ", Pad("日本", 6))
	require.Equal(t, "long", Pad("long", 2))
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{"", "a\x1b[31mb", "\x1b]0;t\x07", "\x9b", "\u202e", "\x1bP\x1b\\", "日\r\n", "\x1b\x1b[\x1b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out := Clean(in)
		if !utf8.ValidString(out) {
			t.Fatalf("not UTF-8: %q", out)
		}
		for _, r := range out {
			if unicode.IsControl(r) || hidden(r) {
				t.Fatalf("%q left %U in %q", in, r, out)
			}
		}
		if again := Clean(out); again != out {
			t.Fatalf("not stable: %q, then %q", out, again)
		}
		if w := Width(Truncate(out, 10)); w > 10 {
			t.Fatalf("truncated to %d cells", w)
		}
	})
}
