package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/internal/heap"
	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
)

// buildFlags are the flags of build, a group a subject.
type buildFlags struct {
	buildRequestFlags
	buildOutputFlags
	buildRegistryFlags
	buildCacheFlags
	buildContainerFlags
	buildDebugFlags
	buildLogFlags
	buildCheckFlags
	buildContextFlags
	buildAttestFlags
	progress string
}

func newBuildCommand() *cobra.Command {
	var f buildFlags
	command := &cobra.Command{
		Use:   "build [CONTEXT]",
		Short: "Build an image from a Dockerfile, without a daemon",
		Long: `Build an image from a Dockerfile, without a daemon, and push it if asked to.

CONTEXT is where files are copied from: a directory, the current one if left
out; a Git repository, https://HOST/REPOSITORY.git#REF:DIRECTORY or
git@HOST:REPOSITORY; the URL of a tar archive or of a Dockerfile; or - for
either of those from standard input.

Layers of COPY, ADD and WORKDIR need no root filesystem. RUN needs an OCI runtime
(runc or crun) and, for users other than root, user namespaces; it gets no network
unless it says RUN --network=host or the build is given --network=host.

The same files and arguments give the same digest on every machine. Files in
the image carry the time SOURCE_DATE_EPOCH, or 1970 if that is not set.`,
		Example: `  # build, and push under two tags
  tidegate build -t registry.example.com/shop:1.2 -t registry.example.com/shop:latest --push .

  # for two platforms, as an index
  tidegate build --platform linux/amd64,linux/arm64 -t registry.example.com/shop:1.2 --push .

  # one stage of another Dockerfile, with an argument; its files into a folder
  tidegate build -f deploy/Dockerfile --target test --build-arg GO_VERSION=1.26 --output out .

  # an OCI layout, as a directory
  tidegate build --output type=oci,dest=layout,tar=false .

  # take base images of Docker Hub from a mirror first
  tidegate build --mirror docker.io=127.0.0.1:5000 -t shop --registry 127.0.0.1:5000 --push .

  # a secret that never enters a layer: RUN --mount=type=secret,id=npm …
  tidegate build --secret id=npm,src=$HOME/.npmrc .

  # look for mistakes without building
  tidegate build --check .

  # a registry with an authority of its own
  tidegate build --registry-ca registry.example.com=ca.pem -t registry.example.com/shop --push .

  # hand the result to Docker: the one that runs, or by a pipe
  tidegate build -t shop:dev --load .
  tidegate build -t shop:dev -o type=docker,dest=- . | docker load`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			heap.Pace()
			return asRoot(func() error { return f.run(cmd, dir) })
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	flags := command.Flags()
	f.buildRequestFlags.register(flags)
	f.buildOutputFlags.register(flags)
	f.buildRegistryFlags.register(flags)
	f.buildCacheFlags.register(flags)
	f.buildContainerFlags.register(flags)
	f.buildCheckFlags.register(flags)
	f.buildContextFlags.register(flags)
	f.buildDebugFlags.register(flags)
	f.buildLogFlags.register(flags)
	flags.StringVar(&f.progress, "progress", "auto", "how to show progress: "+strings.Join(progressKinds, ", "))
	f.buildAttestFlags.register(flags)
	for flag, values := range map[string][]string{
		"progress": progressKinds, "network": {"none", "host"}, "compression": {"gzip", "zstd", "uncompressed"},
		"platform":   {"linux/amd64", "linux/arm64", "linux/amd64,linux/arm64", "linux/arm/v7", "local"},
		"output":     {"type=oci,dest=", "type=docker,dest=", "type=tar,dest=", "type=local,dest=", "type=registry,name=", "type=image,push=true,name="},
		"annotation": {"manifest:", "index:", "manifest-descriptor:", "index-descriptor:"},
	} {
		_ = command.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	}
	for _, flag := range []string{"target", "no-cache-filter"} {
		_ = command.RegisterFlagCompletionFunc(flag, completeTarget(&f)) // the flag exists
	}
	return command
}

// completeTarget offers the stages of the Dockerfile.
func completeTarget(f *buildFlags) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		file := f.file
		if file == "" {
			file = image.DefaultDockerfile
			if len(args) > 0 {
				file = filepath.Join(args[0], file)
			}
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		document, err := plan.Parse(file, data)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return document.StageNames(), cobra.ShellCompDirectiveNoFileComp
	}
}

func (f *buildFlags) run(cmd *cobra.Command, dir string) error {
	request, err := f.request(cmd, dir)
	if err != nil {
		return err
	}
	if err := f.buildContextFlags.add(&request, cmd.InOrStdin()); err != nil {
		return err
	}
	if err := f.caches(&request); err != nil {
		return err
	}
	if err := f.container(&request); err != nil {
		return err
	}
	if err := f.into(&request, cmd.OutOrStdout()); err != nil {
		return err
	}
	if err := f.buildAttestFlags.apply(&request); err != nil {
		return err
	}
	builder, err := f.builder()
	if err != nil {
		return err
	}
	if f.check != "" {
		return f.buildCheckFlags.run(cmd, builder, request)
	}
	shown := cmd.ErrOrStderr()
	if f.quiet {
		shown = io.Discard
	}
	renderer, err := newRenderer(f.progress, shown)
	if err != nil {
		return err
	}
	defer renderer.Close()
	log, err := f.buildLogFlags.open(builder.Store)
	if err != nil {
		return err
	}
	log.debugged = f.debug != ""
	request.Progress = log.record(renderer.Event)
	if err := f.prepare(&request, cmd.InOrStdin(), cmd.ErrOrStderr(), renderer.Close); err != nil {
		return err
	}
	result, err := builder.Build(cmd.Context(), request)
	if err != nil {
		renderer.Close()
	}
	log.finish(cmd.ErrOrStderr(), err)
	if err != nil {
		return err
	}
	renderer.Event(progress.Event{
		Time: time.Now(), Kind: progress.Result, Digest: result.Digest.String(),
		Text: summary(result),
	})
	renderer.Close()
	return f.tell(cmd, request, result)
}
