package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/tidegate-ci/tidegate/internal/buildkitd"
)

// order is one build.
type order struct {
	// Context is a directory with a Dockerfile. Image is where the result is pushed.
	Context, Image string
	NoCache        bool
	// CacheTo and CacheFrom name an image that carries the cache; empty means none.
	CacheTo, CacheFrom string
}

// builder is one of those compared.
type builder interface {
	name() string
	// reset throws away all that earlier builds left.
	reset(ctx context.Context) error
	build(ctx context.Context, o order) (usage, error)
	close() error
}

// tidegate runs the binary, a process a build.
type tidegate struct{ binary, dir string }

func (*tidegate) name() string                  { return "tidegate" }
func (t *tidegate) reset(context.Context) error { return os.RemoveAll(t.dir) }
func (t *tidegate) close() error                { return os.RemoveAll(t.dir) }

func (t *tidegate) build(ctx context.Context, o order) (usage, error) {
	args := []string{"build", "--cache-dir", t.dir, "--progress", "plain", "-t", o.Image, "--push"}
	if o.NoCache {
		args = append(args, "--no-cache")
	}
	if o.CacheTo != "" {
		args = append(args, "--cache-to", "type=registry,mode=max,ref="+o.CacheTo)
	}
	if o.CacheFrom != "" {
		args = append(args, "--cache-from", "type=registry,ref="+o.CacheFrom)
	}
	return run(exec.CommandContext(ctx, t.binary, append(args, o.Context)...))
}

// buildkit runs buildctl against a daemon.
type buildkit struct {
	options buildkitd.Options
	daemon  *buildkitd.Daemon
}

func (*buildkit) name() string { return "buildkit" }

func (b *buildkit) reset(ctx context.Context) error {
	if err := b.close(); err != nil {
		return err
	}
	var err error
	b.daemon, err = buildkitd.Start(ctx, b.options)
	return err
}

func (b *buildkit) close() error {
	if b.daemon == nil {
		return nil
	}
	err := b.daemon.Close()
	b.daemon = nil
	return err
}

func (b *buildkit) build(ctx context.Context, o order) (usage, error) {
	build := buildkitd.Build{Context: o.Context, NoCache: o.NoCache, Output: "type=image,push=true,name=" + o.Image}
	if o.CacheTo != "" {
		build.CacheTo = "type=registry,mode=max,ref=" + o.CacheTo
	}
	if o.CacheFrom != "" {
		build.CacheFrom = "type=registry,ref=" + o.CacheFrom
	}
	return alongside(ctx, b.daemon.PID(), func(ctx context.Context) (usage, error) {
		return run(b.daemon.Command(ctx, build.Args()...))
	})
}

// buildah builds and pushes, a process each.
type buildah struct{ dir string }

func (*buildah) name() string { return "buildah" }

func (b *buildah) reset(ctx context.Context) error {
	if _, err := os.Stat(b.dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// Its storage is mounted in itself.
	_ = exec.CommandContext(ctx, "umount", "-l", filepath.Join(b.dir, "root", "overlay")).Run() // not mounted is fine
	return os.RemoveAll(b.dir)
}

func (b *buildah) close() error { return b.reset(context.Background()) }

func (b *buildah) build(ctx context.Context, o order) (usage, error) {
	common := []string{"--root", filepath.Join(b.dir, "root"), "--runroot", filepath.Join(b.dir, "run"), "--storage-driver", "overlay"}
	args := append(common[:len(common):len(common)], "build", "--runtime", "runc", "--layers", "--network", "host", "--tls-verify=false", "-t", o.Image)
	if o.NoCache {
		args = append(args, "--no-cache")
	}
	if o.CacheTo != "" {
		args = append(args, "--cache-to", o.CacheTo)
	}
	if o.CacheFrom != "" {
		args = append(args, "--cache-from", o.CacheFrom)
	}
	built, err := run(exec.CommandContext(ctx, "buildah", append(args, o.Context)...))
	if err != nil {
		return usage{}, err
	}
	pushed, err := run(exec.CommandContext(ctx, "buildah", append(common[:len(common):len(common)], "push", "--tls-verify=false", o.Image, "docker://"+o.Image)...))
	total := built.plus(pushed)
	total.Peak = max(built.Peak, pushed.Peak) // one after the other
	return total, err
}
