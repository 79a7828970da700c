package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/internal/progress"
	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

func newRunsShowCommand(connection *serverConnection) *cobra.Command {
	var output, mode string
	var watch bool
	command := &cobra.Command{
		Use:   "show ID",
		Short: "Show one run: its stages, times, causes and approvals",
		Long: `Show one run: its stages, times, causes and approvals.

With --watch the run is followed until it ends, and the exit code tells how:
0 succeeded, 1 failed, 3 refused, 4 cancelled or superseded. Ctrl-C ends only
the watching.`,
		Example: `  tidegate runs show 01JT
  tidegate runs show 01JT --watch
  tidegate runs show 01JT -o json | jq '.state.stages[] | {id, status}'`,
		Args:              oneRun,
		ValidArgsFunction: connection.completeRuns(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			client, err := connection.client()
			if err != nil {
				return err
			}
			run, err := client.Run(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if watch {
				if output == "json" {
					mode = string(progress.JSON)
				}
				return watchRun(cmd, client, run.ID, mode)
			}
			if output != "table" {
				return printDocument(cmd.OutOrStdout(), output, run)
			}
			return printLines(cmd.OutOrStdout(), showLines(run, time.Now()))
		},
	}
	flags := command.Flags()
	flags.StringVarP(&output, "output", "o", "table", "output format: table, json or yaml")
	addWatchFlags(command, &watch, &mode)
	completeFlag(command, "output", []string{"table", "json", "yaml"})
	return command
}

func addWatchFlags(command *cobra.Command, watch *bool, mode *string) {
	command.Flags().BoolVarP(watch, "watch", "w", false, "follow the run until it ends and exit as it did")
	command.Flags().StringVar(mode, "progress", string(progress.Auto), "how to show a run that is watched: "+strings.Join(progress.Modes, ", "))
	completeFlag(command, "progress", progress.Modes)
}

// watchRun follows a run to its end; its outcome is the command's.
func watchRun(cmd *cobra.Command, client *api.Client, id, modeName string) error {
	mode, err := progress.ParseMode(modeName)
	if err != nil {
		return usageErrorf("%w", err)
	}
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	mode, options := progress.Detect(out, mode, os.Getenv)
	renderer := progress.New(out, mode, options)
	streaming := api.StreamOptions{Follow: true}
	if mode != progress.TTY { // there it would land in the middle of the tree
		streaming.Reconnecting = tellReconnecting(cmd.ErrOrStderr())
	}
	end, err := client.Stream(ctx, id, streaming, func(item api.StreamItem) error {
		if item.Entry != nil {
			renderer.Entry(*item.Entry)
		} else {
			renderer.Line(*item.Line)
		}
		return nil
	})
	closeErr := renderer.Close()
	switch {
	case cancelledByUser(ctx, err):
		cmd.PrintErrf("tidegate: no longer watching; the run goes on. Stop it with: tidegate runs cancel %s\n", id)
		return &exitError{code: exitCancelled}
	case err != nil:
		return err
	case closeErr != nil:
		return fmt.Errorf("showing run %s: %w", id, closeErr)
	}
	return outcome(end.Status)
}

func showLines(run api.Run, now time.Time) []string {
	s := &run.State
	fields := [][]string{{"Run", run.ID}, {"Pipeline", run.Pipeline}}
	add := func(name, value string) {
		if value != "" {
			fields = append(fields, []string{name, value})
		}
	}
	add("Repository", run.Repository)
	add("Ref", shortRefName(run.Ref))
	add("Commit", run.Commit)
	add("Event", strings.TrimSuffix(run.Event+" by "+run.Actor, " by "))
	add("Status", string(run.Status))
	add("Reason", reasonText(string(run.Status), run.Cause, run.Message))
	if s.Cancel != nil {
		add("Cancel", strings.TrimSuffix("asked for by "+s.Cancel.By+": "+s.Cancel.Message, ": "))
	}
	add("Created", run.Created.Local().Format(time.DateTime)+" ("+age(now.Sub(run.Created))+" ago)")
	add("Time", runRow(run.Summary, now)[6])
	lines := tableLines(0, fields)

	rows := [][]string{{"STAGE", "KIND", "STATUS", "TRIES", "STARTED", "TIME", "REASON"}}
	for i := range s.Stages {
		rows = append(rows, stageRow(&s.Stages[i], now))
	}
	lines = append(lines, "")
	lines = append(lines, tableLines(0, rows)...)
	return append(lines, approvalLines(run)...)
}

func stageRow(stage *journal.StageState, now time.Time) []string {
	tries, started, took := "", "", ""
	if n := len(stage.Attempts); n > 0 {
		tries = fmt.Sprint(n)
	}
	if !stage.Started.IsZero() {
		started = stage.Started.Local().Format(time.TimeOnly)
		end := stage.Finished
		if end.IsZero() {
			end = now
		}
		took = progress.Duration(end.Sub(stage.Started))
	}
	return []string{
		stage.ID, string(stage.Kind), string(stage.Status), tries, started, took,
		reasonText(string(stage.Status), string(stage.Cause), stage.Message),
	}
}

// reasonText is the cause, unless the status says it already, and the first
// line of the message.
func reasonText(status, cause, message string) string {
	text := termtext.Lines(message)[0]
	switch {
	case cause == "" || cause == status:
		return text
	case text == "":
		return cause
	}
	return cause + ": " + text
}

// approvalLines tells who answered what, and how to answer what is open.
func approvalLines(run api.Run) []string {
	var lines []string
	for i := range run.State.Stages {
		stage := &run.State.Stages[i]
		for _, decision := range stage.Decisions {
			verb := "rejected"
			if decision.Approved {
				verb = "approved"
			}
			lines = append(lines, termtext.Clean(strings.TrimSuffix(fmt.Sprintf("%s %s by %s: %s", stage.ID, verb, decision.By, decision.Comment), ": ")))
		}
		if stage.Kind == pipeline.KindApprove && stage.Status == journal.Waiting && len(stage.Decisions) == 0 {
			from := ""
			if approve := run.State.Plan.Stages[i].Approve; approve != nil && len(approve.From) > 0 {
				from = " from " + strings.Join(approve.From, ", ")
			}
			lines = append(lines, termtext.Clean(fmt.Sprintf("%s waits for approval%s: tidegate runs approve %s %q", stage.ID, from, run.ID, stage.ID)))
		}
	}
	if len(lines) > 0 {
		lines = append([]string{""}, lines...)
	}
	return lines
}
