package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/pflag"

	"github.com/tidegate-ci/tidegate/stages/image"
)

// buildOutputFlags say where the result goes.
type buildOutputFlags struct {
	tags, outputs         []string
	push                  bool
	iidFile, metadataFile string
}

func (f *buildOutputFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&f.tags, "tag", "t", nil, "name of the image, [HOST/]REPOSITORY[:TAG]; may be repeated")
	flags.BoolVar(&f.push, "push", false, "push the image under its names")
	flags.StringVar(&f.iidFile, "iidfile", "", "write the image's digest to this file")
	flags.StringVar(&f.metadataFile, "metadata-file", "", "write digest and names as JSON to this file")
	flags.StringArrayVarP(&f.outputs, "output", "o", nil, "also write the image: type=oci,dest=DIR or type=docker,dest=FILE; may be repeated")
}

type buildOutput struct{ kind, dest string }

func (f *buildOutputFlags) parseOutputs() ([]buildOutput, error) {
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

func (o buildOutput) write(ctx context.Context, result *image.Result, tags []string) (err error) {
	var names []name.Reference
	for _, tag := range tags {
		ref, err := name.ParseReference(tag, name.WeakValidation)
		if err != nil {
			return usageErrorf("-t %s: %w", tag, err)
		}
		names = append(names, ref)
	}
	if o.kind == "oci" {
		return result.WriteLayout(ctx, o.dest, names)
	}
	file, err := os.Create(o.dest)
	if err != nil {
		return fmt.Errorf("--output type=docker: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return result.WriteDocker(ctx, file, names)
}

func (f *buildOutputFlags) writeFiles(result *image.Result, tags []string) error {
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
