package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/internal/process"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// ending is how an update ended in its tool's own eyes.
type ending struct {
	after time.Duration
	good  bool
	why   string
}

// update is a new version on its way. Its end comes once; stop gives up waiting for it.
type update struct {
	end  chan ending
	stop func()
}

// subject is one way to bring a new version out.
type subject interface {
	name() string
	// open prepares the subject for a world; close ends what it began.
	open(ctx context.Context, w *world) error
	close() error
	// install makes the app and returns when all its pods serve.
	install(ctx context.Context, a app) error
	// update begins to replace the app by another version of it.
	update(ctx context.Context, a app) *update
}

// began runs wait, which returns when an update has ended, beside the caller.
func began(ctx context.Context, wait func(context.Context) (good bool, why string)) *update {
	ctx, cancel := context.WithCancel(ctx)
	u := &update{end: make(chan ending, 1)}
	done := make(chan struct{})
	start := time.Now()
	go func() {
		defer close(done)
		good, why := wait(ctx)
		u.end <- ending{time.Since(start), good, why}
	}()
	u.stop = func() { cancel(); <-done }
	return u
}

// plain is a Deployment, updated by hand.
type plain struct{ *world }

func (*plain) name() string { return "deployment" }
func (p *plain) open(_ context.Context, w *world) error {
	p.world = w
	return nil
}
func (*plain) close() error { return nil }

func (p *plain) install(ctx context.Context, a app) error {
	text, err := a.deployment()
	if err != nil {
		return err
	}
	if err := p.create(ctx, text); err != nil {
		return err
	}
	return until(ctx, p.in(deployments), a.name, deployed)
}

func (p *plain) update(ctx context.Context, a app) *update {
	return began(ctx, func(ctx context.Context) (bool, string) {
		if err := p.setImage(ctx, deployments, a.name, a.image); err != nil {
			return false, err.Error()
		}
		good := false
		err := until(ctx, p.in(deployments), a.name, func(u *unstructured.Unstructured) bool {
			good = deployed(u)
			return good || overdue(u)
		})
		if err != nil {
			return false, err.Error()
		}
		if !good {
			return false, "reported overdue"
		}
		return true, "complete"
	})
}

// tidegate is a controller in this process.
type tidegate struct {
	*world
	rolling bool
	react   func(time.Duration)

	controller *rollout.Controller
}

func (t *tidegate) name() string {
	if t.rolling {
		return "tidegate, rolling"
	}
	return "tidegate"
}

func (t *tidegate) open(_ context.Context, w *world) (err error) {
	t.world = w
	t.controller, err = rollout.New(rollout.Cluster{Config: w.proxy.config()}, rollout.Options{Log: zap.NewNop(), Reacted: t.react})
	return err
}

func (*tidegate) close() error { return nil }

// request asks for a version of the app; without canary steps, by a rolling update.
func request(ctx context.Context, namespace string, a app) (rollout.Request, error) {
	text, err := a.deployment()
	if err != nil {
		return rollout.Request{}, err
	}
	objects, err := manifest.Parse("shop.yaml", []byte(text))
	if err != nil {
		return rollout.Request{}, err
	}
	release, err := manifest.New(ctx, objects, manifest.Options{Namespace: namespace})
	if err != nil {
		return rollout.Request{}, err
	}
	r := rollout.Request{App: a.name, Namespace: namespace, Release: release, Bake: a.bake, Deadline: a.deadline, By: "bench"}
	if len(a.canary) > 0 {
		r.Strategy.Kind = rollout.CanaryStrategy
		for _, weight := range a.canary {
			r.Strategy.Steps = append(r.Strategy.Steps, rollout.Step{Weight: weight})
		}
	}
	return r, nil
}

func (t *tidegate) start(ctx context.Context, a app) (rollout.Result, error) {
	r, err := request(ctx, t.namespace, a)
	if err != nil {
		return rollout.Result{}, err
	}
	return t.controller.Start(ctx, r, nil)
}

func (t *tidegate) install(ctx context.Context, a app) error {
	now := time.Duration(0)
	a.canary, a.bake = nil, &now
	_, err := t.start(ctx, a)
	return err
}

func (t *tidegate) update(ctx context.Context, a app) *update {
	if t.rolling {
		a.canary = nil
	}
	return began(ctx, func(ctx context.Context) (bool, string) {
		result, err := t.start(ctx, a)
		switch {
		case err == nil:
			return true, "verified"
		case result.Rollout.Failure != nil:
			return false, string(result.Rollout.Failure.Reason)
		}
		return false, err.Error()
	})
}

// argo is Argo Rollouts' controller, for the world's namespace alone.
type argo struct {
	*world
	peer   *process.Process
	remove func() error
}

func (*argo) name() string { return "argo rollouts" }

func (a *argo) open(ctx context.Context, w *world) (err error) {
	a.world = w
	if a.remove, err = w.define(ctx, "argo", "github.com/argoproj/argo-rollouts", "manifests/crds/rollout-crd.yaml", "manifests/crds/experiment-crd.yaml",
		"manifests/crds/analysis-run-crd.yaml", "manifests/crds/analysis-template-crd.yaml", "manifests/crds/cluster-analysis-template-crd.yaml"); err != nil {
		return err
	}
	file := w.dir + "/argo.kubeconfig"
	if err := w.proxy.kubeconfig(file, w.namespace); err != nil {
		return errors.Join(err, a.remove())
	}
	arguments := []string{"--kubeconfig", file, "--namespaced", "--leader-elect=false", "--loglevel=warn", "--metricsport=18090", "--healthzPort=18091"}
	if w.argoQPS > 0 {
		arguments = append(arguments, fmt.Sprintf("--qps=%d", w.argoQPS), fmt.Sprintf("--burst=%d", 2*w.argoQPS))
	}
	if a.peer, err = w.runPeer(ctx, "rollouts-controller", arguments...); err != nil {
		return errors.Join(err, a.remove())
	}
	return nil
}

func (a *argo) close() error {
	a.peer.Stop()
	return a.remove()
}

func (a *argo) install(ctx context.Context, app app) error {
	text, err := app.rollout()
	if err != nil {
		return err
	}
	if err := a.create(ctx, text); err != nil {
		return err
	}
	return a.peer.With(until(ctx, a.in(rollouts), app.name, func(u *unstructured.Unstructured) bool {
		healthy, _ := argoSettled(u)
		return healthy
	}))
}

func (a *argo) update(ctx context.Context, app app) *update {
	return began(ctx, func(ctx context.Context) (bool, string) {
		if err := a.setImage(ctx, rollouts, app.name, app.image); err != nil {
			return false, err.Error()
		}
		good := false
		err := until(ctx, a.in(rollouts), app.name, func(u *unstructured.Unstructured) bool {
			healthy, aborted := argoSettled(u)
			good = healthy && app.image == imageOf(u)
			return good || aborted
		})
		if err != nil {
			return false, a.peer.With(err).Error()
		}
		if !good {
			return false, "aborted"
		}
		return true, "healthy"
	})
}

func imageOf(u *unstructured.Unstructured) string {
	containers, _, err := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "containers")
	if err != nil || len(containers) == 0 {
		return ""
	}
	first, ok := containers[0].(map[string]any)
	if !ok {
		return ""
	}
	return fmt.Sprint(first["image"])
}

// flagger is Flagger's controller. Without a mesh it switches a Service from the
// old version to the new one after some intervals of ten seconds, the shortest.
type flagger struct {
	*world
	peer   *process.Process
	remove func() error
}

func (*flagger) name() string { return "flagger" }

func (f *flagger) open(ctx context.Context, w *world) (err error) {
	f.world = w
	if f.remove, err = w.define(ctx, "flagger", "github.com/fluxcd/flagger", "artifacts/flagger/crd.yaml"); err != nil {
		return err
	}
	file := w.dir + "/flagger.kubeconfig"
	if err := w.proxy.kubeconfig(file, w.namespace); err != nil {
		return errors.Join(err, f.remove())
	}
	if f.peer, err = w.runPeer(ctx, "flagger", "-kubeconfig", file, "-namespace", w.namespace, "-mesh-provider", "kubernetes", "-port", "18092",
		"-metrics-server", "http://127.0.0.1:18093", "-log-level", "error"); err != nil {
		return errors.Join(err, f.remove())
	}
	return nil
}

func (f *flagger) close() error {
	f.peer.Stop()
	return f.remove()
}

func (f *flagger) install(ctx context.Context, a app) error {
	text, err := a.manifests("Deployment", "apps/v1", map[string]any{"strategy": map[string]any{"rollingUpdate": map[string]any{"maxSurge": "25%", "maxUnavailable": 0}}})
	if err != nil {
		return err
	}
	// Flagger makes the Service itself.
	objects, err := manifest.Parse("shop.yaml", []byte(text))
	if err != nil {
		return err
	}
	if err := f.createOne(ctx, objects[0]); err != nil {
		return err
	}
	if err := until(ctx, f.in(deployments), a.name, deployed); err != nil {
		return err
	}
	canary := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": map[string]any{"name": a.name},
		"spec": map[string]any{
			"targetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": a.name},
			"service":   map[string]any{"port": int64(80), "targetPort": int64(8080)},
			"analysis":  map[string]any{"interval": "10s", "threshold": int64(1), "iterations": int64(len(steady))},
		}}}
	if err := f.createOne(ctx, canary); err != nil {
		return err
	}
	return f.peer.With(until(ctx, f.in(canaries), a.name, func(u *unstructured.Unstructured) bool { return phaseOf(u) == "Initialized" }))
}

func phaseOf(u *unstructured.Unstructured) string { return text(u, "status", "phase") }

func (f *flagger) update(ctx context.Context, a app) *update {
	return began(ctx, func(ctx context.Context) (bool, string) {
		if err := f.setImage(ctx, deployments, a.name, a.image); err != nil {
			return false, err.Error()
		}
		phase := ""
		moved := false
		err := until(ctx, f.in(canaries), a.name, func(u *unstructured.Unstructured) bool {
			phase = phaseOf(u)
			moved = moved || phase == "Progressing"
			return moved && (phase == "Succeeded" || phase == "Failed")
		})
		if err != nil {
			return false, f.peer.With(err).Error()
		}
		return phase == "Succeeded", phase
	})
}

// measured opens the subjects that were asked for, each in a world of its own,
// and measures them in turn.
func (b *bench) measured(ctx context.Context, subjects []subject, measure func(context.Context, *world, subject) error) error {
	for _, s := range subjects {
		if !b.who.MatchString(s.name()) {
			continue
		}
		err := b.inWorld(ctx, func(w *world) (err error) {
			if err := s.open(ctx, w); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.close()) }()
			return measure(ctx, w, s)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.name(), err)
		}
	}
	return nil
}
