package pipeline

import (
	"fmt"
	"html"
	"strings"
	"unicode/utf8"
)

// Mermaid draws the graph as a Mermaid flowchart, as Markdown pages show it.
func (g Graph) Mermaid() string {
	index := g.index()
	var out strings.Builder
	out.WriteString("flowchart LR\n")
	write := func(n GraphNode, indent string) {
		left, right := "[", "]"
		switch n.Kind {
		case KindBuild:
			left, right = "[[", "]]"
		case KindDeploy:
			left, right = "([", "])"
		case KindApprove:
			left, right = "{{", "}}"
		}
		fmt.Fprintf(&out, "%sn%d%s\"%s<br/>%s\"%s\n", indent, index[n.ID], left, mermaidText(n.ID), mermaidText(kindText(n)), right)
	}
	finally := false
	for _, n := range g.Nodes {
		if !n.Finally {
			write(n, "  ")
		}
		finally = finally || n.Finally
	}
	if finally {
		out.WriteString("  subgraph finally\n")
		for _, n := range g.Nodes {
			if n.Finally {
				write(n, "    ")
			}
		}
		out.WriteString("  end\n")
	}
	for _, n := range g.Nodes {
		for _, need := range n.Needs {
			fmt.Fprintf(&out, "  n%d --> n%d\n", index[need], index[n.ID])
		}
	}
	skipped := false
	for _, n := range g.Nodes {
		if n.Skipped() {
			fmt.Fprintf(&out, "  class n%d skipped\n", index[n.ID])
			skipped = true
		}
	}
	if skipped {
		out.WriteString("  classDef skipped stroke-dasharray: 4 4, opacity: 0.5\n")
	}
	return out.String()
}

// mermaidText writes everything but harmless characters as an entity.
func mermaidText(text string) string {
	var out strings.Builder
	for _, r := range plain(text) {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(" -_./:,=()×", r):
			out.WriteRune(r)
		default:
			fmt.Fprintf(&out, "#%d;", r)
		}
	}
	return out.String()
}

// DOT draws the graph for Graphviz.
func (g Graph) DOT() string {
	index := g.index()
	var out strings.Builder
	fmt.Fprintf(&out, "digraph %s {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n", dotText(g.Name))
	for _, n := range g.Nodes {
		shape := map[KindName]string{KindRun: "box", KindBuild: "box3d", KindDeploy: "ellipse", KindApprove: "hexagon"}[n.Kind]
		style := ""
		if n.Skipped() {
			style = ", style=dashed"
		}
		if n.Finally {
			style += ", peripheries=2"
		}
		fmt.Fprintf(&out, "  n%d [shape=%s, label=%s%s];\n", index[n.ID], shape, dotText(n.ID+"\n"+kindText(n)), style)
	}
	for _, n := range g.Nodes {
		for _, need := range n.Needs {
			fmt.Fprintf(&out, "  n%d -> n%d;\n", index[need], index[n.ID])
		}
	}
	out.WriteString("}\n")
	return out.String()
}

func dotText(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(plain(lines[i]))
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}

// SVG draws the graph as a picture that stands alone, a column a layer.
func (g Graph) SVG() string {
	const rowHeight, boxHeight, gap, margin, letter = 64, 44, 56, 16, 7.2
	type place struct{ x, y, width float64 }
	places := map[string]place{}
	x, height := float64(margin), 0.0
	for _, layer := range g.layersOf() {
		width := 0.0
		for _, n := range layer {
			width = max(width, letter*float64(max(utf8.RuneCountInString(n.ID), utf8.RuneCountInString(kindText(n))))+24)
		}
		for i, n := range layer {
			places[n.ID] = place{x, float64(margin + i*rowHeight), width}
		}
		x += width + gap
		height = max(height, float64(2*margin+len(layer)*rowHeight))
	}
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" font-family="ui-monospace, monospace" font-size="12">`+"\n", max(x-gap+margin, 2*margin), height)
	fmt.Fprintf(&out, "  <title>%s</title>\n", html.EscapeString(plain(g.Name)))
	for _, n := range g.Nodes {
		to := places[n.ID]
		for _, need := range n.Needs {
			from := places[need]
			x1, y1, x2, y2 := from.x+from.width, from.y+boxHeight/2, to.x, to.y+boxHeight/2
			middle := x2 - gap/2
			fmt.Fprintf(&out, `  <path d="M%.0f %.0f C%.0f %.0f %.0f %.0f %.0f %.0f" fill="none" stroke="#8a94a6"/>`+"\n", x1, y1, middle, y1, middle, y2, x2, y2)
		}
	}
	for _, n := range g.Nodes {
		p := places[n.ID]
		fill := map[KindName]string{KindRun: "#e8f0fe", KindBuild: "#e6f4ea", KindDeploy: "#fef7e0", KindApprove: "#fce8f3"}[n.Kind]
		dash := ""
		if n.Skipped() {
			dash = ` stroke-dasharray="4 4" opacity="0.5"`
		}
		fmt.Fprintf(&out, `  <g%s><rect x="%.0f" y="%.0f" width="%.0f" height="%d" rx="6" fill="%s" stroke="#5f6b7c"/>`, dash, p.x, p.y, p.width, boxHeight, fill)
		fmt.Fprintf(&out, `<text x="%.0f" y="%.0f" font-weight="bold">%s</text>`, p.x+12, p.y+18, html.EscapeString(plain(n.ID)))
		fmt.Fprintf(&out, `<text x="%.0f" y="%.0f" fill="#5f6b7c">%s</text></g>`+"\n", p.x+12, p.y+35, html.EscapeString(kindText(n)))
	}
	out.WriteString("</svg>\n")
	return out.String()
}

func (g Graph) index() map[string]int {
	index := make(map[string]int, len(g.Nodes))
	for i, n := range g.Nodes {
		index[n.ID] = i
	}
	return index
}
