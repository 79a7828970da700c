package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/sandbox"
	"github.com/tidegate-ci/tidegate/stages/sandbox/oci"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

func (r *stepRun) run(ctx context.Context, c *plan.Run) (layer.Layer, bool, error) {
	network := c.HostNetwork || (r.request.HostNetwork && !c.Offline)
	if network && r.request.Isolated {
		return layer.Layer{}, false, pipeline.Fail(pipeline.CauseRefused, "the host's network is refused: code from a fork gets no network of this machine")
	}
	sources, err := r.mountSources(ctx, c.Mounts)
	if err != nil {
		return layer.Layer{}, false, err
	}
	key := withSetup(runKey(r.setting, c, network, origins(sources)), r.request.Setup)
	if made, ok, err := r.cached(ctx, key, seesSecrets(c)); err != nil || ok {
		return made, ok, err
	}
	if err := r.running.Acquire(ctx, 1); err != nil {
		return layer.Layer{}, false, err
	}
	defer r.running.Release(1)
	mounts, err := r.prepareMounts(ctx, c, sources)
	defer mounts.release()
	if err != nil {
		return layer.Layer{}, false, err
	}
	snapshot, err := r.mount(ctx, r.chain)
	if err != nil {
		return layer.Layer{}, false, err
	}
	made, err := r.runIn(ctx, snapshot, c, network, mounts)
	if err != nil {
		return layer.Layer{}, false, errors.Join(err, snapshot.Close())
	}
	// What it changed may be a layer already, and all of it is to be removed.
	r.tidying.Go(snapshot.Close)
	return made, false, r.keep(key, made)
}

// seesSecrets tells whether what a command makes may hold something that not
// everybody who can read the Dockerfile may see: a secret, or what was fetched
// with somebody's keys.
func seesSecrets(c *plan.Run) bool {
	return slices.ContainsFunc(c.Mounts, func(m plan.Mount) bool { return m.Kind == plan.MountSecret || m.Kind == plan.MountSSH })
}

func (r *stepRun) runIn(ctx context.Context, snapshot *rootfs.Snapshot, c *plan.Run, network bool, mounts *stepMounts) (layer.Layer, error) {
	runner, err := r.Runner(ctx)
	if err != nil {
		return layer.Layer{}, err
	}
	stdout := r.output("stdout", r.request.Stdout)
	stderr := r.output("stderr", r.request.Stderr)
	env := map[string]string{}
	for _, pairs := range [][]string{c.Unkeyed, c.Env, mounts.env} {
		for _, pair := range pairs {
			// A base image may have variables without a name, as those of Windows.
			if name, value, _ := strings.Cut(pair, "="); name != "" {
				env[name] = value
			}
		}
	}
	command := sandbox.Command{
		Args: c.Args, Dir: c.Dir, Env: env, Stdout: stdout, Stderr: stderr,
		Mounts: mounts.binds, User: c.User, HostNetwork: network, Setup: r.request.Setup,
	}
	grown := &growth{session: r.session, upper: snapshot.Upper, caches: mounts.caches}
	err = grown.during(ctx, r.now, func(ctx context.Context) error {
		return runner.Run(ctx, snapshot.Root, command, r.limits())
	})
	stdout.Close()
	stderr.Close()
	if err != nil {
		err = r.commandError(err, c, network)
		r.debug(ctx, err, snapshot.Root, command, runner)
		return layer.Layer{}, errors.Join(err, grown.end(false))
	}
	made, err := r.difference(ctx, snapshot)
	return made, errors.Join(err, grown.end(err == nil && !made.Empty))
}

// limits are the builder's, and the request's where they are tighter.
func (r *stepRun) limits() oci.Limits {
	limits := r.Limits
	if own := r.request.MemoryBytes; own > 0 && (limits.MemoryBytes == 0 || own < limits.MemoryBytes) {
		limits.MemoryBytes = own
	}
	return limits
}

// commandError words the end of a command, and says what often lies behind it.
func (r *stepRun) commandError(err error, c *plan.Run, network bool) error {
	var exit *sandbox.ExitError
	switch {
	case errors.As(err, &exit):
		if !network && looksOffline(r.tail.last()) {
			r.hint = "The step has no network. Give it one with RUN --network=host, or build with --network=host."
		}
		return fmt.Errorf("the command failed: %w", err)
	case errors.Is(err, oci.ErrNotExecutable):
		if len(c.Args) > 0 && len(r.chain) == 0 {
			r.hint = "The stage starts FROM scratch, so there is no shell or program in it."
		}
		return failed(err)
	}
	return err
}

// looksOffline tells whether output reads like a command that misses a network.
func looksOffline(lines []string) bool {
	text := strings.ToLower(strings.Join(lines, "\n"))
	for _, sign := range []string{
		"could not resolve", "temporary failure", "name resolution", "network is unreachable", "no such host",
		"bad address", "unable to resolve", "dial tcp", "getaddrinfo", "connection refused", "failed to fetch", "temporary error",
	} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// difference makes a layer of what the command changed.
func (r *stepRun) difference(ctx context.Context, snapshot *rootfs.Snapshot) (layer.Layer, error) {
	w, err := layer.NewWriter(r.session, r.request.Codec)
	if err != nil {
		return layer.Layer{}, err
	}
	// The table of contents is read from the same stream on its way.
	reading, writing := io.Pipe()
	type tabled struct {
		table *layer.Table
		err   error
	}
	done := make(chan tabled, 1)
	go func() {
		table, err := layer.ReadTable(reading)
		_ = reading.CloseWithError(err) // a nil error is io.EOF to the writer, which is done
		done <- tabled{table, err}
	}()
	changed, err := snapshot.Diff(ctx, io.MultiWriter(w, writing), rootfs.DiffOptions{Epoch: r.request.Epoch})
	_ = writing.CloseWithError(err) // nil ends the stream
	table := <-done
	if err := errors.Join(err, table.err); err != nil {
		w.Abort()
		return layer.Layer{}, err
	}
	if !changed {
		w.Abort()
		return layer.Layer{Empty: true}, nil
	}
	made, err := w.Commit()
	if err != nil {
		return layer.Layer{}, err
	}
	unpacked, err := r.Rootfs()
	if err != nil {
		return layer.Layer{}, err
	}
	if err := unpacked.Adopt(ctx, snapshot, made.DiffID); err != nil {
		return layer.Layer{}, err
	}
	return made, r.keepTable(made.DiffID, table.table)
}

func origins(sources []*files) []origin {
	all := make([]origin, len(sources))
	for i, s := range sources {
		all[i] = s.origin
	}
	return all
}
