package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/stages/deploy"
)

func newRolloutStartCommand(f *clusterFlags) *cobra.Command {
	var flags releaseFlags
	command := &cobra.Command{
		Use:   "start APP -f FILE… | --kustomize DIR | --helm CHART",
		Short: "Roll manifests out and wait until they are verified or taken back",
		Long: `Renders the manifests, the kustomization or the chart, pins every image by digest, lets the API server try all
of it without changing anything, and then rolls it out: by the workloads' own
rolling update, or as --strategy says.

Interrupting the command leaves the rollout as it is: "resume" goes on, "abort"
takes it back. A release of the same application that is under way is superseded.`,
		Example: `  tidegate rollout start shop -f k8s/ -n production
  tidegate rollout start shop --kustomize k8s/overlays/production
  tidegate rollout start shop --helm chart --values values-production.yaml --set replicas=3
  tidegate rollout start shop -f k8s/ --image shop=registry.example.com/shop@sha256:…
  tidegate rollout start shop -f k8s/ --canary 10:1m --canary 50:2m
  tidegate rollout start shop -f k8s/ --canary 0:1m:header.x-canary=yes --canary 10:5m --traffic httproute/shop
  tidegate rollout start shop -f k8s/ --strategy blue-green --hold 1m --keep-old 10m
  tidegate rollout start shop -f k8s/ --canary 10 --gates gates.yaml   # the gates: and hooks: of a pipeline's deploy
  tidegate rollout start db -f k8s/ --batch 1       # a StatefulSet, one pod between two gates
  tidegate rollout start shop -f k8s/ --bake 0s     # faster; a version that crashes after it turned ready may replace all pods`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: f.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			controller, target, err := f.target(args)
			if err != nil {
				return err
			}
			request, err := flags.request(cmd.Context(), controller, target, f.by)
			if err != nil {
				return err
			}
			return startRelease(cmd, controller, target, request)
		},
	}
	flags.register(command)
	return command
}

// startRelease rolls a release out and says how that ended.
func startRelease(cmd *cobra.Command, controller *rollout.Controller, target rollout.Target, request rollout.Request) error {
	result, err := controller.Start(cmd.Context(), request, printProgress(cmd))
	if err != nil {
		printFailure(cmd.ErrOrStderr(), result.Rollout.Failure)
		printExplained(cmd.ErrOrStderr(), result.Rollout.Failure)
		return rolloutError(err)
	}
	if result.Unchanged {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: revision %d has this very release and serves already\n", target.App, result.Rollout.Revision)
		return nil
	}
	fmt.Fprintln(cmd.OutOrStdout(), target.App+": "+result.Rollout.Sentence())
	return nil
}

// releaseFlags say what is rolled out, and how.
type releaseFlags struct {
	from           sourceFlags
	how            strategyFlags
	images         map[string]string
	bake, deadline time.Duration
	force          bool
	commit         string
	override       string
	gates          string
	// promoted are the only images of the release; nil: those of images, and what registries say.
	promoted *manifest.Promoted
}

func (r *releaseFlags) register(command *cobra.Command) {
	flags := command.Flags()
	r.from.register(command)
	flags.StringToStringVar(&r.images, "image", nil, "NAME=REFERENCE@DIGEST for images that the manifests call NAME")
	r.how.register(command)
	flags.DurationVar(&r.bake, "bake", rollout.DefaultBake, "how long new pods must stay good; 0s gives up that safety for speed")
	flags.DurationVar(&r.deadline, "deadline", rollout.DefaultDeadline, "longest time without progress")
	flags.BoolVar(&r.force, "force", false, "overwrite what others changed in objects that Tidegate applied")
	flags.StringVar(&r.commit, "commit", "", "the commit that the manifests are from, for the record")
	flags.StringVar(&r.override, "override", "", "why it is begun within a freeze window of its environment, for the record")
	flags.StringVar(&r.gates, "gates", "", "file of gates: and hooks:, as in a pipeline file's deploy, for canary and blue-green")
}

// request renders the sources and makes a request of them.
func (r *releaseFlags) request(ctx context.Context, facts deploy.ClusterFacts, target rollout.Target, by string) (rollout.Request, error) {
	strategy, err := r.how.strategy()
	if err != nil {
		return rollout.Request{}, err
	}
	source, fields, rules, err := r.from.source()
	if err != nil {
		return rollout.Request{}, err
	}
	rendered, err := deploy.RenderRelease(ctx, ".", source, facts, target)
	if err != nil {
		if rollout.Unreachable(err) {
			return rollout.Request{}, rolloutError(err)
		}
		return rollout.Request{}, usageErrorf("%w", err)
	}
	options := manifest.Options{Namespace: target.Namespace, Images: r.images, Resolver: deploy.Registry{}, Fields: fields}
	if r.promoted != nil {
		options.Images, options.Resolver = nil, r.promoted
	}
	release, err := manifest.New(ctx, rendered.Objects, options)
	if err == nil && r.promoted != nil {
		err = r.promoted.Check(release.Objects)
	}
	if err != nil {
		return rollout.Request{}, usageErrorf("%w", err)
	}
	hooks, err := deploy.ChartHooks(ctx, rendered.Hooks, options.Images, options.Resolver)
	if err != nil {
		return rollout.Request{}, usageErrorf("%w", err)
	}
	override := ""
	if r.override != "" {
		override = by + ": " + r.override
	}
	request := rollout.Request{Hooks: hooks, Readiness: rules, Override: override, App: target.App, Namespace: target.Namespace, Release: release, Strategy: strategy,
		Bake: &r.bake, Deadline: r.deadline, Force: r.force, By: by, Commit: r.commit}
	if err := r.addGates(ctx, &request, options); err != nil {
		return rollout.Request{}, err
	}
	return request, nil
}

// maxGatesBytes bounds a file of gates.
const maxGatesBytes = 1 << 20

// addGates reads the file of gates, if one is named.
func (r *releaseFlags) addGates(ctx context.Context, request *rollout.Request, options manifest.Options) error {
	if r.gates == "" {
		return nil
	}
	file, err := os.Open(r.gates)
	if err != nil {
		return usageErrorf("--gates: %w", err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxGatesBytes+1))
	switch {
	case err != nil:
		return usageErrorf("--gates %s: %w", r.gates, err)
	case len(content) > maxGatesBytes:
		return usageErrorf("--gates %s is larger than %d bytes", r.gates, maxGatesBytes)
	}
	steps := len(request.Strategy.Steps)
	if request.Strategy.Kind == rollout.BlueGreenStrategy {
		steps = 2 // before the switch and after it
	}
	gates, err := pipeline.ParseGates(r.gates, content, steps, request.Strategy.Kind == rollout.CanaryStrategy)
	if err != nil {
		return &exitError{code: exitUsage, err: err}
	}
	if r.promoted != nil { // a Job may need an image that no release holds
		options.Resolver = deploy.PromotedFirst{Promoted: r.promoted, Next: deploy.Registry{}}
	}
	if err := deploy.AddGates(ctx, request, gates, ".", options.Images, options.Resolver); err != nil {
		return usageErrorf("--gates %s: %w", r.gates, err)
	}
	return nil
}
