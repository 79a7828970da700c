package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

type buildFlags struct {
	file, target, platform, network, progress, iidFile, metadataFile, compression string
	tags, args, labels, outputs, secrets, mirrors, insecure                       []string
	push, noCache                                                                 bool
	registry, cacheDir                                                            string
	cacheBytes                                                                    int64
}

func newBuildCommand() *cobra.Command {
	var f buildFlags
	command := &cobra.Command{
		Use:   "build [CONTEXT]",
		Short: "Build an image from a Dockerfile, without a daemon",
		Long: `Build an image from a Dockerfile, without a daemon, and push it if asked to.

CONTEXT is the directory files are copied from, the current one if left out.
Layers of COPY, ADD and WORKDIR need no root filesystem; RUN needs root and an
OCI runtime (runc or crun), and gets no network unless it says
RUN --network=host or the build is given --network=host.

The same files and arguments give the same digest on every machine. Files in
the image carry the time SOURCE_DATE_EPOCH, or 1970 if that is not set.`,
		Example: `  # build, and push under two tags
  tidegate build -t registry.example.com/shop:1.2 -t registry.example.com/shop:latest --push .

  # one stage of another Dockerfile, with an argument; write an OCI layout
  tidegate build -f deploy/Dockerfile --target test --build-arg GO_VERSION=1.26 --output type=oci,dest=out .

  # take base images of Docker Hub from a mirror first
  tidegate build --mirror docker.io=127.0.0.1:5000 -t shop --registry 127.0.0.1:5000 --push .

  # a secret that never enters a layer: RUN --mount=type=secret,id=npm …
  tidegate build --secret id=npm,src=$HOME/.npmrc .

  # hand the result to Docker
  tidegate build -t shop:dev --output type=docker,dest=shop.tar . && docker load -i shop.tar`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return f.run(cmd, dir)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	flags := command.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "the Dockerfile (default CONTEXT/Dockerfile); - reads it from standard input")
	flags.StringArrayVarP(&f.tags, "tag", "t", nil, "name of the image, [HOST/]REPOSITORY[:TAG]; may be repeated")
	flags.StringVar(&f.target, "target", "", "build this stage and what it needs (default the last stage)")
	flags.StringArrayVar(&f.args, "build-arg", nil, "value of an ARG, NAME=VALUE; NAME alone takes it from the environment; may be repeated")
	flags.StringArrayVar(&f.labels, "label", nil, "label of the image, NAME=VALUE; may be repeated")
	flags.StringArrayVar(&f.secrets, "secret", nil, "secret for RUN --mount=type=secret, id=ID,src=FILE or id=ID,env=NAME; may be repeated")
	flags.BoolVar(&f.push, "push", false, "push the image under its names")
	flags.BoolVar(&f.noCache, "no-cache", false, "make every step anew")
	flags.StringVar(&f.platform, "platform", "", "what the image is for, such as linux/arm64 (default this machine's)")
	flags.StringVar(&f.network, "network", "none", "network of RUN steps that do not choose: none or host")
	flags.StringVar(&f.progress, "progress", "auto", "how to show progress: auto, plain, tty or json")
	flags.StringVar(&f.iidFile, "iidfile", "", "write the image's digest to this file")
	flags.StringVar(&f.metadataFile, "metadata-file", "", "write digest and names as JSON to this file")
	flags.StringArrayVarP(&f.outputs, "output", "o", nil, "also write the image: type=oci,dest=DIR or type=docker,dest=FILE; may be repeated")
	flags.StringVar(&f.compression, "compression", "gzip", "compression of layers: gzip or zstd")
	flags.StringVar(&f.registry, "registry", os.Getenv("TIDEGATE_REGISTRY"), "registry host for names that have none (TIDEGATE_REGISTRY)")
	flags.StringArrayVar(&f.mirrors, "mirror", listFrom("TIDEGATE_MIRRORS"), "try a mirror before a registry, REGISTRY=HOST; may be repeated (TIDEGATE_MIRRORS, separated by commas)")
	flags.StringArrayVar(&f.insecure, "insecure-registry", listFrom("TIDEGATE_INSECURE_REGISTRIES"), "registry host to reach without TLS; loopback needs none; may be repeated")
	flags.StringVar(&f.cacheDir, "cache-dir", os.Getenv("TIDEGATE_CACHE"), "where layers are kept (TIDEGATE_CACHE; default the user's cache directory)")
	flags.Int64Var(&f.cacheBytes, "cache-size", store.DefaultMaxBytes, "cap on kept layers, in bytes")
	for flag, values := range map[string][]string{
		"progress": {"auto", "plain", "tty", "json"}, "network": {"none", "host"}, "compression": {"gzip", "zstd"},
		"platform": {"linux/amd64", "linux/arm64"},
	} {
		_ = command.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	}
	_ = command.RegisterFlagCompletionFunc("target", completeTarget(&f)) // the flag exists
	return command
}

func listFrom(variable string) []string {
	var list []string
	for _, item := range strings.Split(os.Getenv(variable), ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
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
	outputs, err := f.parseOutputs()
	if err != nil {
		return err
	}
	builder, err := f.builder()
	if err != nil {
		return err
	}
	renderer, err := newRenderer(f.progress, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer renderer.Close()
	request.Progress = renderer.Event
	result, err := builder.Build(cmd.Context(), request)
	if err != nil {
		renderer.Close()
		return err
	}
	for _, o := range outputs {
		if err := o.write(cmd.Context(), result, request.Tags); err != nil {
			return err
		}
	}
	if err := f.writeFiles(result, request.Tags); err != nil {
		return err
	}
	renderer.Event(progress.Event{
		Time: time.Now(), Kind: progress.Result, Digest: result.Digest.String(),
		Text: summary(result),
	})
	renderer.Close()
	_, err = fmt.Fprintln(cmd.OutOrStdout(), result.Digest)
	return err
}

func summary(r *image.Result) string {
	text := fmt.Sprintf("built %s: %d steps made, %d cached", r.Digest, r.Stats.Made, r.Stats.Cached)
	if len(r.Pushed) > 0 {
		text += "; pushed " + strings.Join(r.Pushed, ", ")
	}
	return text
}

func (f *buildFlags) request(cmd *cobra.Command, dir string) (image.Request, error) {
	r := image.Request{
		Context: dir, Dockerfile: f.file, Target: f.target, Tags: f.tags, Push: f.push, NoCache: f.noCache,
		Codec: layer.Codec(f.compression), Args: map[string]string{}, Labels: map[string]string{},
		Secrets: map[string][]byte{}, Scope: "local",
	}
	if f.file == "-" {
		data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), plan.MaxDockerfile+1))
		if err != nil {
			return r, fmt.Errorf("read Dockerfile from standard input: %w", err)
		}
		r.Dockerfile, r.DockerfileData = "Dockerfile", data
	}
	if f.compression != string(layer.Gzip) && f.compression != string(layer.Zstd) {
		return r, usageErrorf("--compression %s: use gzip or zstd", f.compression)
	}
	switch f.network {
	case "none", "default":
	case "host":
		r.HostNetwork = true
	default:
		return r, usageErrorf("--network %s: use none or host", f.network)
	}
	if f.push && len(f.tags) == 0 {
		return r, usageErrorf("--push needs a name: give one with -t")
	}
	if f.platform != "" {
		if strings.Contains(f.platform, ",") {
			return r, usageErrorf("--platform %s: one platform at a time for now; build each and join them with an index", f.platform)
		}
		var err error
		if r.Platform, err = plan.ParsePlatform(f.platform); err != nil {
			return r, usageErrorf("--platform: %w", err)
		}
	}
	for _, pair := range f.args {
		name, value, given := strings.Cut(pair, "=")
		if name == "" {
			return r, usageErrorf("--build-arg %q: want NAME=VALUE", pair)
		}
		if !given {
			if value, given = os.LookupEnv(name); !given {
				continue // as if it had not been named
			}
		}
		r.Args[name] = value
	}
	for _, pair := range f.labels {
		name, value, _ := strings.Cut(pair, "=")
		if name == "" {
			return r, usageErrorf("--label %q: want NAME=VALUE", pair)
		}
		r.Labels[name] = value
	}
	if err := readSecrets(f.secrets, r.Secrets); err != nil {
		return r, err
	}
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if given, ok := r.Args["SOURCE_DATE_EPOCH"]; ok {
		epoch = given
	}
	if epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil || seconds < 0 {
			return r, usageErrorf("SOURCE_DATE_EPOCH=%q: want seconds since 1970", epoch)
		}
		r.Epoch = time.Unix(seconds, 0)
	}
	return r, nil
}

// maxSecret bounds a secret, in bytes.
const maxSecret = 1 << 20

func readSecrets(texts []string, into map[string][]byte) error {
	for _, text := range texts {
		fields, err := parseFields("--secret", text, "id", "src", "source", "env", "type")
		if err != nil {
			return err
		}
		id, source, variable := fields["id"], fields["src"]+fields["source"], fields["env"]
		switch {
		case id == "":
			return usageErrorf("--secret %s: want id=ID,src=FILE or id=ID,env=NAME", text)
		case source == "" && variable == "":
			variable = id // as docker does: a variable of that name, or else a file
			if _, ok := os.LookupEnv(id); !ok {
				source, variable = id, ""
			}
		}
		if source == "" {
			value, ok := os.LookupEnv(variable)
			if !ok {
				return usageErrorf("--secret id=%s: the environment has no %s", id, variable)
			}
			into[id] = []byte(value)
			continue
		}
		file, err := os.Open(source)
		if err != nil {
			return usageErrorf("--secret id=%s: %w", id, err)
		}
		value, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("--secret id=%s: %w", id, err)
		}
		if len(value) > maxSecret {
			return usageErrorf("--secret id=%s: larger than %d bytes", id, maxSecret)
		}
		into[id] = value
	}
	return nil
}

// parseFields reads "key=value,key=value" with known keys.
func parseFields(flag, text string, known ...string) (map[string]string, error) {
	fields := map[string]string{}
	for _, field := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(field, "=")
		found := false
		for _, k := range known {
			found = found || k == key
		}
		if !ok || !found {
			return nil, usageErrorf("%s %s: %q is not one of %s", flag, text, field, strings.Join(known, "=, ")+"=")
		}
		fields[key] = value
	}
	return fields, nil
}

func (f *buildFlags) builder() (*image.Builder, error) {
	mirrors := map[string][]string{}
	for _, text := range f.mirrors {
		of, host, ok := strings.Cut(text, "=")
		if !ok || of == "" || host == "" {
			return nil, usageErrorf("--mirror %q: want REGISTRY=HOST, such as docker.io=127.0.0.1:5000", text)
		}
		mirrors[of] = append(mirrors[of], host)
	}
	dir := f.cacheDir
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, usageErrorf("no place to keep layers: %w; set --cache-dir", err)
		}
		dir = filepath.Join(base, "tidegate")
	}
	client := registry.New(registry.Options{Default: f.registry, Mirrors: mirrors, Insecure: f.insecure})
	return image.NewLocal(dir, client, store.Options{MaxBytes: f.cacheBytes})
}

// fallbackWidth is taken for a terminal that does not tell its width.
const fallbackWidth = 80

func newRenderer(kind string, to io.Writer) (progress.Renderer, error) {
	file, isFile := to.(*os.File)
	terminal := isFile && term.IsTerminal(int(file.Fd()))
	switch {
	case kind == "json":
		return progress.JSON(to), nil
	case kind == "plain", kind == "auto" && !terminal:
		return progress.Plain(to), nil
	case kind == "tty", kind == "auto":
		return progress.TTY(to, func() int {
			if isFile {
				if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
					return width
				}
			}
			return fallbackWidth
		}, time.Now), nil
	}
	return nil, usageErrorf("--progress %s: use auto, plain, tty or json", kind)
}

type buildOutput struct{ kind, dest string }

func (f *buildFlags) parseOutputs() ([]buildOutput, error) {
	var all []buildOutput
	for _, text := range f.outputs {
		fields, err := parseFields("--output", text, "type", "dest")
		if err != nil {
			return nil, err
		}
		o := buildOutput{fields["type"], fields["dest"]}
		if (o.kind != "oci" && o.kind != "docker") || o.dest == "" {
			return nil, usageErrorf("--output %s: want type=oci,dest=DIR or type=docker,dest=FILE", text)
		}
		if o.kind == "docker" && len(f.tags) == 0 {
			return nil, usageErrorf("--output type=docker needs a name: give one with -t")
		}
		all = append(all, o)
	}
	return all, nil
}

func (o buildOutput) write(ctx context.Context, result *image.Result, tags []string) error {
	if o.kind == "oci" {
		return result.WriteLayout(ctx, o.dest)
	}
	tag, err := name.ParseReference(tags[0], name.WeakValidation)
	if err != nil {
		return usageErrorf("-t %s: %w", tags[0], err)
	}
	return result.WriteDocker(ctx, o.dest, tag)
}

func (f *buildFlags) writeFiles(result *image.Result, tags []string) error {
	if f.iidFile != "" {
		if err := os.WriteFile(f.iidFile, []byte(result.Digest.String()), 0o644); err != nil {
			return fmt.Errorf("--iidfile: %w", err)
		}
	}
	if f.metadataFile == "" {
		return nil
	}
	config := struct {
		Digest string   `json:"containerimage.digest"`
		Name   string   `json:"image.name,omitempty"`
		Pushed []string `json:"tidegate.pushed,omitempty"`
	}{result.Digest.String(), strings.Join(tags, ","), result.Pushed}
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return fmt.Errorf("--metadata-file: %w", err)
	}
	if err := os.WriteFile(f.metadataFile, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("--metadata-file: %w", err)
	}
	return nil
}
