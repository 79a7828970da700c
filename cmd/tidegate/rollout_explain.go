package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/health"
)

func newRolloutExplainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain [REASON]", Short: "Say what a reason means, where to look and what to do",
		Long: `Prints the runbook's section for a reason that "status" or a notification shows;
without one, the list of all. It asks no cluster.`,
		Example: "  tidegate rollout explain ImagePullFailed\n  tidegate rollout explain",
		Args:    cobra.MaximumNArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return reasons(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			if len(args) == 0 {
				for _, reason := range reasons() {
					text, _ := rollout.Runbook(health.Reason(reason))
					means, _, _ := strings.Cut(text, "\n**")
					fmt.Fprintf(out, "%-22s %s\n", reason, strings.ReplaceAll(means, "\n", " "))
				}
				return nil
			}
			for _, reason := range reasons() {
				if strings.EqualFold(reason, args[0]) {
					text, _ := rollout.Runbook(health.Reason(reason))
					fmt.Fprintf(out, "%s\n\n%s\n", reason, text)
					return nil
				}
			}
			return usageErrorf("%q is no reason; \"tidegate rollout explain\" lists them", args[0])
		},
	}
}

// reasons are all that the runbook explains, sorted.
func reasons() []string {
	var names []string
	for _, reason := range rollout.Reasons() {
		names = append(names, string(reason))
	}
	slices.Sort(names)
	return names
}

// explained says where more is to be read of a reason; "" when nowhere.
func explained(reason health.Reason) string {
	if _, known := rollout.Runbook(reason); !known {
		return ""
	}
	return "tidegate rollout explain " + string(reason)
}

// printExplained says what a failure's reason is, and where to read more.
func printExplained(w io.Writer, failure *rollout.Failure) {
	if failure == nil {
		return
	}
	if more := explained(failure.Reason); more != "" {
		fmt.Fprintf(w, "reason %s; what to do: %s\n", failure.Reason, more)
	}
}
