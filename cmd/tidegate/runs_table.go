package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tidegate-ci/tidegate/internal/termtext"
)

// printDocument writes a value as JSON or YAML.
func printDocument(w io.Writer, output string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	data = append(data, '\n')
	if output == "yaml" {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return fmt.Errorf("encoding the answer: %w", err)
		}
	}
	_, err = w.Write(data)
	return err
}

func checkOutput(output string) error {
	switch output {
	case "table", "json", "yaml":
		return nil
	}
	return usageErrorf("unknown output format %q: use table, json or yaml", output)
}

// tableLines lays rows out in columns; the first row is the heading. Cells are
// cleaned here: all of them may have been written by strangers. A width of 0
// does not bound the lines.
func tableLines(width int, rows [][]string) []string {
	var columns []int
	for _, row := range rows {
		for i := range row {
			row[i] = termtext.Clean(row[i])
			if i == len(columns) {
				columns = append(columns, 0)
			}
			columns[i] = max(columns[i], termtext.Width(row[i]))
		}
	}
	lines := make([]string, len(rows))
	for r, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			if i < len(row)-1 {
				cell = termtext.Pad(cell, columns[i]) + "  "
			}
			b.WriteString(cell)
		}
		lines[r] = strings.TrimRight(b.String(), " ")
		if width > 0 {
			lines[r] = termtext.Truncate(lines[r], width)
		}
	}
	return lines
}

func printLines(w io.Writer, lines []string) error {
	_, err := io.WriteString(w, strings.Join(append(lines, ""), "\n"))
	return err
}

func shortRefName(ref string) string {
	for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
		if rest, ok := strings.CutPrefix(ref, prefix); ok {
			return rest
		}
	}
	return ref
}

func shortHash(hash string) string { return hash[:min(len(hash), 7)] }

// age is how long ago something was, as short as it can be said.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(d, 0)/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}
