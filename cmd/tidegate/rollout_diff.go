package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

func newRolloutDiffCommand(f *clusterFlags) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "diff APP", Short: "Show where the cluster differs from the release that was last written to it",
		Long: `Compares the live objects with the manifests of the revision that was last
written to the stable workloads, field by field, by the API server's own dry run:
defaults are no difference, nor are fields that the release does not set. Values
of Secrets are never shown. Nothing is changed.

The exit status is 0 when there is no drift, 1 when there is, and greater when
it could not be told.`,
		Example: "  tidegate rollout diff shop -n production\n  tidegate rollout diff shop -o json || echo drifted",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			controller, target, err := f.target(args)
			if err != nil {
				return err
			}
			drift, err := controller.Diff(cmd.Context(), target)
			if err != nil {
				err = rolloutError(err)
				if exitCode(err) == exitFailed { // which says that there is drift
					err = &exitError{code: exitUsage, err: err}
				}
				return err
			}
			if err := printOutput(cmd.OutOrStdout(), output, drift, func(w io.Writer) { printDrift(w, drift) }); err != nil {
				return err
			}
			if len(drift.Objects) > 0 {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	outputFlag(command, &output)
	return command
}

func printDrift(w io.Writer, drift rollout.Drift) {
	if len(drift.Objects) == 0 {
		fmt.Fprintf(w, "%s: the cluster is as revision %d has it\n", drift.App, drift.Revision)
		return
	}
	for _, object := range drift.Objects {
		switch {
		case object.Missing:
			fmt.Fprintf(w, "%s: does not exist\n", termtext.Clean(object.String()))
			continue
		case object.By != "":
			fmt.Fprintf(w, "%s: changed %s\n", termtext.Clean(object.String()), termtext.Clean(object.By))
		default:
			fmt.Fprintf(w, "%s: changed\n", termtext.Clean(object.String()))
		}
		printChanges(w, object.Changes, "revision "+fmt.Sprint(drift.Revision), "live")
	}
	fmt.Fprintf(w, "%d objects differ from revision %d; \"start --force\" with its manifests puts them right, and so does \"restart\"\n", len(drift.Objects), drift.Revision)
}

// maxShownValue is how much of a value a table shows.
const maxShownValue = 120

// printChanges lists fields with their two values, under the names given.
func printChanges(w io.Writer, changes []manifest.Change, before, after string) {
	for _, change := range changes {
		fmt.Fprintf(w, "  %s\n    %s: %s\n    %s: %s\n", termtext.Clean(change.Path), before, shownValue(change.Before), after, shownValue(change.After))
	}
}

func shownValue(value any) string {
	if value == nil {
		return "(not set)"
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return "(not shown)"
	}
	text := termtext.Clean(string(encoded))
	if runes := []rune(text); len(runes) > maxShownValue {
		text = string(runes[:maxShownValue]) + "…"
	}
	return text
}
