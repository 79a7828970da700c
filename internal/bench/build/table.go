package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// printRow prints a line for each builder; ratios are to Tidegate's seconds.
func printRow(to io.Writer, row []result, first bool) {
	if first {
		fmt.Fprintln(to, "| workload | builder | seconds | × tidegate | goal | CPU s | peak MB | read MB | written MB |")
		fmt.Fprintln(to, "|---|---|---|---|---|---|---|---|---|")
	}
	ours := 0.0
	for _, r := range row {
		if r.Builder == "tidegate" {
			ours = r.Wall
		}
	}
	for _, r := range row {
		if r.Error != "" {
			fmt.Fprintf(to, "| %s | %s | failed | | | | | | |\n", r.Row, r.Builder)
			continue
		}
		ratio, goal := "", ""
		if ours > 0 && r.Builder != "tidegate" {
			ratio = fmt.Sprintf("%.1f", r.Wall/ours)
		}
		if r.Goal > 0 && r.Builder == "tidegate" {
			goal = fmt.Sprintf("≤ %.2f", r.Goal)
			if r.Wall > r.Goal {
				goal += " missed"
			}
		}
		fmt.Fprintf(to, "| %s | %s | %.3f | %s | %s | %.2f | %s | %s | %s |\n",
			r.Row, r.Builder, r.Wall, ratio, goal, r.CPU, megabytes(r.Peak), megabytes(r.Read), megabytes(r.Written))
	}
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/1e6) }

func writeJSON(name string, results []result) error {
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o644)
}
