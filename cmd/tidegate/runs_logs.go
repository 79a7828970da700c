package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/internal/termtext"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

func newRunsLogsCommand(connection *serverConnection) *cobra.Command {
	var stage string
	var follow, timestamps, raw bool
	command := &cobra.Command{
		Use:   "logs ID",
		Short: "Print the log of a run",
		Long: `Print the log of a run, or of one stage of it.

Escape sequences and control characters are taken out, so that a log can't play
tricks on your terminal; --raw prints every byte as it was written.`,
		Example: `  tidegate runs logs 01JT
  tidegate runs logs 01JT --stage unit --follow
  tidegate runs logs 01JT --stage "unit (race=true)" --timestamps`,
		Args:              oneRun,
		ValidArgsFunction: connection.completeRuns(nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := connection.client()
			if err != nil {
				return err
			}
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			run, err := client.Run(ctx, args[0])
			if err != nil {
				return err
			}
			options := api.StreamOptions{
				// No entries: only lines are wanted.
				AfterEntry: run.State.Seq, Stage: stage, Follow: follow,
				Reconnecting: tellReconnecting(cmd.ErrOrStderr()),
			}
			named := !isStage(run, stage)
			_, err = client.Stream(ctx, run.ID, options, func(item api.StreamItem) error {
				if item.Line == nil {
					return nil
				}
				return printLogLine(out, *item.Line, named, timestamps, raw)
			})
			if cancelledByUser(ctx, err) {
				return &exitError{code: exitCancelled}
			}
			return err
		},
	}
	flags := command.Flags()
	flags.StringVar(&stage, "stage", "", "only this stage; the name alone means all parts of its matrix")
	flags.BoolVarP(&follow, "follow", "f", false, "go on until the run ends")
	flags.BoolVar(&timestamps, "timestamps", false, "put the time, in UTC, before each line")
	flags.BoolVar(&raw, "raw", false, "print lines as they were written")
	err := command.RegisterFlagCompletionFunc("stage", func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return connection.completeStages(cmd, args[0], nil), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(errors.Join(errors.New("completion of --stage"), err))
	}
	return command
}

// isStage tells whether name is the whole id of a stage, so that lines need no name.
func isStage(run api.Run, name string) bool {
	for i := range run.State.Stages {
		if run.State.Stages[i].ID == name {
			return true
		}
	}
	return false
}

func printLogLine(w io.Writer, line journal.Line, named, timestamps, raw bool) error {
	prefix := ""
	if timestamps {
		prefix = line.Time.UTC().Format("2006-01-02T15:04:05.000Z ")
	}
	if named {
		prefix += termtext.Clean(line.Stage) + " | "
	}
	text := line.Text
	if !raw {
		text = termtext.Clean(text)
	}
	_, err := fmt.Fprintf(w, "%s%s\n", prefix, text)
	return err
}
