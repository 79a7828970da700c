package pipeline

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a file costs is bounded by its size, whatever it holds. Allocation is
// what can be measured the same everywhere; each of these once took hundreds of
// megabytes or many seconds, or is of a kind that could.
func TestHostileFilesStayCheap(t *testing.T) {
	head := "version: 1\nname: p\non: push\nstages:\n"
	cases := map[string]string{}
	var b strings.Builder
	b.WriteString(head)
	for i := range 990 {
		fmt.Fprintf(&b, "  s%d: {run: x, needs: [%s]}\n", i, func() string {
			var n []string
			for j := max(0, i-200); j < i; j++ {
				n = append(n, fmt.Sprintf("s%d", j))
			}
			return strings.Join(n, ",")
		}())
	}
	cases["needs"] = b.String()
	b.Reset()
	b.WriteString(head)
	for i := range 990 {
		fmt.Fprintf(&b, "  s%d: {run: x, needs: [s%d], env: {A: \"${{ stages.s0.status }}\"}}\n", i, max(0, i-1))
	}
	cases["chain"] = strings.Replace(b.String(), "needs: [s0], env: {A: \"${{ stages.s0.status }}\"}", "", 1)
	b.Reset()
	b.WriteString(head)
	for i := range 11000 {
		if i%200 == 0 {
			fmt.Fprintf(&b, "  s%d:\n    run: x\n    env:\n", i)
		}
		fmt.Fprintf(&b, "      A%d: \"${{ event.branch + '%d' + (((((((ref))))))) + ref + ref }}\"\n", i, i)
	}
	cases["expressions"] = b.String()
	b.Reset()
	b.WriteString(head + "  a:\n    run: x\n    env:\n")
	for i := range 500 {
		fmt.Fprintf(&b, "      A%d: \"${{ %s%d }}\"\n", i, strings.Repeat("ref+", 480), i)
	}
	cases["long expressions"] = b.String()
	b.Reset()
	b.WriteString(head + "  a:\n    run: x\n    env:\n")
	for i := range 500 {
		fmt.Fprintf(&b, "      A%d: \"${{ %s%d%s }}\"\n", i, strings.Repeat("(", 60), i, strings.Repeat(")", 60))
	}
	cases["parens"] = b.String()
	b.Reset()
	b.WriteString(head + "  a:\n    run: x\n    env:\n")
	for i := range 200 {
		fmt.Fprintf(&b, "      A%d: \"${{ %s }}\"\n", i, strings.Repeat("[[{", 400))
	}
	cases["broken"] = b.String()
	b.Reset()
	for i := range 11990 {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	cases["keys"] = b.String()
	b.Reset()
	for i := range 40 {
		fmt.Fprintf(&b, "%s%s:\n", strings.Repeat(" ", i), strings.Repeat("k", 250))
	}
	b.WriteString(strings.Repeat(" ", 40) + "- [" + strings.Repeat("1,", 48000) + "1]\n")
	cases["paths"] = b.String()
	b.Reset()
	b.WriteString(head + "  a:\n    run: x\n    env:\n")
	b.WriteString("      A: \"" + strings.Repeat("${{ ref }}", 3000) + "\"\n")
	cases["many in one"] = b.String()
	b.Reset()
	b.WriteString(head + "  a:\n    run: x\n    matrix: {a: [" + strings.Repeat("1,", 40000) + "]}\n")
	cases["items"] = b.String()
	cases["spaces"] = head + strings.Repeat("  \n", 300000)
	cases["nested anchors"] = head + "  a: " + strings.Repeat("&a ", 90)
	cases["colons"] = "a" + strings.Repeat(": ", 300000)
	cases["dashes"] = strings.Repeat("-\n", 40000)
	cases["indent"] = func() string {
		var s strings.Builder
		for i := range 1400 {
			s.WriteString(strings.Repeat(" ", i) + "a:\n")
		}
		return s.String()
	}()
	cases["indent list"] = func() string {
		var s strings.Builder
		for i := range 1400 {
			s.WriteString(strings.Repeat(" ", i) + "-\n")
		}
		return s.String()
	}()
	cases["quotes"] = "a: [" + strings.Repeat("'x',", 30000) + "]"
	cases["question"] = strings.Repeat("? a\n", 30000)
	cases["tags"] = strings.Repeat("!a\n", 30000)
	cases["anchors"] = strings.Repeat("&a\n", 30000)
	cases["comments"] = strings.Repeat("#\n", 300000)
	cases["docs"] = strings.Repeat("---\na\n", 30000)
	cases["literal"] = "a: |\n" + strings.Repeat(" x\n", 340000)
	cases["literals"] = strings.Repeat("- |\n x\n", 30000)
	cases["folded"] = "a: >\n" + strings.Repeat(" x\n\n", 250000)
	cases["dq"] = "a: \"" + strings.Repeat("\\u0041", 170000) + "\""
	cases["dqnl"] = "a: \"" + strings.Repeat("x\n\n", 300000) + "\""
	cases["plainnl"] = "a: " + strings.Repeat("x\n\n  ", 200000)
	cases["flow colon"] = "{" + strings.Repeat("a: 1, ", 11000) + "}"
	const most = 160 << 20
	for name, source := range cases {
		t.Run(name, func(t *testing.T) {
			require.LessOrEqual(t, len(source), MaxFileSize)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			p, err := Parse("ci.yaml", []byte(source))
			if err == nil {
				_, err = PlanFor(p, push("main"))
			}
			runtime.ReadMemStats(&after)
			if err != nil {
				require.Equal(t, CauseInvalid, CauseOf(err))
			}
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(most))
		})
	}
}
