package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tidegate-ci/tidegate/rollout"
)

func newRolloutStatusCommand(f *clusterFlags) *cobra.Command {
	var output string
	var watch bool
	command := &cobra.Command{
		Use: "status [APP]", Short: "Show how a rollout stands; without APP, all of the namespace",
		Example: "  tidegate rollout status -n production\n  tidegate rollout status shop --watch\n  tidegate rollout status shop -o json",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			controller, namespace, err := f.controller()
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if len(args) == 0 {
				records, err := controller.List(cmd.Context(), namespace)
				if err != nil {
					return rolloutError(err)
				}
				return printOutput(out, output, records, func(w io.Writer) { printRecords(w, records) })
			}
			target := rollout.Target{App: args[0], Namespace: namespace}
			if !watch {
				record, owner, err := controller.Status(cmd.Context(), target)
				if err != nil {
					return rolloutError(err)
				}
				return printOutput(out, output, record, func(w io.Writer) { printRecord(w, record, owner) })
			}
			var printing error
			err = controller.Watch(cmd.Context(), target, func(record *rollout.Record) bool {
				printing = printOutput(out, output, record, func(w io.Writer) { printChange(w, record) })
				return printing == nil && record.Live()
			})
			if err == nil {
				err = printing
			}
			if err != nil {
				return rolloutError(err)
			}
			return nil
		},
	}
	outputFlag(command, &output)
	command.Flags().BoolVarP(&watch, "watch", "w", false, "print every change until the rollout has ended")
	return command
}

func newRolloutHistoryCommand(f *clusterFlags) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "history APP", Short: "List the revisions of an application: who, what, why, and how it went",
		Example: "  tidegate rollout history shop -n production\n  tidegate rollout history shop -o json",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			controller, target, err := f.target(args)
			if err != nil {
				return err
			}
			rollouts, err := controller.History(cmd.Context(), target)
			if err != nil {
				return rolloutError(err)
			}
			return printOutput(cmd.OutOrStdout(), output, rollouts, func(w io.Writer) { printHistory(w, rollouts) })
		},
	}
	outputFlag(command, &output)
	return command
}

func printOutput(w io.Writer, format string, value any, table func(io.Writer)) error {
	switch format {
	case "table", "":
		table(w)
		return nil
	case "json":
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case "yaml":
		encoded, err := yaml.Marshal(value)
		if err != nil {
			return err
		}
		_, err = w.Write(encoded)
		return err
	}
	return usageErrorf("unknown output format %q: use table, json or yaml", format)
}

// printable takes control characters out of text that came from the cluster:
// it must not steer the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
}

func printProgress(cmd *cobra.Command) func(rollout.Progress) {
	w := cmd.ErrOrStderr()
	start := time.Now()
	return func(p rollout.Progress) {
		fmt.Fprintf(w, "%6.1fs  %-12s %s\n", time.Since(start).Seconds(), p.State, printable(p.Message))
	}
}

func printFailure(w io.Writer, failure *rollout.Failure) {
	if failure == nil || len(failure.Log) == 0 {
		return
	}
	if failure.Container == nil {
		fmt.Fprintln(w, "last lines of the Job that failed:")
		for _, line := range failure.Log {
			fmt.Fprintln(w, "  "+printable(line))
		}
		return
	}
	fmt.Fprintf(w, "last lines of container %s in pod %s (exit code %d):\n", failure.Container.Name, failure.Container.Pod, failure.Container.ExitCode)
	for _, line := range failure.Log {
		fmt.Fprintln(w, "  "+printable(line))
	}
}

func printRecords(w io.Writer, records []rollout.Record) {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "APP\tREVISION\tSTATE\tVERIFIED\tWHAT")
	for _, record := range records {
		if c := record.Current; c != nil {
			fmt.Fprintf(table, "%s\t%d\t%s\t%d\t%s\n", record.App, c.Revision, stateText(c), record.Verified, printable(c.Sentence()))
		}
	}
	_ = table.Flush()
}

func stateText(r *rollout.Rollout) string {
	if r.Paused {
		return string(r.State) + " (paused)"
	}
	return string(r.State)
}

func printRecord(w io.Writer, record *rollout.Record, owner string) {
	c := record.Current
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	row := func(key, value string) {
		if value != "" {
			fmt.Fprintf(table, "%s\t%s\n", key, printable(value))
		}
	}
	row("application", record.App+" in namespace "+record.Namespace)
	if c == nil {
		_ = table.Flush()
		return
	}
	row("now", c.Sentence())
	row("state", stateText(c))
	if record.Live() {
		if owner == "" {
			owner = `nobody: "tidegate rollout resume ` + record.App + `" goes on, "abort" takes it back`
		}
		row("driven by", owner)
	}
	if c.Paused {
		row("paused by", c.PausedBy+" at "+c.PausedAt.Format(time.RFC3339))
	}
	row("verified", fmt.Sprintf("revision %d", record.Verified))
	row("by", c.By)
	row("commit", c.Commit)
	if c.From != nil {
		row("promoted from", c.From.String())
	}
	row("strategy", strategyText(c))
	row("waves", wavesText(c))
	for i := range c.Routes {
		row("traffic", routeText(&c.Routes[i]))
	}
	row("images", strings.Join(c.Images, ", "))
	row("note", c.Note)
	row("freeze overridden", c.Override)
	row("started", c.Started.Format(time.RFC3339))
	if !c.Finished.IsZero() {
		row("took", c.Finished.Sub(c.Started).Round(100*time.Millisecond).String())
	}
	row("path", pathText(c))
	for _, gate := range c.Gates {
		row("gate", gateText(c.Strategy.Kind, gate))
	}
	for _, said := range c.Said {
		row("asked", saidText(said))
	}
	if c.Failure != nil {
		row("reason", string(c.Failure.Reason))
		row("what to do", explained(c.Failure.Reason))
	}
	_ = table.Flush()
	printAnalyses(w, c.Analyses)
	printChecks(w, c.Checks)
	printHooks(w, c.HookRuns)
	printFailure(w, c.Failure)
}

func gateText(kind rollout.StrategyKind, gate rollout.Gate) string {
	what := "workload"
	if gate.Wave > 0 {
		what = fmt.Sprintf("wave %d", gate.Wave)
	}
	switch {
	case gate.Kind == rollout.BatchGate && gate.Wave > 0:
		return fmt.Sprintf("%s, batch %d: passed at %s: %s", what, gate.Step, gate.At.Format(time.TimeOnly), gate.Evidence)
	case gate.Kind == rollout.BatchGate:
		return fmt.Sprintf("batch %d: passed at %s: %s", gate.Step, gate.At.Format(time.TimeOnly), gate.Evidence)
	case kind == rollout.BlueGreenStrategy && gate.Step == 1:
		what = "preview"
	case kind == rollout.BlueGreenStrategy && gate.Step == 2:
		what = "after the switch"
	case gate.Step > 0:
		what = fmt.Sprintf("step %d", gate.Step)
	}
	how := "passed"
	if !gate.Passed {
		how = "did not pass, and is advisory,"
	}
	return fmt.Sprintf("%s, %s: %s at %s: %s", what, gate.Kind, how, gate.At.Format(time.TimeOnly), gate.Evidence)
}

func saidText(said rollout.Said) string {
	how := "refused"
	if said.Accepted {
		how = "accepted"
	}
	return fmt.Sprintf("%s at %s by %s: %s: %s", said.Command, said.At.Format(time.TimeOnly), orSomeone(said.By), how, said.Message)
}

func orSomeone(by string) string {
	if by == "" {
		return "someone unknown"
	}
	return by
}

// wavesText lists what is waited for in each wave.
func wavesText(r *rollout.Rollout) string {
	var waves []string
	for _, wave := range r.Waves {
		var names []string
		for _, ref := range wave {
			names = append(names, ref.Kind+"/"+ref.Name)
		}
		waves = append(waves, strings.Join(names, ", "))
	}
	return strings.Join(waves, "; then ")
}

// strategyText tells how the release is moved, and what that uses besides it.
func strategyText(r *rollout.Rollout) string {
	text := string(r.Strategy.Kind)
	if len(r.Partitioned) > 0 {
		var names []string
		for _, ref := range r.Partitioned {
			names = append(names, ref.Kind+"/"+ref.Name)
		}
		text += ", in batches: " + strings.Join(names, ", ")
	}
	if len(r.Services) > 0 && len(r.Routes) == 0 {
		var names []string
		for _, live := range r.Services {
			names = append(names, fmt.Sprintf("Service/%s (preview: %s)", live.Service.Name, rollout.PreviewTrack.Name(live.Service.Name)))
		}
		text += ", switching " + strings.Join(names, ", ")
	}
	return text
}

// routeText tells what a route gives the canary.
func routeText(l *rollout.LiveRoute) string {
	var names []string
	for _, s := range l.Services {
		names = append(names, "Service/"+rollout.CanaryTrack.Name(s.Service.Name))
	}
	text := fmt.Sprintf("%s/%s: %s to %s", l.Route.Kind, l.Route.Name, l.Told, strings.Join(names, ", "))
	if l.Overwritten > 0 {
		text += fmt.Sprintf("; someone else changed it %d times, which was put right", l.Overwritten)
	}
	return text
}

func printChange(w io.Writer, record *rollout.Record) {
	if c := record.Current; c != nil {
		fmt.Fprintf(w, "%s  %-18s %s\n", time.Now().Format(time.TimeOnly), stateText(c), printable(c.Sentence()))
	}
}

// gatesText counts the gates that were passed, by kind and name in their order.
func gatesText(gates []rollout.Gate) string {
	var kinds []string
	count := map[string]int{}
	for _, gate := range gates {
		if !gate.Passed {
			continue
		}
		if count[gate.Kind]++; count[gate.Kind] == 1 {
			kinds = append(kinds, gate.Kind)
		}
	}
	for i, kind := range kinds {
		if n := count[kind]; n > 1 {
			kinds[i] = fmt.Sprintf("%s ×%d", kind, n)
		}
	}
	return strings.Join(kinds, ", ")
}

// pathText tells how long the rollout was in each state and step.
func pathText(r *rollout.Rollout) string {
	var parts []string
	name, since := string(rollout.Pending), r.Started
	for _, p := range r.Path {
		parts = append(parts, name+" "+p.At.Sub(since).Round(100*time.Millisecond).String())
		if name, since = string(p.State), p.At; p.Step > 0 {
			name += fmt.Sprintf(" %d", p.Step)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(append(parts, name), " → ")
}

func printHistory(w io.Writer, rollouts []rollout.Rollout) {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "REVISION\tSTARTED\tTOOK\tSTATE\tBY\tCOMMIT\tGATES\tWHY")
	for i := range rollouts {
		r := &rollouts[i]
		took, why := "", r.Note
		if !r.Finished.IsZero() {
			took = r.Finished.Sub(r.Started).Round(100 * time.Millisecond).String()
		}
		if r.Failure != nil {
			why = r.Failure.Message
		}
		if r.From != nil && r.Failure == nil {
			why = strings.TrimPrefix(why+"; promoted from "+r.From.String(), "; ")
		}
		fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Revision, r.Started.Format(time.DateTime), took, stateText(r),
			printable(r.By), printable(r.Commit[:min(len(r.Commit), 10)]), printable(gatesText(r.Gates)), printable(why))
	}
	_ = table.Flush()
}
