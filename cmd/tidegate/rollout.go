package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegate-ci/tidegate/rollout"
)

// clusterFlags choose a cluster and a namespace, as kubectl does.
type clusterFlags struct {
	kubeconfig, context, namespace string
	by                             string
}

func (f *clusterFlags) register(command *cobra.Command) {
	flags := command.PersistentFlags()
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, then ~/.kube/config)")
	flags.StringVar(&f.context, "context", "", "context of the kubeconfig (default: its current one)")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "namespace (default: that of the context)")
	flags.StringVar(&f.by, "by", defaultActor(), "who asks, for the record")
}

func defaultActor() string {
	if name := os.Getenv("TIDEGATE_ACTOR"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// cliPatience is how long a person is made to wait for an API server that does not answer.
const cliPatience = 30 * time.Second

func (f *clusterFlags) controller() (*rollout.Controller, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: f.context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, "", usageErrorf("reading the kubeconfig: %w; name one with --kubeconfig", err)
	}
	namespace := f.namespace
	if namespace == "" {
		if namespace, _, err = loader.Namespace(); err != nil {
			return nil, "", usageErrorf("reading the kubeconfig: %w", err)
		}
	}
	controller, err := rollout.New(rollout.Cluster{Config: config}, rollout.Options{Patience: cliPatience, PrivateWebhooks: true})
	return controller, namespace, err
}

func (f *clusterFlags) target(args []string) (*rollout.Controller, rollout.Target, error) {
	controller, namespace, err := f.controller()
	return controller, rollout.Target{App: args[0], Namespace: namespace}, err
}

// complete offers the applications of the namespace.
func (f *clusterFlags) complete(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	controller, namespace, err := f.controller()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	records, err := controller.List(ctx, namespace)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, record := range records {
		names = append(names, record.App)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func newRolloutCommand() *cobra.Command {
	f := &clusterFlags{}
	command := &cobra.Command{
		Use:   "rollout",
		Short: "Roll releases out, look at them, take them back",
		Long: `Rolls an application's manifests out into a namespace and promotes them only
through passing gates. All state is in the cluster: every command works with a
kubeconfig alone, whether or not a Tidegate server runs.`,
		Example: `  tidegate rollout status shop -n shop --watch
  tidegate rollout promote shop -n shop
  tidegate rollout rollback shop -n shop`,
	}
	f.register(command)
	command.AddCommand(newRolloutStartCommand(f), newRolloutStatusCommand(f), newRolloutHistoryCommand(f), newRolloutPromoteCommand(f),
		newRolloutPauseCommand(f), newRolloutResumeCommand(f), newRolloutAbortCommand(f), newRolloutRollbackCommand(f),
		newRolloutPlanCommand(f), newRolloutApproveCommand(f), newRolloutRejectCommand(f), newRolloutOverrideCommand(f),
		newRolloutPromoteToCommand(f), newRolloutRetryCommand(f), newRolloutRestartCommand(f), newRolloutDiffCommand(f), newRolloutForgetCommand(f),
		newRolloutExplainCommand())
	return command
}

func newRolloutPromoteCommand(f *clusterFlags) *cobra.Command {
	var full bool
	command := &cobra.Command{
		Use: "promote APP", Short: "Let the canary's present step pass, by your word",
		Long: `Ends the present step of a canary as passed and records who said so. The stable
workload's own health gate at the end is not skipped.

If the process that drove the rollout is gone, this one drives it to its end.`,
		Example: "  tidegate rollout promote shop -n production\n  tidegate rollout promote shop --full",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.ask(cmd, args, func(ctx context.Context, c *rollout.Controller, t rollout.Target, see func(rollout.Progress)) (rollout.Reply, error) {
				return c.Promote(ctx, t, f.by, full, see)
			})
		},
	}
	command.Flags().BoolVar(&full, "full", false, "pass all steps that are left")
	return command
}

func newRolloutPauseCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use: "pause APP", Short: "Hold a rollout where it is",
		Long: `Holds a rollout where it is until "resume". Pods are still judged meanwhile: a
release that fails is taken back all the same. No deadline runs.`,
		Example: "  tidegate rollout pause shop -n production",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.ask(cmd, args, func(ctx context.Context, c *rollout.Controller, t rollout.Target, see func(rollout.Progress)) (rollout.Reply, error) {
				return c.Pause(ctx, t, f.by, see)
			})
		},
	}
}

func newRolloutResumeCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use: "resume APP", Short: "Go on after a pause, or after the process that drove a rollout died",
		Example: "  tidegate rollout resume shop -n production",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.ask(cmd, args, func(ctx context.Context, c *rollout.Controller, t rollout.Target, see func(rollout.Progress)) (rollout.Reply, error) {
				return c.Resume(ctx, t, f.by, see)
			})
		},
	}
}

func newRolloutAbortCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use: "abort APP", Short: "Take the release that is under way back",
		Long: `Ends the rollout under way and returns to the revision that it started from. A
canary is removed; the stable workload is written to only if the release had
begun to replace it.`,
		Example: "  tidegate rollout abort shop -n production",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.ask(cmd, args, func(ctx context.Context, c *rollout.Controller, t rollout.Target, see func(rollout.Progress)) (rollout.Reply, error) {
				return c.Abort(ctx, t, f.by, see)
			})
		},
	}
}

type asking func(context.Context, *rollout.Controller, rollout.Target, func(rollout.Progress)) (rollout.Reply, error)

func (f *clusterFlags) ask(cmd *cobra.Command, args []string, do asking) error {
	controller, target, err := f.target(args)
	if err != nil {
		return err
	}
	reply, err := do(cmd.Context(), controller, target, printProgress(cmd))
	if reply.Accepted {
		fmt.Fprintln(cmd.OutOrStdout(), target.App+": "+reply.Message)
	}
	if err != nil {
		return rolloutError(err)
	}
	return nil
}

func newRolloutRollbackCommand(f *clusterFlags) *cobra.Command {
	var to int
	var force bool
	command := &cobra.Command{
		Use: "rollback APP", Short: "Return to an earlier verified revision, configuration and images together",
		Long: `Applies an earlier verified revision again, whole. Without --to that is the one
before the present one; while a rollout is under way, it is the one that it
started from. "history" lists the revisions.

An environment's settings may bound how far back it may go (rollback-window);
--force goes further, and the record says so.`,
		Example: "  tidegate rollout rollback shop -n production\n  tidegate rollout rollback shop --to 12",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			if to < 0 {
				return usageErrorf("--to %d: revisions count from 1", to)
			}
			controller, target, err := f.target(args)
			if err != nil {
				return err
			}
			back := controller.Rollback
			if force {
				back = controller.ForceRollback
			}
			result, err := back(cmd.Context(), target, to, f.by, printProgress(cmd))
			if err != nil {
				return rolloutError(err)
			}
			if result.Unchanged {
				fmt.Fprintf(cmd.OutOrStdout(), "%s: revision %d serves already\n", target.App, result.Rollout.Revision)
				return nil
			}
			fmt.Fprintln(cmd.OutOrStdout(), target.App+": "+result.Rollout.Sentence())
			return nil
		},
	}
	command.Flags().IntVar(&to, "to", 0, "revision to return to (default: the verified one before)")
	command.Flags().BoolVar(&force, "force", false, "go back further than the environment's rollback window allows")
	return command
}

// rolloutError gives err the exit code that its kind asks for.
func rolloutError(err error) error {
	switch {
	case errors.Is(err, rollout.ErrInvalid), errors.Is(err, rollout.ErrNotFound):
		return &exitError{code: exitUsage, err: err}
	case errors.Is(err, rollout.ErrRefused):
		return &exitError{code: exitRefused, err: err}
	case errors.Is(err, rollout.ErrSuperseded), errors.Is(err, rollout.ErrAborted), errors.Is(err, context.Canceled):
		return &exitError{code: exitCancelled, err: err}
	}
	return &exitError{code: exitFailed, err: err}
}
