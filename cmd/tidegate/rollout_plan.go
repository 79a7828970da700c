package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

func newRolloutPlanCommand(f *clusterFlags) *cobra.Command {
	var release releaseFlags
	var output string
	command := &cobra.Command{
		Use: "plan APP -f FILE… | --kustomize DIR | --helm CHART", Short: "Show every step, gate and write of a release, and do none of it",
		Long: `Plays the release through: every step with the gates that must pass after it,
how long it takes at least, and every write that would be made, tried by the API
server's own dry run against the cluster as it is. Values of Secrets are never
shown. Nothing is changed. It takes the flags of "start".

The exit status is 1 when the API server would refuse something.`,
		Example: `  tidegate rollout plan shop -f k8s/ -n production
  tidegate rollout plan shop --kustomize k8s/overlays/production
  tidegate rollout plan shop -f k8s/ --canary 10:1m --canary 50:2m -o json`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			controller, target, err := f.target(args)
			if err != nil {
				return err
			}
			request, err := release.request(cmd.Context(), controller, target, f.by)
			if err != nil {
				return err
			}
			plan, err := controller.Plan(cmd.Context(), request)
			if err != nil {
				return rolloutError(err)
			}
			if err := printOutput(cmd.OutOrStdout(), output, plan, func(w io.Writer) { printPlan(w, plan) }); err != nil {
				return err
			}
			if plan.Refused() {
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	release.register(command)
	outputFlag(command, &output)
	return command
}

func printPlan(w io.Writer, p *rollout.Plan) {
	if p.Unchanged {
		fmt.Fprintf(w, "%s: revision %d has this very release and serves already: nothing would be done\n", p.App, p.Revision)
		return
	}
	over := "over nothing that is verified"
	if p.Base != 0 {
		over = fmt.Sprintf("over revision %d", p.Base)
	}
	fmt.Fprintf(w, "%s in namespace %s: revision %d, %s, %s; at least %s, and the time that pods need to start\n",
		p.App, p.Namespace, p.Revision, p.Strategy.Kind, over, p.Earliest)
	if p.Supersedes != 0 {
		fmt.Fprintf(w, "revision %d is under way and would make way first\n", p.Supersedes)
	}
	if p.Held != "" {
		fmt.Fprintln(w, termtext.Clean(p.Held))
	}
	if p.Note != "" {
		fmt.Fprintln(w, "note: "+termtext.Clean(p.Note))
	}
	for _, step := range p.Steps {
		name := string(step.State)
		if step.Step > 0 {
			name = fmt.Sprintf("%s step %d", name, step.Step)
		}
		if step.Wave > 0 {
			name += fmt.Sprintf(" of wave %d", step.Wave)
		}
		fmt.Fprintf(w, "\n%s, after %s\n", name, step.After)
		for _, what := range step.What {
			fmt.Fprintln(w, "  "+termtext.Clean(what))
		}
		printWrites(w, step.Writes)
		for _, gate := range step.Gates {
			fmt.Fprintln(w, "  gate: "+termtext.Clean(gate))
		}
	}
	if p.Refused() {
		fmt.Fprintln(w, "\nthe API server would refuse some of it as things are")
	}
}

func printWrites(w io.Writer, writes []rollout.PlannedWrite) {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, write := range writes {
		note := write.Note
		if write.Refused != "" {
			note = "refused: " + write.Refused
		}
		row := strings.TrimRight(fmt.Sprintf("  %s\t%s\t%s", write.Verb, termtext.Clean(write.Kind+"/"+write.Name), termtext.Clean(note)), "\t")
		fmt.Fprintln(table, row)
		for _, change := range write.Changes {
			if ownMark(change) {
				continue
			}
			fmt.Fprintf(table, "  \t  %s: %s → %s\n", termtext.Clean(change.Path), shownValue(change.Before), shownValue(change.After))
		}
	}
	_ = table.Flush()
}

// ownMark tells whether a change is one that every write makes.
func ownMark(change manifest.Change) bool {
	return strings.Contains(change.Path, traffic.Annotation) || strings.Contains(change.Path, manifest.AnnotationRevision) || strings.Contains(change.Path, manifest.AnnotationRelease)
}
