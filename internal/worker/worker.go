// Package worker wires the stage kinds together, for a server and for a local
// run alike: one registry client, one store of layers, one OCI runtime.
package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/tidegate-ci/tidegate/internal/notify"
	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/stages/approve"
	"github.com/tidegate-ci/tidegate/stages/deploy"
	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
	"github.com/tidegate-ci/tidegate/stages/run"
	"github.com/tidegate-ci/tidegate/stages/sandbox/oci"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

// Options say what the kinds work with.
type Options struct {
	Settings settings.Settings
	// WorkingTree is set where attempts run in a person's own working tree: the
	// command sees that person's environment and home.
	WorkingTree bool
	// Containers looks for an OCI runtime now. Without it, stages that need one fail.
	Containers bool
	// Member tells whether a user belongs to a group that approvals name; nil: never.
	Member func(user, group string) bool
	// Override is why deploys are begun within freeze windows; empty: they are not.
	Override string
	Log      *zap.Logger
}

// Worker is the stage kinds and what they keep between runs.
type Worker struct {
	Kinds map[pipeline.KindName]pipeline.Kind

	maxBytes int64
	unpacked *rootfs.Store // nil without containers
	scripts  *run.Kind
	deploys  *deploy.Kind
	log      *zap.Logger
}

// New makes the stage kinds. A machine that cannot run containers is no error:
// stages that need none still run, others say what is missing.
func New(ctx context.Context, o Options) (*Worker, error) {
	dir := o.Settings.Data
	client := registry.New(registry.Options{Default: o.Settings.Registry.Push, Mirrors: o.Settings.Registry.Mirrors})
	unpacked, runtime, noContainers := containers(ctx, o)
	roots := func() (*rootfs.Store, error) { return unpacked, noContainers }
	layers, err := store.Open(filepath.Join(dir, "build"), store.Options{MaxBytes: o.Settings.Limits.CacheBytes, Neighbour: image.Unpacked(roots)})
	if err != nil {
		return nil, err
	}
	images, err := imagePolicy(o.Settings.Build)
	if err != nil {
		return nil, err
	}
	builder := &image.Builder{
		Policy:   images,
		Store:    layers,
		Registry: client,
		Rootfs:   roots,
		Runner: func(context.Context) (image.Runner, error) {
			if noContainers != nil {
				return nil, noContainers
			}
			return runtime, nil
		},
	}
	scripts := run.New(run.Options{
		CacheDir:     filepath.Join(dir, "caches"),
		HostCaches:   !o.WorkingTree,
		HostEnv:      hostEnv(o.WorkingTree),
		Runtime:      runtime,
		Store:        unpacked,
		Images:       client,
		NoContainers: noContainers,
	})
	receivers, err := notify.New(o.Settings)
	if err != nil {
		return nil, err
	}
	deploys := deploy.New(deploy.Options{Environments: environments(o.Settings), Member: o.Member, Receivers: receivers.Of, Override: o.Override, Log: o.Log.Named("deploy")})
	kinds := map[pipeline.KindName]pipeline.Kind{
		pipeline.KindRun:     scripts,
		pipeline.KindBuild:   &image.Kind{Builder: builder, Scripts: scripts, BuilderID: o.Settings.Build.BuilderID},
		pipeline.KindApprove: approve.Kind{Member: o.Member},
		pipeline.KindDeploy: policy{
			environments: o.Settings.Environments,
			member:       o.Member,
			inner:        deploys,
		},
	}
	return &Worker{Kinds: kinds, maxBytes: o.Settings.Limits.CacheBytes, unpacked: unpacked, scripts: scripts, deploys: deploys, log: o.Log.Named("caches")}, nil
}

// pruneEvery is how often caches are brought back below their limit.
const pruneEvery = time.Hour

// Maintain keeps what the kinds leave behind within its limits until ctx ends:
// unpacked layers and the caches of run stages, those used longest ago first.
// The build store bounds itself.
func (w *Worker) Maintain(ctx context.Context) error {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	for {
		if w.unpacked != nil {
			if _, err := w.unpacked.Prune(ctx, w.maxBytes); err != nil && ctx.Err() == nil {
				w.log.Warn("unpacked layers were not pruned", zap.Error(err))
			}
		}
		if _, err := w.scripts.PruneCaches(ctx, w.maxBytes); err != nil && ctx.Err() == nil {
			w.log.Warn("caches of run stages were not pruned", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// TellLeftovers tells the receivers of notifications what commands given without
// a server left untold, until ctx ends.
func (w *Worker) TellLeftovers(ctx context.Context) error { return w.deploys.TellLeftovers(ctx) }

// Answer gives a person's answer to the approvals that the rollout of a running
// deploy stage waits for.
func (w *Worker) Answer(ctx context.Context, run, stage string, decision pipeline.Decision) error {
	return w.deploys.Answer(ctx, run, stage, decision)
}

// errNotLooked is what a stage that needs a container meets when nobody
// expected one.
var errNotLooked = errors.New("no OCI runtime was looked for")

func containers(ctx context.Context, o Options) (*rootfs.Store, *oci.Runtime, error) {
	if !o.Containers {
		return nil, nil, errNotLooked
	}
	runtime, err := oci.Find(ctx, oci.Options{Dir: filepath.Join(o.Settings.Data, "oci"), Log: o.Log.Named("oci")})
	if err != nil {
		o.Log.Warn("stages with an image and builds with RUN cannot run here", zap.Error(err))
		return nil, nil, err
	}
	unpacked, err := rootfs.Open(filepath.Join(o.Settings.Data, "rootfs"))
	if err != nil {
		o.Log.Warn("stages with an image and builds with RUN cannot run here", zap.Error(err))
		return nil, nil, fmt.Errorf("open the store of root filesystems: %w", err)
	}
	return unpacked, runtime, nil
}

// hostEnv is what commands on the host see: in a person's own working tree that
// person's environment, on a server only what finding programs needs. The
// server's own environment holds its secrets.
func hostEnv(workingTree bool) map[string]string {
	names := []string{"PATH", "LANG", "TZ"}
	if workingTree {
		names = append(names, "HOME", "USER", "SHELL", "TERM", "TMPDIR", "GOPATH", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS", "SSH_AUTH_SOCK", "DOCKER_CONFIG", "KUBECONFIG")
	}
	env := map[string]string{}
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env[name] = value
		}
	}
	return env
}

func environments(s settings.Settings) map[string]deploy.Environment {
	all := map[string]deploy.Environment{}
	for name, e := range s.Environments {
		all[name] = target(e)
	}
	return all
}

func target(e settings.Environment) deploy.Environment {
	target := deploy.Environment{Kubeconfig: e.Kubeconfig, Context: e.Context, Namespace: e.Namespace, PrivateWebhooks: e.PrivateWebhooks,
		Window: rollout.RollbackWindow{Revisions: e.RollbackWindow.Revisions, Age: e.RollbackWindow.Age}}
	for _, freeze := range e.Freeze {
		if window, err := freeze.Window(); err == nil { // settings that were read have no other
			target.Freeze = append(target.Freeze, window)
		}
	}
	for _, c := range e.Clusters {
		target.Clusters = append(target.Clusters, deploy.Cluster{Name: c.Name, Kubeconfig: c.Kubeconfig, Context: c.Context, Namespace: c.Namespace})
	}
	target.Waves = e.Plan()
	return target
}
