package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// simulated finds what the judge's own simulation prints.
var simulated = regexp.MustCompile(`false alarms ([\d.]+) %, missed ([\d.]+) %, found after ([\d.]+) s on average`)

// judgeRow runs the simulation that the judge's tests run.
func judgeRow(ctx context.Context, _ *bench) ([]result, error) {
	output, err := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", "^TestCountsWhenPeeked$", "./rollout/analysis").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("the judge's simulation: %w\n%s", err, output)
	}
	match := simulated.FindSubmatch(output)
	if match == nil {
		return nil, fmt.Errorf("the judge's simulation printed no figures:\n%s", output)
	}
	var values [3]float64
	for i := range values {
		if values[i], err = strconv.ParseFloat(string(match[i+1]), 64); err != nil {
			return nil, err
		}
	}
	found := result{Who: "tidegate", Measure: "errors 0.1 % → 1 % found", Unit: "%", Value: 100 - values[1]}.aim(99, "")
	found.AtLeast = true
	return []result{
		result{Who: "tidegate", Measure: "false alarms at 0.1 %", Unit: "%", Value: values[0]}.aim(3, ""),
		found,
		result{Who: "tidegate", Measure: "found after, mean", Unit: "s", Value: values[2]}.aim(80, ""),
	}, nil
}
