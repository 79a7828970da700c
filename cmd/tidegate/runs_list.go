package main

import (
	"encoding/json"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/internal/progress"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

func newRunsListCommand(connection *serverConnection) *cobra.Command {
	var filter journal.Filter
	var statuses []string
	var output string
	var watch bool
	command := &cobra.Command{
		Use:   "list",
		Short: "List runs, newest first",
		Long: `List runs, newest first.

With --watch the list is kept up to date on a terminal; elsewhere a line is
printed for each run that changed, or a JSON document a line with -o json.`,
		Example: `  tidegate runs list
  tidegate runs list --repository octo/shop --status failed,refused --limit 5
  tidegate runs list --status running,waiting --watch
  tidegate runs list -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			var err error
			if filter.Status, err = parseStatuses(statuses); err != nil {
				return err
			}
			client, err := connection.client()
			if err != nil {
				return err
			}
			if watch {
				return watchList(cmd, client, filter, output)
			}
			runs, err := client.List(cmd.Context(), filter)
			if err != nil {
				return err
			}
			if output != "table" {
				return printDocument(cmd.OutOrStdout(), output, runs)
			}
			if len(runs) == 0 {
				cmd.PrintErrln("no runs")
				return nil
			}
			return printLines(cmd.OutOrStdout(), tableLines(0, runRows(runs, time.Now())))
		},
	}
	flags := command.Flags()
	flags.StringVar(&filter.Repository, "repository", "", "only runs of this repository, such as octo/shop")
	flags.StringVar(&filter.Pipeline, "pipeline", "", "only runs of this pipeline")
	flags.StringSliceVar(&statuses, "status", nil, "only runs in these statuses")
	flags.IntVar(&filter.Limit, "limit", 20, "at most this many, up to 1000")
	flags.StringVarP(&output, "output", "o", "table", "output format: table, json or yaml")
	flags.BoolVarP(&watch, "watch", "w", false, "go on showing changes")
	completeFlag(command, "status", statusNames())
	completeFlag(command, "output", []string{"table", "json", "yaml"})
	return command
}

// completeFlag offers fixed values for a flag.
func completeFlag(command *cobra.Command, name string, values []string) {
	err := command.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // the flag's name is wrong, which every test would see
	}
}

var runHeading = []string{"ID", "PIPELINE", "REPOSITORY", "REF", "COMMIT", "STATUS", "TIME", "AGE", "MESSAGE"}

func runRows(runs []journal.Summary, now time.Time) [][]string {
	rows := [][]string{runHeading}
	for _, run := range runs {
		rows = append(rows, runRow(run, now))
	}
	return rows
}

func runRow(run journal.Summary, now time.Time) []string {
	took := ""
	if !run.Started.IsZero() {
		end := run.Finished
		if end.IsZero() {
			end = now
		}
		took = progress.Duration(end.Sub(run.Started))
	}
	return []string{
		run.ID, run.Pipeline, run.Repository, shortRefName(run.Ref), shortHash(run.Commit),
		string(run.Status), took, age(now.Sub(run.Created)),
		reasonText(string(run.Status), run.Cause, run.Message),
	}
}

func watchList(cmd *cobra.Command, client *api.Client, filter journal.Filter, output string) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	show, end := listPrinter(out, output)
	err := client.FollowList(ctx, filter, tellReconnecting(cmd.ErrOrStderr()), show)
	if endErr := end(); err == nil || cancelledByUser(ctx, err) {
		err = endErr
	}
	return err
}

// listPrinter shows lists that follow each other, as out and output want it.
func listPrinter(out io.Writer, output string) (show func([]journal.Summary) error, end func() error) {
	noEnd := func() error { return nil }
	switch {
	case output == "json":
		encoder := json.NewEncoder(out)
		return func(runs []journal.Summary) error { return encoder.Encode(runs) }, noEnd
	case output == "yaml":
		return func(runs []journal.Summary) error {
			if _, err := io.WriteString(out, "---\n"); err != nil {
				return err
			}
			return printDocument(out, output, runs)
		}, noEnd
	case !isTerminal(out):
		last := map[string]journal.Summary{}
		return func(runs []journal.Summary) error {
			var rows [][]string
			for i := len(runs) - 1; i >= 0; i-- { // in the order they happened
				if last[runs[i].ID] != runs[i] {
					rows = append(rows, runRow(runs[i], time.Now()))
				}
			}
			clear(last)
			for _, run := range runs {
				last[run.ID] = run
			}
			if len(rows) == 0 {
				return nil
			}
			return printLines(out, tableLines(0, rows))
		}, noEnd
	}
	_, options := progress.Detect(out, progress.TTY, os.Getenv)
	live := &liveList{screen: progress.Screen{W: out, Size: options.Size}, now: time.Now, stop: make(chan struct{})}
	ticker := time.NewTicker(time.Second) // what runs gets older
	live.ended.Go(func() {
		defer ticker.Stop()
		live.redraw(ticker.C)
	})
	return live.show, live.close
}

// liveList is a list redrawn in place when it changed and with each tick.
type liveList struct {
	mu     sync.Mutex
	screen progress.Screen
	runs   []journal.Summary
	now    func() time.Time
	stop   chan struct{}
	ended  sync.WaitGroup
}

func (l *liveList) show(runs []journal.Summary) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs = runs
	l.screen.Draw(l.lines())
	return nil
}

func (l *liveList) redraw(ticks <-chan time.Time) {
	for {
		select {
		case <-l.stop:
			return
		case <-ticks:
			l.mu.Lock()
			if l.runs != nil {
				l.screen.Draw(l.lines())
			}
			l.mu.Unlock()
		}
	}
}

func (l *liveList) lines() []string {
	width, height := l.screen.Size()
	lines := tableLines(max(width-1, 1), runRows(l.runs, l.now()))
	return lines[:min(len(lines), max(height-1, 1))]
}

func (l *liveList) close() error {
	close(l.stop)
	l.ended.Wait()
	if l.runs == nil {
		return l.screen.Close(nil)
	}
	return l.screen.Close(l.lines())
}
