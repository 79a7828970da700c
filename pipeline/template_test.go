package pipeline

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestSplitTemplate(t *testing.T) {
	for _, test := range []struct {
		template string
		want     []piece
		err      error
	}{
		{"", nil, nil},
		{"plain $ {{ }}", []piece{{literal: "plain $ {{ }}"}}, nil},
		{"${{ a }}", []piece{{expression: "a", offset: 4, isExpr: true}}, nil},
		{"x${{a}}y", []piece{{literal: "x"}, {expression: "a", offset: 4, isExpr: true}, {literal: "y"}}, nil},
		{"$${{ a }}", []piece{{literal: "${{ a }}"}}, nil},
		{"$$${{ a }}", []piece{{literal: "$${{ a }}"}}, nil},
		{`${{ "}}" }}`, []piece{{expression: `"}}"`, offset: 4, isExpr: true}}, nil},
		{`${{ '\'}}' }}`, []piece{{expression: `'\'}}'`, offset: 4, isExpr: true}}, nil},
		{`${{ r'\' }}`, []piece{{expression: `r'\'`, offset: 4, isExpr: true}}, nil},
		{`${{ {"a": {}} }}`, []piece{{expression: `{"a": {}}`, offset: 4, isExpr: true}}, nil},
		{`${{ """}}"x}}""" }}`, []piece{{expression: `"""}}"x}}"""`, offset: 4, isExpr: true}}, nil},
		{"${{ a", nil, errUnclosed},
		{"${{ 'a }}", nil, errUnclosed},
		{"${{ }}", nil, errEmpty},
	} {
		got, err := splitTemplate(test.template)
		require.ErrorIs(t, err, test.err, test.template)
		if test.err == nil {
			require.Equal(t, test.want, got, test.template)
		}
	}
}

// The value of an escaped text is the text.
func FuzzEscapeTemplate(f *testing.F) {
	for _, seed := range []string{"", "$", "${{", "$${{ x }}", "$$${{", "a${{b}}c"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		escaped := escapeTemplate(text)
		require.Equal(t, text, unescapeTemplate(escaped))
		pieces, err := splitTemplate(escaped)
		require.NoError(t, err)
		for _, p := range pieces {
			require.False(t, p.isExpr)
		}
	})
}

// Filling in what is known first and the rest later gives the same as filling
// in all at once, whatever the values are.
func TestTwoStepsOfFillingAgree(t *testing.T) {
	part := rapid.SampledFrom([]string{"$", "{{", "}}", "${{", "$${{", " ", "a", "'", "stages.x.outputs.y"})
	text := rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(part, 0, 5).Draw(t, "parts"), "") })
	rapid.Check(t, func(t *rapid.T) {
		known, later := text.Draw(t, "known"), text.Draw(t, "later")
		var pieces []piece
		want := ""
		for range rapid.IntRange(0, 6).Draw(t, "pieces") {
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				literal := text.Draw(t, "literal")
				pieces = append(pieces, piece{literal: literal})
				want += literal
			case 1:
				pieces = append(pieces, piece{expression: "known", isExpr: true})
				want += known
			default:
				pieces = append(pieces, piece{expression: "later", isExpr: true})
				want += later
			}
		}
		first, err := joinTemplate(pieces, func(p piece) (string, bool, error) { return known, p.expression == "later", nil })
		require.NoError(t, err)
		rest, err := splitTemplate(first)
		require.NoError(t, err, first)
		second, err := joinTemplate(rest, func(p piece) (string, bool, error) {
			if dollars := strings.Trim(p.expression, `"`); strings.Trim(dollars, "$") == "" {
				return dollars, false, nil
			}
			require.Equal(t, "later", p.expression)
			return later, false, nil
		})
		require.NoError(t, err)
		require.Equal(t, want, unescapeTemplate(second))
	})
}

func TestDollarsInFrontOfAnExpressionStay(t *testing.T) {
	for _, known := range []string{"$", "$$", "$$$", "a$", "${{", "$${{$"} {
		first, err := joinTemplate([]piece{{literal: known}, {expression: "later", isExpr: true}}, func(piece) (string, bool, error) { return "", true, nil })
		require.NoError(t, err)
		pieces, err := splitTemplate(first)
		require.NoError(t, err)
		require.Equal(t, "later", pieces[len(pieces)-1].expression)
		value, err := fillTemplate(strings.TrimSuffix(first, "${{ later }}"), &values{event: &eventView{}})
		require.NoError(t, err)
		require.Equal(t, known, unescapeTemplate(value))
	}
}

func FuzzExpression(f *testing.F) {
	for _, seed := range []string{
		`event.branch == "main"`, `changed("web/**")`, `always() || failure()`, `stages["a"].outputs.x`, `{"a": 1}.size()`,
		`event.message.replace("a", "b")`, `[1,2].map(x, x+1)`, `slug(event.branch)`, "event.`branch`", `has(event.branch)`,
	} {
		f.Add(seed, "message")
	}
	f.Fuzz(func(_ *testing.T, source, message string) {
		e, err := compile(source)
		if err != nil {
			return
		}
		event := push("main")
		event.Message = message
		value, err := e.evaluate(&values{event: viewOf(event)})
		if err == nil && e.isText() {
			_, _ = textOf(value)
		}
	})
}
