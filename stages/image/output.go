package image

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
)

// OutputKind says what form a result is written in.
type OutputKind string

// The kinds of Output, by the names that docker buildx gives them.
const (
	// OutputOCI is an OCI image layout, OutputDocker what `docker load` reads.
	OutputOCI    OutputKind = "oci"
	OutputDocker OutputKind = "docker"
	// OutputTar and OutputLocal are the files of the image alone.
	OutputTar   OutputKind = "tar"
	OutputLocal OutputKind = "local"
	// OutputImage stays in the build cache, and goes to a registry with Push.
	OutputImage OutputKind = "image"
	// OutputLoad goes into a running Docker.
	OutputLoad OutputKind = "load"
)

// Stdout as an output's destination is the standard output.
const Stdout = "-"

// Output says where a result goes.
type Output struct {
	Kind OutputKind
	// Dest is a file or directory, or Stdout.
	Dest string
	// Archive makes OutputOCI a tar stream or a directory; nil is a tar stream,
	// unless Dest is a directory.
	Archive *bool
	// Names are the image's in this output; none means those of the request.
	Names []string
	// Push is for OutputImage; ByDigest pushes without tags.
	Push, ByDigest bool
	// Split puts each platform's files into a folder of its own, for OutputTar
	// and OutputLocal; nil means when there are several.
	Split *bool
	// Codec and ForceCodec are set when the output asks for a compression.
	Codec      layer.Codec
	ForceCodec bool
	// Annotations are added to those of the request.
	Annotations Annotations
}

// ParseOutput reads what --output takes: key=value pairs as docker buildx has
// them, a folder's name alone, or "-" for a tar stream on standard output.
func ParseOutput(text string) (Output, error) {
	fail := func(format string, args ...any) (Output, error) {
		return Output{}, fmt.Errorf("output %q: %w", text, fmt.Errorf(format, args...))
	}
	if text == Stdout {
		return Output{Kind: OutputTar, Dest: Stdout}, nil
	}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return fail("want key=value pairs separated by commas, or a folder: %w", err)
	}
	if len(fields) == 1 && !strings.Contains(fields[0], "=") {
		return Output{Kind: OutputLocal, Dest: fields[0]}, nil
	}
	p := outputParser{}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return fail("%q is no key=value", field)
		}
		if err := p.set(strings.TrimSpace(key), value); err != nil {
			return fail("%w", err)
		}
	}
	o, err := p.finish()
	if err != nil {
		return fail("%w", err)
	}
	return o, nil
}

type outputParser struct {
	Output
	level *int
	push  *bool
}

// settled are keys of docker buildx that always have one value here.
var settled = map[string]string{"oci-mediatypes": "true", "rewrite-timestamp": "true", "store": "true", "unpack": "false", "attestation-inline": "false"}

func (p *outputParser) set(key, value string) error {
	boolean := func(to *bool) error {
		b, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%s=%s: want true or false", key, value)
		}
		*to = b
		return nil
	}
	switch key {
	case "type":
		p.Kind = OutputKind(value)
		return nil
	case "dest":
		p.Dest = value
		return nil
	case "name":
		p.Names = append(p.Names, strings.Split(value, ",")...)
		return nil
	case "tar":
		p.Archive = new(bool)
		return boolean(p.Archive)
	case "push":
		p.push = new(bool)
		return boolean(p.push)
	case "push-by-digest":
		return boolean(&p.ByDigest)
	case "platform-split":
		p.Split = new(bool)
		return boolean(p.Split)
	case "compression":
		p.Codec = layer.Codec(value)
		return nil
	case "compression-level":
		level, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("%s=%s: want a number", key, value)
		}
		p.level = &level
		return nil
	case "force-compression":
		return boolean(&p.ForceCodec)
	}
	if annotation, ok := strings.CutPrefix(key, "annotation"); ok {
		return p.annotation(annotation, value)
	}
	if always, ok := settled[key]; ok {
		if value != always {
			return fmt.Errorf("%s is always %s here", key, always)
		}
		return nil
	}
	return fmt.Errorf("%q is not one of type, dest, tar, name, push, push-by-digest, platform-split, compression, compression-level, force-compression and annotation.KEY", key)
}

// annotation reads what follows "annotation" in a key: .KEY, -LEVEL.KEY,
// [PLATFORM].KEY or -LEVEL[PLATFORM].KEY.
func (p *outputParser) annotation(key, value string) error {
	end := strings.Index(key, ".")
	if bracket := strings.Index(key, "]."); bracket >= 0 && strings.Index(key, "[") < end {
		end = bracket + 1
	}
	if end < 0 {
		return fmt.Errorf("annotation%s: want annotation.KEY=VALUE", key)
	}
	level := strings.TrimPrefix(key[:end], "-")
	if level == "" || strings.HasPrefix(level, "[") {
		level = string(OnManifest) + level
	}
	all, err := ParseAnnotation(level + ":" + key[end+1:] + "=" + value)
	p.Annotations = append(p.Annotations, all...)
	return err
}

func (p *outputParser) finish() (Output, error) {
	o := p.Output
	if p.level != nil && o.Codec == "" {
		o.Codec = layer.Gzip
	}
	if o.Codec != "" {
		var err error
		if o.Codec, err = layer.ParseCodec(string(o.Codec), p.level); err != nil {
			return o, err
		}
	}
	needsDest := func(what string) error {
		if o.Dest == "" {
			return fmt.Errorf("type=%s needs dest=%s", o.Kind, what)
		}
		return nil
	}
	switch o.Kind {
	case "registry":
		o.Kind, o.Push = OutputImage, true
		if p.push != nil && !*p.push {
			return o, errors.New("type=registry pushes: use type=image to keep the result here")
		}
	case OutputImage:
		o.Push = p.push != nil && *p.push
	case OutputOCI:
		if err := needsDest("FILE, or dest=DIR,tar=false"); err != nil {
			return o, err
		}
	case OutputDocker:
		if o.Archive != nil && !*o.Archive {
			return o, errors.New("type=docker is an archive: use type=oci,tar=false for a directory")
		}
		if o.Dest == "" {
			o.Kind = OutputLoad // as docker buildx has it
		}
	case OutputTar, OutputLocal:
		if err := needsDest("FILE or DIR"); err != nil {
			return o, err
		}
	case "":
		return o, errors.New("it has no type: use oci, docker, tar, local, image or registry")
	default:
		return o, fmt.Errorf("type=%s is not one of oci, docker, tar, local, image and registry", o.Kind)
	}
	if o.Dest == Stdout && (o.Kind == OutputLocal || o.Kind == OutputOCI && o.Archive != nil && !*o.Archive) {
		return o, errors.New("a directory can't go to the standard output")
	}
	return o, nil
}

// isDirectory tells whether an OCI layout is to be a directory.
func (o Output) isDirectory() bool {
	if o.Archive != nil {
		return !*o.Archive
	}
	info, err := os.Stat(o.Dest)
	return strings.HasSuffix(o.Dest, "/") || err == nil && info.IsDir()
}

// ToStdout tells whether an output is written to the standard output.
func (o Output) ToStdout() bool { return o.Dest == Stdout }

// prepare works the outputs into the request: what they push, and how they want
// layers compressed.
func (r *Request) prepare() error {
	for _, o := range r.Outputs {
		if o.Kind == OutputImage && o.Push {
			r.Push = true
			for _, name := range o.Names {
				if !slices.Contains(r.Tags, name) {
					r.Tags = append(slices.Clone(r.Tags), name)
				}
			}
			r.ByDigest = r.ByDigest || o.ByDigest
		}
		if o.Codec != "" {
			if r.Codec != "" && r.Codec != o.Codec {
				return invalid(fmt.Errorf("the outputs ask for the compressions %s and %s: one build has one", r.Codec, o.Codec))
			}
			r.Codec = o.Codec
		}
		r.ForceCodec = r.ForceCodec || o.ForceCodec
		r.Annotations = slices.Concat(r.Annotations, o.Annotations)
	}
	return nil
}

// stdout is where the standard output's streams go.
func (r *Request) stdout() (io.Writer, error) {
	if r.OutputStream == nil {
		return nil, invalid(errors.New("there is no standard output here: give dest=FILE"))
	}
	return r.OutputStream, nil
}
