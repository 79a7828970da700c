package pipeline

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text draws the graph for a terminal: a layer beneath the other, each stage
// with its kind and what it comes after.
func (g Graph) Text() string {
	idWidth, kindWidth := 0, 0
	for _, n := range g.Nodes {
		idWidth = max(idWidth, utf8.RuneCountInString(n.ID))
		kindWidth = max(kindWidth, len(kindText(n)))
	}
	const widest = 40
	idWidth = min(idWidth, widest)
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n", plain(g.Name))
	layers := g.layersOf()
	for i, layer := range layers {
		label, branch, stem := fmt.Sprintf("%3d", i+1), "├", "│"
		if i == len(layers)-1 {
			branch, stem = "└", " "
		}
		if len(layer) > 0 && layer[0].Finally {
			label = "  ∎"
		}
		for j, n := range layer {
			lead := branch + "─" + label + " ─ "
			if j > 0 {
				lead = stem + strings.Repeat(" ", 7)
			}
			line := fmt.Sprintf("%s%-*s  %-*s", lead, idWidth, plain(n.ID), kindWidth, kindText(n))
			if notes := g.notes(n); notes != "" {
				line += "  " + notes
			}
			out.WriteString(strings.TrimRight(line, " ") + "\n")
		}
		if i < len(layers)-1 {
			out.WriteString("│\n")
		}
	}
	return out.String()
}

func kindText(n GraphNode) string {
	if n.Detail == "" {
		return string(n.Kind)
	}
	return string(n.Kind) + " " + plain(clip(n.Detail))
}

func (g Graph) notes(n GraphNode) string {
	var notes []string
	if needs := g.needNames(n); len(needs) > 0 {
		notes = append(notes, "after "+plain(clip(strings.Join(needs, ", "))))
	}
	switch {
	case n.Skipped():
		notes = append(notes, "skipped")
	case n.When != "":
		notes = append(notes, "when "+plain(clip(n.When)))
	case n.Finally && len(n.Needs) == 0:
		notes = append(notes, "at the end, always")
	}
	return strings.Join(notes, "  ")
}

// plain is text of the file on one line of a terminal.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}
