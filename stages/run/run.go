// Package run is the stage kind that runs a script, on this machine or over an
// image's root filesystem.
package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/stages/sandbox"
	"github.com/tidegate-ci/tidegate/stages/sandbox/host"
	"github.com/tidegate-ci/tidegate/stages/sandbox/oci"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

// Options say what a Kind may use.
type Options struct {
	// CacheDir keeps the stages' caches; empty means that none are kept.
	CacheDir string
	// HostCaches applies `cache:` to stages without an image too. Leave it unset
	// where such stages run in a person's own working tree and home: what they
	// leave there stays by itself.
	HostCaches bool
	// HostEnv is what commands on the host see beside a stage's environment; it
	// should hold PATH. Without HOME, each attempt gets an empty one.
	HostEnv map[string]string
	// ForksOnHost lets a pull request from a fork run commands on this machine
	// without a container. It hands the machine to strangers.
	ForksOnHost bool

	// Runtime, Store and Images serve stages with an image. NoContainers says
	// why Runtime or Store is nil; users whose stage needs them read it.
	Runtime      *oci.Runtime
	Store        *rootfs.Store
	Images       oci.Images
	NoContainers error
	// Limits bound each container.
	Limits oci.Limits
}

const (
	// workspaceTarget is where a container sees the checkout.
	workspaceTarget = "/workspace"
	outputTarget    = "/tidegate/output"
	outputVariable  = "TIDEGATE_OUTPUT"
	defaultHostPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

var defaultShell = []string{"sh", "-e", "-c"}

// Kind runs scripts. It implements pipeline.Kind.
type Kind struct {
	options Options
	caches  *caches
}

var _ pipeline.Kind = (*Kind)(nil)

// New returns the stage kind `run`.
func New(options Options) *Kind {
	return &Kind{options: options, caches: &caches{dir: options.CacheDir}}
}

// Takeover implements pipeline.Kind: a script is never continued, since what it
// had done when its worker died is not known.
func (k *Kind) Takeover() pipeline.Takeover { return pipeline.TakeoverRetry }

// Run implements pipeline.Kind.
func (k *Kind) Run(ctx context.Context, attempt pipeline.Attempt) (pipeline.Outputs, error) {
	spec := attempt.Stage.Run
	if spec == nil {
		return nil, pipeline.Fail(pipeline.CauseInvalid, "stage %s has no run section", attempt.Stage.ID)
	}
	outputs, err := k.run(ctx, attempt, spec)
	if err != nil && ctx.Err() != nil {
		return nil, endedBy(ctx)
	}
	return outputs, err
}

// endedBy keeps the reason of a cancelled context together with the error that
// pipeline.CauseOf knows.
func endedBy(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, ctx.Err()) {
		return cause
	}
	return fmt.Errorf("%w: %w", ctx.Err(), cause)
}

func (k *Kind) run(ctx context.Context, attempt pipeline.Attempt, spec *pipeline.RunSpec) (_ pipeline.Outputs, err error) {
	if spec.Image == "" && attempt.Event.Trust != event.Own && !k.options.ForksOnHost {
		return nil, pipeline.Fail(pipeline.CauseRefused, "stage %s: code from a fork runs in a container only: give the stage an image", attempt.Stage.ID)
	}
	if spec.Network == "host" && attempt.Event.Trust != event.Own {
		// This machine's loopback holds a registry and an API that trust it.
		return nil, pipeline.Fail(pipeline.CauseRefused, "stage %s: code from a fork gets no network of this machine: leave network out", attempt.Stage.ID)
	}
	dir, err := workingDirectory(attempt.Workspace, spec.WorkingDirectory)
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp("", "tidegate-run-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the attempt: %w", err)
	}
	defer os.RemoveAll(scratch)
	output := filepath.Join(scratch, "output")
	if err := os.WriteFile(output, nil, 0o600); err != nil {
		return nil, fmt.Errorf("make $%s: %w", outputVariable, err)
	}
	// A container's user may be anyone; the directory around it is ours alone.
	if err := os.Chmod(output, 0o666); err != nil {
		return nil, fmt.Errorf("make $%s: %w", outputVariable, err)
	}
	shell := spec.Shell
	if len(shell) == 0 {
		shell = defaultShell
	}
	env := map[string]string{}
	maps.Copy(env, attempt.Env)
	maps.Copy(env, attempt.Stage.Env)
	p := &place{
		kind: k, attempt: attempt, spec: spec, scratch: scratch, output: output,
		command: sandbox.Command{
			Args: append(append([]string{}, shell...), spec.Command), Dir: dir, Env: env,
			Stdout: attempt.Stdout, Stderr: attempt.Stderr, HostNetwork: spec.Network == "host",
		},
	}
	defer p.release()
	if spec.Image == "" {
		err = p.onHost(ctx)
	} else {
		err = p.inContainer(ctx)
	}
	if err != nil {
		return nil, k.explain(err, spec, shell[0])
	}
	outputs, err := readOutputs(output)
	if err != nil {
		return nil, pipeline.Fail(pipeline.CauseFailed, "%w", err)
	}
	return outputs, nil
}

// workingDirectory finds a stage's directory in the checkout, which no link of
// the checkout leads out of.
func workingDirectory(workspace, relative string) (string, error) {
	if relative == "" {
		return workspace, nil
	}
	if !filepath.IsLocal(relative) {
		return "", pipeline.Fail(pipeline.CauseInvalid, "working-directory %q: must be relative and inside the checkout", relative)
	}
	dir, err := securejoin.SecureJoin(workspace, relative)
	if err != nil {
		return "", pipeline.Fail(pipeline.CauseFailed, "working-directory %q: %w", relative, err)
	}
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return "", pipeline.Fail(pipeline.CauseFailed, "working-directory %q: no such directory in the checkout", relative)
	}
	return dir, nil
}

// explain gives an error its cause and the user a next step.
func (k *Kind) explain(err error, spec *pipeline.RunSpec, shell string) error {
	var exit *sandbox.ExitError
	var image *oci.ImageError
	var known *pipeline.Error
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &exit):
		if exit.OutOfMemory {
			return pipeline.Fail(pipeline.CauseFailed, "%w (%d MiB)", exit, k.options.Limits.MemoryBytes>>20)
		}
		if exit.Code == 127 {
			return pipeline.Fail(pipeline.CauseFailed, "%w: a command was not found", exit)
		}
		return pipeline.Fail(pipeline.CauseFailed, "%w", exit)
	case errors.As(err, &image):
		return explainImage(image)
	case errors.Is(err, oci.ErrNotExecutable):
		return pipeline.Fail(pipeline.CauseFailed, "image %s has no %s to run the script with: choose another image or set shell: %w", spec.Image, shell, err)
	}
	return pipeline.Fail(pipeline.CauseInfrastructure, "%w", err)
}

func explainImage(err *oci.ImageError) error {
	var bad *name.ErrBadName
	var answer *transport.Error
	switch {
	case errors.As(err, &bad):
		return pipeline.Fail(pipeline.CauseInvalid, "%w", err)
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		return pipeline.Fail(pipeline.CauseInvalid, "image %s does not exist: check its name and tag (%w)", err.Reference, answer)
	case errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden):
		return pipeline.Fail(pipeline.CauseInfrastructure, "image %s: the registry refuses access: it may not exist, or Tidegate needs credentials for it (docker login, or the server's registry settings) (%w)", err.Reference, answer)
	}
	return pipeline.Fail(pipeline.CauseInfrastructure, "%w: check that the registry can be reached from here", err)
}

// place is where one attempt's command runs.
type place struct {
	kind    *Kind
	attempt pipeline.Attempt
	spec    *pipeline.RunSpec
	scratch string
	output  string
	command sandbox.Command
	held    []*heldCache
	links   []string
}

func (p *place) release() {
	for _, link := range p.links {
		_ = os.Remove(link)
	}
	for _, held := range p.held {
		held.release()
	}
}

func (p *place) takeCache(cachePath string) (*heldCache, error) {
	held, err := p.kind.caches.take(cacheKey(p.attempt.Event, p.spec.Image, cachePath))
	if err == nil {
		p.held = append(p.held, held)
	}
	return held, err
}

// defaults sets variables that neither the stage nor the server set.
func defaults(env, values map[string]string) {
	for name, value := range values {
		if _, ok := env[name]; !ok {
			env[name] = value
		}
	}
}

func (p *place) onHost(ctx context.Context) error {
	env := p.command.Env
	defaults(env, p.kind.options.HostEnv)
	defaults(env, map[string]string{"PATH": defaultHostPath})
	if env["HOME"] == "" {
		home := filepath.Join(p.scratch, "home")
		if err := os.Mkdir(home, 0o700); err != nil {
			return fmt.Errorf("make a home: %w", err)
		}
		env["HOME"] = home
	}
	env[outputVariable] = p.output
	if p.kind.options.HostCaches && p.kind.options.CacheDir != "" {
		for _, cachePath := range p.spec.Cache {
			if err := p.linkCache(cachePath, env["HOME"]); err != nil {
				return err
			}
		}
	}
	return (&host.Sandbox{}).Run(ctx, p.command)
}

// linkCache shows a cache at its path by a symbolic link, unless something is
// there already.
func (p *place) linkCache(cachePath, home string) error {
	base, relative := p.attempt.Workspace, cachePath
	if rest, ok := strings.CutPrefix(cachePath, "~/"); ok {
		base, relative = home, rest
	}
	if !filepath.IsLocal(relative) || filepath.Clean(relative) == "." {
		return pipeline.Fail(pipeline.CauseInvalid, "cache %q: without an image, a cache lies inside the checkout or below ~/", cachePath)
	}
	at, err := securejoin.SecureJoin(base, relative)
	if err != nil {
		return pipeline.Fail(pipeline.CauseFailed, "cache %q: %w", cachePath, err)
	}
	if _, err := os.Lstat(at); err == nil {
		return nil
	}
	held, err := p.takeCache(cachePath)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return fmt.Errorf("cache %q: %w", cachePath, err)
	}
	if err := os.Symlink(held.dir, at); err != nil {
		return fmt.Errorf("cache %q: %w", cachePath, err)
	}
	p.links = append(p.links, at)
	return nil
}

func (p *place) inContainer(ctx context.Context) error {
	options := p.kind.options
	if options.Runtime == nil || options.Store == nil || options.Images == nil {
		reason := options.NoContainers
		if reason == nil {
			reason = oci.ErrNoRuntime
		}
		return pipeline.Fail(pipeline.CauseInfrastructure, "the stage needs a container for image %s: %w", p.spec.Image, reason)
	}
	relative, err := filepath.Rel(p.attempt.Workspace, p.command.Dir)
	if err != nil {
		return fmt.Errorf("working directory: %w", err)
	}
	p.command.Dir = path.Join(workspaceTarget, filepath.ToSlash(relative))
	p.command.Env[outputVariable] = outputTarget
	p.command.Mounts = []sandbox.Mount{{Source: p.attempt.Workspace, Target: workspaceTarget}, {Source: p.output, Target: outputTarget}}
	if options.CacheDir != "" {
		for _, cachePath := range p.spec.Cache {
			target := cachePath
			if !path.IsAbs(target) && !strings.HasPrefix(target, "~/") {
				if !filepath.IsLocal(target) || path.Clean(target) == "." {
					return pipeline.Fail(pipeline.CauseInvalid, "cache %q: must be absolute, below ~/, or inside the checkout", cachePath)
				}
				target = path.Join(workspaceTarget, target)
			}
			held, err := p.takeCache(cachePath)
			if err != nil {
				return err
			}
			p.command.Mounts = append(p.command.Mounts, sandbox.Mount{Source: held.dir, Target: target})
		}
	}
	box := &oci.Sandbox{
		Runtime: options.Runtime, Store: options.Store, Images: options.Images,
		Reference: p.spec.Image, Limits: options.Limits, Progress: p.attempt.Progress,
	}
	return box.Run(ctx, p.command)
}
