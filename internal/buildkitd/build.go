package buildkitd

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Build is one build for the daemon, with its built-in Dockerfile frontend.
type Build struct {
	// Context and Dockerfile are directories; the file is named Dockerfile.
	Context string
	// Options are the frontend's, such as target and build-arg:NAME.
	Options map[string]string
	// Secrets are files by id.
	Secrets map[string]string
	// Output is buildctl's --output; empty means that the result is thrown away.
	Output string
	// NoCache makes every step anew; CacheTo and CacheFrom are buildctl's
	// --export-cache and --import-cache.
	NoCache            bool
	CacheTo, CacheFrom string
}

// Args are buildctl's arguments.
func (b Build) Args() []string {
	args := []string{
		"build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context=" + b.Context, "--local", "dockerfile=" + b.Context,
	}
	for _, name := range slices.Sorted(maps.Keys(b.Options)) {
		args = append(args, "--opt", name+"="+b.Options[name])
	}
	for _, id := range slices.Sorted(maps.Keys(b.Secrets)) {
		args = append(args, "--secret", "id="+id+",src="+b.Secrets[id])
	}
	if b.NoCache {
		args = append(args, "--no-cache")
	}
	for flag, value := range map[string]string{"--output": b.Output, "--export-cache": b.CacheTo, "--import-cache": b.CacheFrom} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	return args
}

// FailedError is a build that the daemon refused or that failed.
type FailedError struct {
	// Output is what buildctl printed.
	Output string
	Err    error
}

func (e *FailedError) Error() string {
	lines := strings.Split(strings.TrimSpace(e.Output), "\n")
	return fmt.Sprintf("buildctl: %v: %s", e.Err, lines[len(lines)-1])
}

func (e *FailedError) Unwrap() error { return e.Err }

// Build runs a build. A build that fails is a *FailedError.
func (d *Daemon) Build(ctx context.Context, build Build) error {
	output, err := d.control(ctx, build.Args()...)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return &FailedError{output, err}
	}
	return nil
}
