package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

func newRunsCancelCommand(connection *serverConnection) *cobra.Command {
	var reason string
	command := &cobra.Command{
		Use:   "cancel ID",
		Short: "Ask a run to stop",
		Long: `Ask a run to stop. Its stages are given the time to clean up; a deploy that is
under way goes back to the release before it. Asking again does no harm.`,
		Example:           `  tidegate runs cancel 01JT --reason "wrong branch"`,
		Args:              oneRun,
		ValidArgsFunction: connection.completeRuns(isActive),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := connection.client()
			if err != nil {
				return err
			}
			done, err := client.Cancel(cmd.Context(), args[0], reason)
			if err != nil {
				return err
			}
			text := "asked run %s to stop\n"
			if !done.Changed {
				text = "run %s was asked to stop already\n"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), text, done.RunID)
			return err
		},
	}
	command.Flags().StringVar(&reason, "reason", "", "why, for those who look at the run")
	return command
}

// newRunsDecideCommand makes approve, or its opposite.
func newRunsDecideCommand(connection *serverConnection, approved bool) *cobra.Command {
	verb, past, short := "approve", "approved", "Let a run pass a stage that asks for approval"
	if !approved {
		verb, past, short = "reject", "rejected", "Refuse a run at a stage that asks for approval"
	}
	var comment string
	command := &cobra.Command{
		Use:   verb + " ID [STAGE]",
		Short: short,
		Long: short + `.

Without STAGE, the one stage that waits for an answer is meant: an approval, or a
deploy whose rollout waits at an approval gate. Who may answer is said in the
pipeline file or in the environment's settings; the server knows you by your token.`,
		Example: "  tidegate runs " + verb + " 01JT\n  tidegate runs " + verb + ` 01JT production --comment "seen on staging"`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usageErrorf("name a run, and a stage if several wait: tidegate runs %s ID [STAGE]", verb)
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			switch len(args) {
			case 0:
				return connection.completeRuns(isActive)(cmd, args, prefix)
			case 1:
				return connection.completeStages(cmd, args[0], mayWait), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := connection.client()
			if err != nil {
				return err
			}
			var stage string
			if len(args) == 2 {
				stage = args[1]
			} else {
				run, err := client.Run(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if stage, err = waitingApproval(run); err != nil {
					return err
				}
			}
			done, err := client.Decide(cmd.Context(), args[0], stage, api.DecisionRequest{Approved: approved, Comment: comment})
			if err != nil {
				return err
			}
			already := ""
			if !done.Changed {
				already = " already"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s of run %s is %s%s\n", done.Stage, done.RunID, past, already)
			return err
		},
	}
	command.Flags().StringVar(&comment, "comment", "", "why, for those who look at the run")
	return command
}

// mayWait tells whether a stage may be answered: an open approval, or a deploy
// whose rollout may have one.
func mayWait(stage journal.StageState) bool {
	return isOpenApproval(stage) || stage.Kind == pipeline.KindDeploy && stage.Status == journal.Running
}

func isOpenApproval(stage journal.StageState) bool {
	return stage.Kind == pipeline.KindApprove && !stage.Status.Final()
}

// waitingApproval is the stage meant when none was named: the one that waits.
func waitingApproval(run api.Run) (string, error) {
	var waiting, open, deploying []string
	for _, stage := range run.State.Stages {
		if stage.Kind == pipeline.KindDeploy && stage.Status == journal.Running {
			deploying = append(deploying, stage.ID)
		}
		if isOpenApproval(stage) {
			open = append(open, stage.ID)
			if stage.Status == journal.Waiting {
				waiting = append(waiting, stage.ID)
			}
		}
	}
	switch {
	case len(waiting) == 1:
		return waiting[0], nil
	case len(waiting) > 1:
		return "", usageErrorf("several stages of run %s wait for approval; name one: %s", run.ID, strings.Join(waiting, ", "))
	case len(deploying) == 1:
		return deploying[0], nil // a gate of its rollout may wait
	case len(deploying) > 1:
		return "", usageErrorf("several stages of run %s roll out, and a gate of theirs may wait; name one: %s", run.ID, strings.Join(deploying, ", "))
	case len(open) > 0:
		return "", usageErrorf("no stage of run %s waits for approval yet; to answer ahead, name one: %s", run.ID, strings.Join(open, ", "))
	}
	return "", &exitError{code: exitRefused, err: fmt.Errorf("no stage of run %s waits for approval: the run is %s", run.ID, run.Status)}
}

func newRunsRerunCommand(connection *serverConnection) *cobra.Command {
	var fromFailed, watch bool
	var mode string
	command := &cobra.Command{
		Use:   "rerun ID",
		Short: "Run a finished run's plan once more, as a new run",
		Example: `  tidegate runs rerun 01JT
  tidegate runs rerun 01JT --from-failed --watch`,
		Args:              oneRun,
		ValidArgsFunction: connection.completeRuns(journal.Status.Final),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := connection.client()
			if err != nil {
				return err
			}
			id, err := client.Rerun(cmd.Context(), args[0], fromFailed)
			if err != nil {
				return err
			}
			return started(cmd, client, []string{id}, watch, mode)
		},
	}
	command.Flags().BoolVar(&fromFailed, "from-failed", false, "keep what succeeded; begin with the stages that did not")
	addWatchFlags(command, &watch, &mode)
	return command
}

func newRunsStartCommand(connection *serverConnection) *cobra.Command {
	var request api.StartRequest
	var inputs []string
	var watch bool
	var mode string
	command := &cobra.Command{
		Use:   "start --repository OWNER/NAME",
		Short: "Start a pipeline by hand",
		Long: `Start a pipeline by hand: one that has 'manual' in its 'on' section. Without
--pipeline, all such pipelines of the repository start.`,
		Example: `  tidegate runs start --repository octo/shop --pipeline release --ref main --input version=1.4.0 --watch`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if request.Repository == "" {
				return usageErrorf("name the repository with --repository owner/name")
			}
			var err error
			if request.Inputs, err = parseInputs(inputs); err != nil {
				return err
			}
			client, err := connection.client()
			if err != nil {
				return err
			}
			ids, err := client.Start(cmd.Context(), request)
			if err != nil {
				return err
			}
			return started(cmd, client, ids, watch, mode)
		},
	}
	flags := command.Flags()
	flags.StringVar(&request.Repository, "repository", "", "the repository, such as octo/shop")
	flags.StringVar(&request.Pipeline, "pipeline", "", "the pipeline's name; empty means all that can be started by hand")
	flags.StringVar(&request.Ref, "ref", "", "branch, tag or commit; empty means the default branch")
	flags.StringArrayVar(&inputs, "input", nil, "an input as name=value; may be repeated")
	addWatchFlags(command, &watch, &mode)
	return command
}

func parseInputs(pairs []string) (map[string]string, error) {
	inputs := map[string]string{}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usageErrorf("--input %q is not like name=value", pair)
		}
		if _, twice := inputs[name]; twice {
			return nil, usageErrorf("--input %s is given twice", name)
		}
		inputs[name] = value
	}
	return inputs, nil
}

// started prints the ids of new runs, or watches the one there is.
func started(cmd *cobra.Command, client *api.Client, ids []string, watch bool, mode string) error {
	switch {
	case len(ids) == 0:
		return &exitError{code: exitRefused, err: errors.New("nothing was started: no pipeline of the repository allows it by hand")}
	case watch && len(ids) == 1:
		return watchRun(cmd, client, ids[0], mode)
	}
	if err := printLines(cmd.OutOrStdout(), ids); err != nil {
		return err
	}
	if watch {
		return usageErrorf("%d runs were started; watch one of them with: tidegate runs show ID --watch", len(ids))
	}
	return nil
}
