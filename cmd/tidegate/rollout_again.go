package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/rollout"
)

func newRolloutRetryCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use: "retry APP", Short: "Start the last release again after it failed or was taken back",
		Long: `Starts the release of the last rollout again, as a new revision with the same
manifests and strategy, when that rollout did not end verified: after a registry
that was away, a quota that has been raised, a test that was flaky. Nothing is
done when it is verified, or under way.`,
		Example: "  tidegate rollout retry shop -n production",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.begin(cmd, args, (*rollout.Controller).Retry)
		},
	}
}

func newRolloutRestartCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use: "restart APP", Short: "Replace all pods of the verified release, batch by batch, through its gates",
		Long: `Replaces all pods of the verified release by its workloads' own rolling update,
as a revision of its own with the gates of one: if new pods do not come up, the
old ones keep serving and the restart is taken back. Releases that follow do not
undo it.`,
		Example: "  tidegate rollout restart shop -n production",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.begin(cmd, args, (*rollout.Controller).Restart)
		},
	}
}

type beginning func(c *rollout.Controller, ctx context.Context, t rollout.Target, by string, see func(rollout.Progress)) (rollout.Result, error)

// begin runs a command that begins a rollout, to that rollout's end.
func (f *clusterFlags) begin(cmd *cobra.Command, args []string, do beginning) error {
	controller, target, err := f.target(args)
	if err != nil {
		return err
	}
	result, err := do(controller, cmd.Context(), target, f.by, printProgress(cmd))
	if err != nil {
		printFailure(cmd.ErrOrStderr(), result.Rollout.Failure)
		return rolloutError(err)
	}
	if result.Unchanged {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: nothing to do: %s\n", target.App, result.Rollout.Sentence())
		return nil
	}
	fmt.Fprintln(cmd.OutOrStdout(), target.App+": "+result.Rollout.Sentence())
	return nil
}

func newRolloutForgetCommand(f *clusterFlags) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "forget APP", Short: "Give an application back: Tidegate forgets it, and nothing that runs is changed",
		Long: `Deletes what Tidegate knows about an application (its record with the history,
the manifests of its revisions, the lease) and takes Tidegate's labels,
annotations and ownership of fields off its objects. No pod is restarted. An
event at each workload says who asked. A rollout under way is refused: abort it
first.

There is no going back: look at "history APP -o json" before, if it matters. The
next "start" takes the objects over again.`,
		Example: "  tidegate rollout history shop -n production -o json > shop-history.json\n  tidegate rollout forget shop -n production",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			controller, target, err := f.target(args)
			if err != nil {
				return err
			}
			forgotten, err := controller.Forget(cmd.Context(), target, f.by, printProgress(cmd))
			if err != nil {
				return rolloutError(err)
			}
			return printOutput(cmd.OutOrStdout(), output, forgotten, func(w io.Writer) {
				if len(forgotten.Objects) == 0 && forgotten.Revisions == 0 {
					fmt.Fprintf(w, "%s: nothing is known of it in namespace %s\n", target.App, target.Namespace)
					return
				}
				for _, ref := range forgotten.Objects {
					fmt.Fprintln(w, "given back: "+printable(ref.String()))
				}
				fmt.Fprintf(w, "%s: forgotten, with the manifests of %d revisions; nothing that runs was changed\n", target.App, forgotten.Revisions)
			})
		},
	}
	outputFlag(command, &output)
	return command
}

// outputFlag adds -o, and what can follow it.
func outputFlag(command *cobra.Command, output *string) {
	command.Flags().StringVarP(output, "output", "o", "table", "output format: table, json or yaml")
	completeFlag(command, "output", []string{"table", "json", "yaml"})
}
