package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tidegate-ci/tidegate/internal/api"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

const (
	defaultServer = "http://127.0.0.1:8080"
	// completionTimeout is what a person who pressed the tab key waits for.
	completionTimeout = time.Second
	maxTokenFileBytes = 4096
)

func newRunsCommand() *cobra.Command {
	connection := &serverConnection{getenv: os.Getenv}
	command := &cobra.Command{
		Use:   "runs",
		Short: "See and steer the runs of a server",
		Long: `See and steer the runs of a server.

The server is given by --server or TIDEGATE_SERVER, the token that says who you
are by TIDEGATE_TOKEN, --token-file or --token. The first start of a server
writes a token for its admin to the file admin-token in its data directory.

A run may be named by the beginning of its id, if no other begins so.`,
		Example: `  tidegate runs list --status failed
  tidegate runs show 01JT --watch
  tidegate runs logs 01JT --stage unit --follow`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	flags := command.PersistentFlags()
	flags.StringVar(&connection.server, "server", "", "address of the server (TIDEGATE_SERVER; default "+defaultServer+")")
	flags.StringVar(&connection.token, "token", "", "token; others on this machine can see it, so prefer TIDEGATE_TOKEN or --token-file")
	flags.StringVar(&connection.tokenFile, "token-file", "", "file that holds the token (TIDEGATE_TOKEN_FILE)")
	command.AddCommand(
		newRunsListCommand(connection),
		newRunsShowCommand(connection),
		newRunsLogsCommand(connection),
		newRunsCancelCommand(connection),
		newRunsDecideCommand(connection, true),
		newRunsDecideCommand(connection, false),
		newRunsRerunCommand(connection),
		newRunsStartCommand(connection),
	)
	return command
}

// serverConnection is which server to talk to, and as whom.
type serverConnection struct {
	server, token, tokenFile string
	getenv                   func(string) string
}

func (s *serverConnection) client() (*api.Client, error) {
	server := cmp.Or(s.server, s.getenv("TIDEGATE_SERVER"), defaultServer)
	token, err := s.secret()
	if err != nil {
		return nil, err
	}
	return api.NewClient(server, token)
}

// secret is the token: flags before the environment, and of each the value
// before the file. Empty when none is set.
func (s *serverConnection) secret() (string, error) {
	switch {
	case s.token != "" && s.tokenFile != "":
		return "", usageErrorf("--token and --token-file exclude each other")
	case s.token != "":
		return s.token, nil
	case s.tokenFile != "":
		return readTokenFile(s.tokenFile)
	case s.getenv("TIDEGATE_TOKEN") != "":
		return strings.TrimSpace(s.getenv("TIDEGATE_TOKEN")), nil
	case s.getenv("TIDEGATE_TOKEN_FILE") != "":
		return readTokenFile(s.getenv("TIDEGATE_TOKEN_FILE"))
	}
	return "", nil
}

func readTokenFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", usageErrorf("reading the token: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxTokenFileBytes+1))
	if err != nil {
		return "", usageErrorf("reading the token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(data) > maxTokenFileBytes || strings.ContainsAny(token, " \t\r\n") {
		return "", usageErrorf("%s does not hold a token: it should be one word", path)
	}
	return token, nil
}

// completeRuns offers ids of runs that keep lets through.
func (s *serverConnection) completeRuns(keep func(journal.Status) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(args) > 0 {
			return nil, none
		}
		client, err := s.client()
		if err != nil {
			return nil, none
		}
		ctx, cancel := completionContext(cmd)
		defer cancel()
		runs, err := client.List(ctx, journal.Filter{Limit: 100})
		if err != nil {
			return nil, none
		}
		var ids []string
		for _, run := range runs {
			if keep == nil || keep(run.Status) {
				ids = append(ids, cobra.CompletionWithDesc(run.ID, fmt.Sprintf("%s %s %s", run.Pipeline, shortRefName(run.Ref), run.Status)))
			}
		}
		return ids, none | cobra.ShellCompDirectiveKeepOrder
	}
}

// completeStages offers the stages of the run that id names.
func (s *serverConnection) completeStages(cmd *cobra.Command, id string, keep func(journal.StageState) bool) []string {
	client, err := s.client()
	if err != nil {
		return nil
	}
	ctx, cancel := completionContext(cmd)
	defer cancel()
	run, err := client.Run(ctx, id)
	if err != nil {
		return nil
	}
	var ids []string
	for _, stage := range run.State.Stages {
		if keep == nil || keep(stage) {
			ids = append(ids, cobra.CompletionWithDesc(stage.ID, string(stage.Status)))
		}
	}
	return ids
}

func completionContext(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	return context.WithTimeout(ctx, completionTimeout)
}

// oneRun is cobra.ExactArgs(1) with a message that helps.
func oneRun(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageErrorf("name one run by its id: 'tidegate runs list' shows them")
	}
	return nil
}

// tellReconnecting says on stderr why nothing moves, once a cut.
func tellReconnecting(w io.Writer) func(error, time.Duration) {
	return func(err error, wait time.Duration) {
		fmt.Fprintf(w, "tidegate: %v; trying again in %s\n", err, wait.Round(100*time.Millisecond))
	}
}

// outcome is what the end of a run means for the exit code.
func outcome(status journal.Status) error {
	switch status {
	case journal.Succeeded, journal.Skipped:
		return nil
	case journal.Refused:
		return &exitError{code: exitRefused}
	case journal.Cancelled:
		return &exitError{code: exitCancelled}
	case journal.Failed:
		return &exitError{code: exitFailed}
	}
	return nil // not over yet: nothing went wrong so far
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// cancelledByUser tells an interrupt of the watcher, which ends only the watching.
func cancelledByUser(ctx context.Context, err error) bool {
	return errors.Is(err, context.Canceled) && ctx.Err() != nil
}

func isActive(status journal.Status) bool { return !status.Final() }

func statusNames() []string {
	names := make([]string, 0, len(api.Statuses))
	for _, status := range api.Statuses {
		names = append(names, string(status))
	}
	return names
}

func parseStatuses(names []string) ([]journal.Status, error) {
	var statuses []journal.Status
	for _, name := range names {
		if !slices.Contains(statusNames(), name) {
			return nil, usageErrorf("unknown status %q: use %s", name, strings.Join(statusNames(), ", "))
		}
		statuses = append(statuses, journal.Status(name))
	}
	return statuses, nil
}
