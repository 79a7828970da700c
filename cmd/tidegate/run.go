package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/internal/local"
	"github.com/tidegate-ci/tidegate/internal/progress"
	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

type runFlags struct {
	file, pipeline       string
	kind, branch         string
	inputs, secrets      []string
	config               string
	kubeconfig, context  string
	namespace            string
	registry             string
	override             string
	yes, dryRun, verbose bool
	progress             string
}

func newRunCommand() *cobra.Command {
	var flags runFlags
	command := &cobra.Command{
		Use:   "run [STAGE…]",
		Short: "Run the pipeline of this working tree, here, with no server",
		Long: `Run plans the pipeline file of the working tree and runs it on this machine, with
uncommitted changes as they are. With stage names, only those and what they need.

The event is a start by hand on the current branch; --event push pretends a push,
so that conditions like event.kind == "push" hold. Deploy stages use the cluster
of --kubeconfig (or KUBECONFIG), unless --config names a settings file with
environments. Build stages push to --registry.`,
		Example: `  tidegate run
  tidegate run unit
  tidegate run --event push --branch main --yes
  tidegate run -f ci/release.yaml --input version=1.2.3`,
		ValidArgsFunction: func(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return stageNames(flags.file), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, stages []string) error {
			return runHere(cmd, flags, stages)
		},
	}
	f := command.Flags()
	f.StringVarP(&flags.file, "file", "f", "", "pipeline file (default: .tidegate.yaml or .tidegate/*.yaml of this folder)")
	f.StringVar(&flags.pipeline, "pipeline", "", "which pipeline, where there are several")
	f.StringVar(&flags.kind, "event", string(event.Manual), "event to pretend: manual, push, pull_request or tag")
	f.StringVar(&flags.branch, "branch", "", "branch to pretend (default: the current one)")
	f.StringArrayVar(&flags.inputs, "input", nil, "NAME=VALUE of a manual input; may repeat")
	f.StringArrayVar(&flags.secrets, "secret", nil, "name of an environment variable that stages see, masked; may repeat")
	f.StringVarP(&flags.config, "config", "c", os.Getenv("TIDEGATE_CONFIG"), "settings file, for its registry and environments")
	f.StringVar(&flags.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "cluster for deploy stages")
	f.StringVar(&flags.context, "context", "", "context in the kubeconfig")
	f.StringVarP(&flags.namespace, "namespace", "n", "default", "namespace for deploy stages")
	f.StringVar(&flags.registry, "registry", os.Getenv("TIDEGATE_REGISTRY"), "where images without a registry host are pushed")
	f.StringVar(&flags.override, "override", "", "why deploys are begun within a freeze window of their environment, for the record")
	f.BoolVarP(&flags.yes, "yes", "y", false, "approve every approval stage")
	f.BoolVar(&flags.dryRun, "dry-run", false, "print what would run, and run nothing")
	f.BoolVarP(&flags.verbose, "verbose", "v", false, "log what the engine does")
	f.StringVar(&flags.progress, "progress", "auto", "auto, tty, plain or json")
	return command
}

func runHere(cmd *cobra.Command, flags runFlags, stages []string) error {
	mode, err := progress.ParseMode(flags.progress)
	if err != nil {
		return usageErrorf("%w", err)
	}
	config, err := localSettings(flags)
	if err != nil {
		return err
	}
	plan, root, err := localPlan(flags, stages)
	if err != nil {
		return err
	}
	addEnvironments(&config, plan, flags)
	if flags.dryRun {
		for _, stage := range plan.Stages {
			fmt.Fprintf(cmd.OutOrStdout(), "%s (%s)\n", stage.ID, stage.Kind)
		}
		return nil
	}
	secrets := map[string]string{}
	for _, name := range flags.secrets {
		if secrets[name], err = (settings.Secret{Env: name}).Value(); err != nil {
			return usageErrorf("secret: %w", err)
		}
	}
	if !flags.yes && slices.ContainsFunc(plan.Stages, func(s pipeline.PlannedStage) bool { return s.Kind == pipeline.KindApprove }) {
		return usageErrorf("this pipeline asks for an approval: pass --yes to give it, or name the stages to run before it")
	}
	log := zap.NewNop()
	if flags.verbose {
		if log, err = newLogger("debug", "console"); err != nil {
			return err
		}
	}
	mode, options := progress.Detect(cmd.OutOrStdout(), mode, os.Getenv)
	renderer := progress.New(cmd.OutOrStdout(), mode, options)
	state, err := local.Run(cmd.Context(), local.Options{
		Plan: plan, Root: root, Settings: config, Secrets: secrets, Approve: flags.yes, Override: flags.override, Renderer: renderer, Log: log,
	})
	if err := errors.Join(err, renderer.Close()); err != nil {
		return err
	}
	return outcomeError(state)
}

// outcomeError is nil for success; the renderer has said the rest.
func outcomeError(state journal.State) error {
	switch state.Status {
	case journal.Succeeded, journal.Skipped:
		return nil
	case journal.Cancelled:
		return &exitError{code: exitCancelled}
	case journal.Refused:
		return &exitError{code: exitRefused}
	}
	return &exitError{code: exitFailed}
}

func localSettings(flags runFlags) (settings.Settings, error) {
	config := settings.Default()
	if flags.config != "" {
		var err error
		if config, err = settings.Load(flags.config); err != nil {
			return config, usageErrorf("%w", err)
		}
	}
	if flags.registry != "" {
		config.Registry.Push = flags.registry
	}
	return config, nil
}

// addEnvironments gives every environment that the plan deploys to and the
// settings do not know the cluster of the flags. Who runs a pipeline on their own
// machine may reach its network.
func addEnvironments(config *settings.Settings, plan *pipeline.Plan, flags runFlags) {
	if config.Environments == nil {
		config.Environments = map[string]settings.Environment{}
	}
	for _, stage := range plan.Stages {
		if stage.Deploy == nil {
			continue
		}
		names := []string{stage.Deploy.Environment}
		if stage.Deploy.Promote != nil {
			names = append(names, stage.Deploy.Promote.From)
		}
		for _, name := range names {
			if _, known := config.Environments[name]; !known {
				config.Environments[name] = settings.Environment{Kubeconfig: flags.kubeconfig, Context: flags.context, Namespace: flags.namespace, PrivateWebhooks: true}
			}
		}
	}
}

// localPlan reads the pipeline of this working tree and binds it to an event
// made from the state of its Git repository.
func localPlan(flags runFlags, stages []string) (*pipeline.Plan, string, error) {
	root, p, err := localPipeline(flags.file, flags.pipeline)
	if err != nil {
		return nil, "", err
	}
	e, err := local.Event(root, event.Kind(flags.kind), flags.branch)
	if err != nil {
		return nil, "", usageErrorf("%w", err)
	}
	e.Inputs = map[string]string{}
	for _, input := range flags.inputs {
		name, value, ok := strings.Cut(input, "=")
		if !ok {
			return nil, "", usageErrorf("input %q: write NAME=VALUE", input)
		}
		e.Inputs[name] = value
	}
	plan, err := pipeline.PlanFor(p, e)
	if err != nil {
		return nil, "", err
	}
	if len(stages) > 0 {
		if plan, err = plan.Select(stages); err != nil {
			return nil, "", err
		}
	}
	return plan, root, nil
}

func localPipeline(file, name string) (root string, _ *pipeline.Pipeline, err error) {
	if root, err = os.Getwd(); err != nil {
		return "", nil, err
	}
	var pipelines []*pipeline.Pipeline
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", nil, usageErrorf("%w", err)
		}
		p, err := pipeline.Parse(file, data)
		if err != nil {
			return "", nil, err
		}
		pipelines = []*pipeline.Pipeline{p}
	} else if pipelines, err = pipeline.Load(os.DirFS(root)); err != nil {
		return "", nil, err
	}
	var names []string
	for _, p := range pipelines {
		if p.Name == name || name == "" && len(pipelines) == 1 {
			return root, p, nil
		}
		names = append(names, p.Name)
	}
	if name == "" {
		return "", nil, usageErrorf("there are %d pipelines here: choose one with --pipeline (%s)", len(names), strings.Join(names, ", "))
	}
	return "", nil, usageErrorf("there is no pipeline %q here: there are %s", name, strings.Join(names, ", "))
}

// stageNames are the completions of `tidegate run`; none when the file is wrong.
func stageNames(file string) []string {
	_, p, err := localPipeline(file, "")
	if err != nil {
		return nil
	}
	var names []string
	for _, stage := range slices.Concat(p.Stages, p.Finally) {
		names = append(names, stage.Name)
	}
	return names
}
