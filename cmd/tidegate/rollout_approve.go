package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/rollout"
)

func newRolloutApproveCommand(f *clusterFlags) *cobra.Command {
	return f.decision("approve APP", "Answer an approval gate of the present step with yes",
		`Answers the approval that the present step waits for. Only those whom the gate
names may, by name (--by) or as members of a group that the server knows; the
answer is recorded with the name. Asked again, it says what was decided.`,
		"  tidegate rollout approve shop -n production\n  tidegate rollout approve shop --gate release --comment \"dashboards are green\"",
		(*rollout.Controller).Approve)
}

func newRolloutRejectCommand(f *clusterFlags) *cobra.Command {
	return f.decision("reject APP", "Answer an approval gate of the present step with no: the release is taken back",
		`Answers the approval that the present step waits for with no, which takes the
release back. Only those whom the gate names may.`,
		"  tidegate rollout reject shop -n production --comment \"checkout is slow\"",
		(*rollout.Controller).Reject)
}

func newRolloutOverrideCommand(f *clusterFlags) *cobra.Command {
	var reason string
	command := &cobra.Command{
		Use: "override APP --reason TEXT", Short: "Begin a release that a freeze window holds",
		Long: `Begins a release that waits for the end of a freeze window of its environment.
Who asked, and why, is recorded with the release.`,
		Example: "  tidegate rollout override shop -n production --reason \"security fix, agreed with ann\"",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.ask(cmd, args, func(ctx context.Context, c *rollout.Controller, t rollout.Target, see func(rollout.Progress)) (rollout.Reply, error) {
				return c.Override(ctx, t, f.by, reason, see)
			})
		},
	}
	command.Flags().StringVar(&reason, "reason", "", "why it can't wait, for the record")
	cobra.CheckErr(command.MarkFlagRequired("reason"))
	return command
}

type deciding func(c *rollout.Controller, ctx context.Context, t rollout.Target, by, gate, comment string, see func(rollout.Progress)) (rollout.Reply, error)

func (f *clusterFlags) decision(use, short, long, example string, do deciding) *cobra.Command {
	var gate, comment string
	command := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		Args: cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.ask(cmd, args, func(ctx context.Context, c *rollout.Controller, t rollout.Target, see func(rollout.Progress)) (rollout.Reply, error) {
				return do(c, ctx, t, f.by, gate, comment, see)
			})
		},
	}
	command.Flags().StringVar(&gate, "gate", "", "the approval's name (default: the one that is open)")
	command.Flags().StringVar(&comment, "comment", "", "why, for the record")
	cobra.CheckErr(command.RegisterFlagCompletionFunc("gate", f.completeApprovals))
	return command
}

// completeApprovals offers the approval gates of the application's rollout.
func (f *clusterFlags) completeApprovals(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	controller, target, err := f.target(args)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	record, _, err := controller.Status(ctx, target)
	if err != nil || record.Current == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, g := range record.Current.Strategy.Checks {
		if g.Approval != nil {
			names = append(names, g.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// printHooks shows how the Jobs around a release went.
func printHooks(w io.Writer, runs []rollout.HookRun) {
	for _, run := range runs {
		fmt.Fprintf(w, "hook %s: %s: %s\n", printable(run.Hook), run.Outcome, printable(run.Why))
		for _, line := range run.Log {
			fmt.Fprintln(w, "  | "+printable(line))
		}
	}
}

// printChecks shows what jobs, webhooks, people and expressions have answered.
func printChecks(w io.Writer, checks []rollout.Check) {
	for _, c := range checks {
		fmt.Fprintf(w, "%s %s, step %d: %s: %s\n", c.Kind, printable(c.Gate), c.Step, c.Outcome, printable(c.Why))
		if c.Trouble != "" {
			fmt.Fprintf(w, "  no answer: %s\n", printable(c.Trouble))
		}
		for _, line := range c.Log {
			fmt.Fprintln(w, "  | "+printable(line))
		}
	}
}
