// Package deploy is the stage kind that puts a release into an environment.
package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"k8s.io/client-go/rest"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/waves"
)

// The outputs of a deploy stage.
const (
	OutputRevision = "revision" // its number in the environment
	OutputRelease  = "release"  // the digest of its content
)

// ErrCancelled is the cause with which a context should end when a person or a
// policy cancelled the run: the release is then taken back. A context that ends
// for any other reason (a shutdown) leaves the rollout for whoever continues.
var ErrCancelled = errors.New("the run was cancelled")

// Environment is a named target.
type Environment struct {
	// Config is used when set; else Kubeconfig names a file (empty: the usual
	// places) and Context one of its contexts (empty: the current one).
	Config     *rest.Config
	Kubeconfig string
	Context    string
	// Namespace for objects that name none; empty means that of the kubeconfig.
	Namespace string
	// PrivateWebhooks lets webhook gates reach private networks and this machine.
	PrivateWebhooks bool
	// Freeze are the windows in which no release is begun.
	Freeze []rollout.Window
	// Window bounds rollbacks.
	Window rollout.RollbackWindow
	// Clusters are those that it is made of; empty means the one above. Waves say
	// in which order they move; without them, it is one cluster after another.
	Clusters []Cluster
	Waves    waves.Plan
}

// Cluster is one of several of an environment. What it leaves out is the environment's.
type Cluster struct {
	Name       string
	Config     *rest.Config
	Kubeconfig string
	Context    string
	Namespace  string
}

// windows are never nil: an environment without any has none.
func (e Environment) windows() []rollout.Window {
	return append([]rollout.Window{}, e.Freeze...)
}

// rollbacks are never nil: an environment without a window bounds nothing.
func (e Environment) rollbacks() *rollout.RollbackWindow { return &e.Window }

// Options wires the kind.
type Options struct {
	Environments map[string]Environment
	// Resolver finds digests of images that the run did not build; nil means Registry{}.
	Resolver manifest.Resolver
	Log      *zap.Logger
	// Member tells whether a user belongs to a group that approval gates name; nil: never.
	Member func(user, group string) bool
	// Notify hears of every end and of every rollback.
	Notify func(environment string, record rollout.Record)
	// Receivers are told of every transition in an environment, or in one of its
	// clusters (empty when it has but one); nil leaves that to whoever knows them.
	Receivers func(environment, cluster string) []rollout.Receiver
	// Override is why releases are begun within freeze windows; empty: they are not.
	Override string
}

// Kind implements pipeline.Kind.
type Kind struct {
	options Options

	mu          sync.Mutex
	controllers map[string]*rollout.Controller
	running     map[string]*running // by run and stage
}

var _ pipeline.Kind = (*Kind)(nil)

// New makes the kind.
func New(options Options) *Kind {
	if options.Resolver == nil {
		options.Resolver = Registry{}
	}
	if options.Log == nil {
		options.Log = zap.NewNop()
	}
	return &Kind{options: options, controllers: map[string]*rollout.Controller{}, running: map[string]*running{}}
}

// Takeover implements pipeline.Kind: the cluster shows how far the rollout is.
func (k *Kind) Takeover() pipeline.Takeover { return pipeline.TakeoverContinue }

// Run implements pipeline.Kind.
func (k *Kind) Run(ctx context.Context, attempt pipeline.Attempt) (pipeline.Outputs, error) {
	spec := attempt.Stage.Deploy
	if spec == nil {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "stage %s: no deploy section", attempt.Stage.ID)
	}
	places, err := k.places(spec.Environment)
	if err != nil {
		return nil, err
	}
	requests, err := k.requests(ctx, attempt, places)
	if err != nil {
		return nil, err
	}
	defer k.enter(attempt, places)()
	if len(places) > 1 {
		return k.waves(ctx, attempt, places, requests)
	}
	controller, request := places[0].controller, requests[0]
	attempt.Progress(fmt.Sprintf("deploying %s to %s (%s)", request.App, spec.Environment, short(request.Release.Digest)))
	result, err := controller.Start(ctx, request, func(p rollout.Progress) { report(attempt, "", p) })
	if err != nil && ctx.Err() != nil && takenBack(ctx) {
		return nil, k.abort(ctx, controller, request, attempt)
	}
	if err != nil {
		k.explain(attempt, result.Rollout)
		return nil, failure(err)
	}
	message := result.Rollout.Sentence()
	if result.Unchanged {
		message = fmt.Sprintf("revision %d has this very release and serves already", result.Rollout.Revision)
	}
	attempt.Progress(message)
	return pipeline.Outputs{OutputRevision: strconv.Itoa(result.Rollout.Revision), OutputRelease: result.Rollout.Digest}, nil
}

// report passes on what a rollout does, and whether it waits for people or a window.
func report(attempt pipeline.Attempt, cluster string, p rollout.Progress) {
	if attempt.Waiting != nil {
		attempt.Waiting(p.Held)
	}
	message := p.Message
	if cluster != "" {
		message = cluster + ": " + message
	}
	attempt.Progress(message)
}

// requests renders the release for every place, with the same images in all.
func (k *Kind) requests(ctx context.Context, attempt pipeline.Attempt, places []place) ([]rollout.Request, error) {
	promoted, err := k.promotion(ctx, attempt, places)
	if err != nil {
		return nil, err
	}
	images := k.images(attempt, promoted)
	var requests []rollout.Request
	for _, at := range places {
		request, err := k.request(ctx, attempt, at.controller, at.namespace, images)
		if err != nil {
			return nil, err
		}
		if promoted != nil {
			if err := promoted.images.Check(request.Release.Objects); err != nil {
				return nil, &pipeline.Error{Cause: pipeline.CauseInvalid, Err: err}
			}
			request.From, request.Commit = promoted.from, promoted.from.Commit
		}
		requests = append(requests, request)
	}
	return requests, nil
}

// target is what the stage deploys, in a namespace; runID names the attempt.
func target(attempt pipeline.Attempt, namespace string) (_ rollout.Target, runID string) {
	return rollout.Target{App: cmp.Or(attempt.Stage.Deploy.App, attempt.Pipeline), Namespace: namespace},
		attempt.RunID + "/" + attempt.Stage.ID + "/" + strconv.Itoa(attempt.Number)
}

func (k *Kind) request(ctx context.Context, attempt pipeline.Attempt, facts ClusterFacts, namespace string, images imageSources) (rollout.Request, error) {
	spec := attempt.Stage.Deploy
	target, runID := target(attempt, namespace)
	rendered, err := RenderRelease(ctx, attempt.Workspace, source(spec), facts, target)
	if err != nil {
		return rollout.Request{}, unrendered(ctx, err)
	}
	release, err := manifest.New(ctx, rendered.Objects, manifest.Options{Namespace: namespace, Images: images.built, Resolver: images.resolver, Fields: imageFields(spec.Images)})
	if err != nil {
		cause := pipeline.CauseInvalid
		if ctx.Err() != nil {
			cause = pipeline.CauseCancelled
		}
		return rollout.Request{}, &pipeline.Error{Cause: cause, Err: err}
	}
	how := strategy(spec.Strategy)
	if how.Checks, err = checks(ctx, attempt.Workspace, gates(spec.Strategy), images); err != nil {
		return rollout.Request{}, err
	}
	around, err := hooks(ctx, attempt.Workspace, spec.Hooks, images)
	if err != nil {
		return rollout.Request{}, err
	}
	charts, err := ChartHooks(ctx, rendered.Hooks, images.built, images.forJobs)
	if err != nil {
		return rollout.Request{}, unrendered(ctx, err)
	}
	return rollout.Request{
		Hooks: append(around, charts...), Readiness: readiness(spec.Readiness), Freeze: k.options.Environments[spec.Environment].windows(), Window: k.options.Environments[spec.Environment].rollbacks(), App: target.App, Namespace: namespace, Release: release, Strategy: how, Bake: spec.Bake, Deadline: spec.Deadline,
		By: attempt.Event.Actor, Commit: attempt.Event.Commit, RunID: runID, Source: sourceOf(attempt.Event), OnRollback: rollout.OnRollback(spec.OnRollback), Override: k.override(attempt.Event),
	}, nil
}

// imageSources say where images come from: those of the release, and those of
// the Jobs of its gates and hooks.
type imageSources struct {
	built    map[string]string
	resolver manifest.Resolver
	forJobs  manifest.Resolver
}

// images are those that the run built, or those that another environment has
// proven and nothing else.
func (k *Kind) images(attempt pipeline.Attempt, promoted *promotion) imageSources {
	once := &resolvedOnce{next: k.options.Resolver, known: map[string]string{}}
	if promoted == nil {
		return imageSources{built: builtImages(attempt.Needs), resolver: once, forJobs: once}
	}
	return imageSources{resolver: promoted.images, forJobs: PromotedFirst{promoted.images, once}}
}

// builtImages collects the images of the build stages that this one needs.
func builtImages(needs map[string]pipeline.Outputs) map[string]string {
	images := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(needs)) {
		outputs := needs[id]
		if image := outputs[pipeline.OutputImage]; image != "" && outputs[pipeline.OutputName] != "" {
			images[outputs[pipeline.OutputName]] = image
		}
	}
	return images
}

func strategy(spec pipeline.StrategySpec) rollout.Strategy {
	switch {
	case spec.BlueGreen != nil:
		return rollout.Strategy{Kind: rollout.BlueGreenStrategy, Metrics: metrics(spec.BlueGreen.Gates),
			BlueGreen: &rollout.BlueGreen{Hold: spec.BlueGreen.Hold, KeepOld: spec.BlueGreen.KeepOld}}
	case spec.Canary != nil:
		return canary(spec.Canary)
	case spec.Recreate != nil:
		return rollout.Strategy{Kind: rollout.RecreateStrategy}
	case spec.Rolling != nil:
		return rollout.Strategy{Kind: rollout.RollingStrategy, Batch: spec.Rolling.Batch}
	}
	return rollout.Strategy{Kind: rollout.RollingStrategy}
}

func metrics(gates []pipeline.GateSpec) []rollout.MetricGate {
	var found []rollout.MetricGate
	for _, gate := range gates {
		m := gate.Metric
		if m == nil {
			continue // see checks
		}
		metric := rollout.MetricGate{
			Name: m.Name, Prometheus: m.Prometheus, HTTP: m.HTTP,
			Query: m.Query, Min: m.Min, Max: m.Max, Tolerate: m.Tolerate,
			Bad: m.Bad, Total: m.Total, Value: m.Value, Ratio: m.Ratio, HigherIsBetter: m.HigherIsBetter,
			Minimum: m.Minimum, Interval: m.Interval, Advisory: m.Advisory,
		}
		if m.Token != nil {
			metric.Token = &rollout.SecretKey{Name: m.Token.Name, Key: m.Token.Key}
		}
		if m.Datadog != nil {
			metric.Datadog = &rollout.DatadogSource{Site: m.Datadog.Site, Secret: m.Datadog.Secret}
		}
		if m.NewRelic != nil {
			metric.NewRelic = &rollout.NewRelicSource{Account: int64(m.NewRelic.Account), Region: m.NewRelic.Region, Secret: m.NewRelic.Secret}
		}
		if m.CloudWatch != nil {
			metric.CloudWatch = &rollout.CloudWatchSource{Region: m.CloudWatch.Region, Secret: m.CloudWatch.Secret}
		}
		found = append(found, metric)
	}
	return found
}

// abortTimeout bounds the taking back of a cancelled release beyond its own deadline.
const abortTimeout = 10 * time.Minute

// takenBack tells whether the run itself is over, rather than this process.
func takenBack(ctx context.Context) bool {
	cause := context.Cause(ctx)
	var failure *pipeline.Error
	if errors.As(cause, &failure) {
		return true
	}
	return errors.Is(cause, ErrCancelled) || errors.Is(cause, context.DeadlineExceeded)
}

// abort takes the release of a cancelled run back. The run's context has ended,
// so that this has a bounded one of its own.
func (k *Kind) abort(ctx context.Context, controller *rollout.Controller, request rollout.Request, attempt pipeline.Attempt) error {
	cause := pipeline.CauseOf(context.Cause(ctx))
	if cause == pipeline.CauseInfrastructure {
		cause = pipeline.CauseCancelled
	}
	// A superseded run takes its release back too: the newer one may never get
	// as far as its own deploy, and nobody would look after this canary.
	fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	target := rollout.Target{App: request.App, Namespace: request.Namespace}
	record, _, err := controller.Status(fresh, target)
	switch {
	case errors.Is(err, rollout.ErrNotFound):
		return pipeline.Fail(cause, "cancelled before anything was changed: %w", context.Cause(ctx))
	case err != nil:
		return pipeline.Fail(cause, "cancelled, and the state of the rollout cannot be read: %w", err)
	case record.Current == nil || record.Current.RunID != request.RunID || record.Current.State.Final():
		return pipeline.Fail(cause, "cancelled: %w", context.Cause(ctx))
	}
	attempt.Progress("cancelled: taking the release back")
	if _, err := controller.Abort(fresh, target, "cancelled run", func(p rollout.Progress) { attempt.Progress(p.Message) }); err != nil {
		return pipeline.Fail(cause, "cancelled, and taking the release back failed: %w", err)
	}
	return pipeline.Fail(cause, "cancelled: the release was taken back: %w", context.Cause(ctx))
}

func failure(err error) error {
	cause := pipeline.CauseInfrastructure
	switch {
	case errors.Is(err, rollout.ErrFailed):
		cause = pipeline.CauseFailed
	case errors.Is(err, rollout.ErrSuperseded):
		cause = pipeline.CauseSuperseded
	case errors.Is(err, rollout.ErrAborted):
		cause = pipeline.CauseCancelled
	case errors.Is(err, rollout.ErrRejected), errors.Is(err, rollout.ErrInvalid):
		cause = pipeline.CauseInvalid
	case errors.Is(err, rollout.ErrRefused):
		cause = pipeline.CauseRefused
	case errors.Is(err, context.Canceled):
		cause = pipeline.CauseCancelled
	case errors.Is(err, context.DeadlineExceeded):
		cause = pipeline.CauseTimeout
	}
	return &pipeline.Error{Cause: cause, Err: err}
}

// explain puts the failing container's last words into the run's log.
func (k *Kind) explain(attempt pipeline.Attempt, ended rollout.Rollout) {
	f := ended.Failure
	if f == nil || f.Container == nil && len(f.Log) == 0 || attempt.Stderr == nil {
		return
	}
	if f.Container == nil {
		fmt.Fprintf(attempt.Stderr, "%s\nlast lines of the Job:\n", f.Message)
		for _, line := range f.Log {
			fmt.Fprintln(attempt.Stderr, "  "+line)
		}
		return
	}
	fmt.Fprintf(attempt.Stderr, "%s\nlast lines of container %s in pod %s (exit code %d):\n", f.Message, f.Container.Name, f.Container.Pod, f.Container.ExitCode)
	for _, line := range f.Log {
		fmt.Fprintln(attempt.Stderr, "  "+line)
	}
}

// override says who overrides freeze windows, and why; empty when nobody does.
func (k *Kind) override(e event.Event) string {
	if k.options.Override == "" {
		return ""
	}
	return e.Actor + ": " + k.options.Override
}

// sourceOf says where an event's code is from; what people wrote is bounded.
func sourceOf(e event.Event) *rollout.Source {
	const most = 200
	message, _, _ := strings.Cut(e.Message, "\n")
	if len(message) > most {
		message = strings.ToValidUTF8(message[:most], "") + "…"
	}
	return &rollout.Source{Forge: e.Forge, Repository: e.Repository.FullName, Branch: e.Branch, Tag: e.Tag, Message: message}
}

func short(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(len(digest), 12)]
}
