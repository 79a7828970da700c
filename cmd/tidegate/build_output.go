package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
)

// buildOutputFlags say where the result goes, and in what form.
type buildOutputFlags struct {
	tags, outputs, annotations, labels []string
	push, load, quiet, forceCodec      bool
	iidFile, metadataFile, compression string
	level                              int
	levelFlag                          *pflag.Flag
}

func (f *buildOutputFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&f.tags, "tag", "t", nil, "name of the image, [HOST/]REPOSITORY[:TAG]; may be repeated")
	flags.BoolVar(&f.push, "push", false, "push the image under its names")
	flags.BoolVar(&f.load, "load", false, "hand the image to the running Docker (DOCKER_HOST)")
	flags.StringArrayVarP(&f.outputs, "output", "o", nil, `where else the result goes: type=oci, docker, tar, local, image or registry with dest=, name=, push= …; a folder's name; - for a tar stream; may be repeated`)
	flags.StringArrayVar(&f.labels, "label", nil, "label of the image, NAME=VALUE; may be repeated")
	flags.StringArrayVar(&f.annotations, "annotation", nil, "annotation, [LEVEL[PLATFORM]:]NAME=VALUE with the levels manifest, index, manifest-descriptor and index-descriptor; may be repeated")
	flags.StringVar(&f.iidFile, "iidfile", "", "write the image's ID to this file: its configuration's digest, or the index's")
	flags.StringVar(&f.metadataFile, "metadata-file", "", "write digests and names as JSON to this file")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "show no progress, and print the image's ID alone")
	flags.StringVar(&f.compression, "compression", "gzip", "compression of layers: gzip, zstd or uncompressed")
	flags.IntVar(&f.level, "compression-level", 0, "compression level: 0 to 9 for gzip, 1 to 22 for zstd (default the usual one)")
	flags.BoolVar(&f.forceCodec, "force-compression", false, "compress the layers of base images anew too")
	f.levelFlag = flags.Lookup("compression-level")
}

// outputs works the flags into the request.
func (f *buildOutputFlags) into(r *image.Request, stdout io.Writer) error {
	r.Tags, r.Push, r.ForceCodec, r.OutputStream = f.tags, f.push, f.forceCodec, stdout
	for _, text := range f.outputs {
		o, err := image.ParseOutput(text)
		if err != nil {
			return usageErrorf("--output: %w", err)
		}
		r.Outputs = append(r.Outputs, o)
	}
	if f.load {
		r.Outputs = append(r.Outputs, image.Output{Kind: image.OutputLoad})
	}
	if f.push && len(f.tags) == 0 && !named(r.Outputs) {
		return usageErrorf("--push needs a name: give one with -t")
	}
	if toStdout(r.Outputs) > 1 {
		return usageErrorf("--output: only one output can go to the standard output")
	}
	r.Labels = map[string]string{}
	for _, pair := range f.labels {
		name, value, _ := strings.Cut(pair, "=")
		if name == "" {
			return usageErrorf("--label %q: want NAME=VALUE", pair)
		}
		r.Labels[name] = value
	}
	for _, text := range f.annotations {
		all, err := image.ParseAnnotation(text)
		if err != nil {
			return usageErrorf("--annotation: %w", err)
		}
		r.Annotations = append(r.Annotations, all...)
	}
	var level *int
	if f.levelFlag != nil && f.levelFlag.Changed {
		level = &f.level
	}
	codec, err := layer.ParseCodec(f.compression, level)
	if err != nil {
		return usageErrorf("--compression: %w", err)
	}
	if codec != layer.Gzip { // the default, which an output may change
		r.Codec = codec
	}
	return nil
}

func named(outputs []image.Output) bool {
	for _, o := range outputs {
		if o.Push && len(o.Names) > 0 {
			return true
		}
	}
	return false
}

func toStdout(outputs []image.Output) int {
	n := 0
	for _, o := range outputs {
		if o.ToStdout() {
			n++
		}
	}
	return n
}

// tell writes the files that name the result, and prints what names it: where
// the standard output carries the result itself, to the standard error.
func (f *buildOutputFlags) tell(cmd *cobra.Command, request image.Request, result *image.Result) error {
	if f.iidFile != "" {
		if err := os.WriteFile(f.iidFile, []byte(result.ImageID().String()), 0o644); err != nil {
			return fmt.Errorf("--iidfile: %w", err)
		}
	}
	if f.metadataFile != "" {
		if err := f.writeMetadata(request, result); err != nil {
			return fmt.Errorf("--metadata-file: %w", err)
		}
	}
	names := result.Digest
	if f.quiet {
		names = result.ImageID()
	}
	out := cmd.OutOrStdout()
	if toStdout(request.Outputs) > 0 {
		out = cmd.ErrOrStderr()
	}
	_, err := fmt.Fprintln(out, names)
	return err
}

// buildMetadata has the keys of docker buildx, and our own.
type buildMetadata struct {
	Digest       v1.Hash       `json:"containerimage.digest"`
	ConfigDigest *v1.Hash      `json:"containerimage.config.digest,omitempty"`
	Descriptor   v1.Descriptor `json:"containerimage.descriptor"`
	Name         string        `json:"image.name,omitempty"`
	Pushed       []string      `json:"tidegate.pushed,omitempty"`
	// Platforms are the digests of an index's images.
	Platforms map[string]v1.Hash `json:"tidegate.platforms,omitempty"`
}

func (f *buildOutputFlags) writeMetadata(request image.Request, result *image.Result) error {
	names := append([]string{}, request.Tags...)
	for _, o := range request.Outputs {
		names = append(names, o.Names...)
	}
	m := buildMetadata{Digest: result.Digest, Descriptor: result.Descriptor, Name: strings.Join(names, ","), Pushed: result.Pushed}
	if result.Index == nil {
		config := result.ImageID()
		m.ConfigDigest = &config
	} else {
		m.Platforms = map[string]v1.Hash{}
		for _, i := range result.Images {
			m.Platforms[i.Descriptor.Platform.String()] = i.Digest
		}
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(f.metadataFile, append(data, '\n'), 0o644)
}
