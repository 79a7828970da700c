package image

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidegate-ci/tidegate/stages/image/docker"
	"github.com/tidegate-ci/tidegate/stages/image/flatten"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
)

// export writes the result to all outputs, one after the other: they would
// share a disk or a standard output.
func (e *execution) export(ctx context.Context, result *Result) error {
	for _, o := range e.request.Outputs {
		if o.Kind == OutputImage {
			continue // the push has dealt with it
		}
		id := "export " + string(o.Kind)
		start := e.now()
		e.emit(progress.Event{Kind: progress.Start, Step: id, Text: "write " + o.String()})
		note, err := e.write(ctx, result, o)
		if err != nil {
			e.emit(progress.Event{Kind: progress.Failed, Step: id, Text: firstLine(err), Duration: e.now().Sub(start)})
			return classify(fmt.Errorf("output %s: %w", o, err))
		}
		e.emit(progress.Event{Kind: progress.Done, Step: id, Text: note, Duration: e.now().Sub(start)})
	}
	return nil
}

// String names an output for people.
func (o Output) String() string {
	if o.Dest == "" {
		return "type=" + string(o.Kind)
	}
	return "type=" + string(o.Kind) + ",dest=" + o.Dest
}

// write writes one output and gives what there is to say of it.
func (e *execution) write(ctx context.Context, result *Result, o Output) (string, error) {
	names, err := outputNames(o, e.request.Tags)
	if err != nil {
		return "", err
	}
	switch o.Kind {
	case OutputOCI:
		if o.isDirectory() {
			return "", result.WriteLayout(ctx, o.Dest, names)
		}
		return "", e.toFile(o, func(w io.Writer) error { return result.WriteLayoutArchive(ctx, w, names) })
	case OutputDocker:
		return "", e.toFile(o, func(w io.Writer) error { return result.WriteDocker(ctx, w, names) })
	case OutputLoad:
		return result.load(ctx, names)
	case OutputTar:
		return "", e.toFile(o, func(w io.Writer) error { return result.WriteTar(ctx, w, o.split(result)) })
	case OutputLocal:
		skipped, err := result.WriteLocal(ctx, o.Dest, o.split(result))
		if skipped > 0 {
			return fmt.Sprintf("%d devices and pipes left out", skipped), err
		}
		return "", err
	}
	return "", fmt.Errorf("outputs of type %s are not known", o.Kind)
}

func outputNames(o Output, tags []string) ([]name.Reference, error) {
	texts := o.Names
	if len(texts) == 0 {
		texts = tags
	}
	var names []name.Reference
	for _, text := range texts {
		ref, err := name.ParseReference(text, name.WeakValidation)
		if err != nil {
			return nil, invalid(fmt.Errorf("image name %q: %w", text, err))
		}
		names = append(names, ref)
	}
	return names, nil
}

// split tells whether each platform's files get a folder of their own.
func (o Output) split(result *Result) bool {
	if o.Split != nil {
		return *o.Split
	}
	return len(result.Images) > 1
}

// writeBuffer is how much is gathered before it is written.
const writeBuffer = 1 << 20

// toFile writes to the output's file or the standard output. A file that could
// not be written whole is removed.
func (e *execution) toFile(o Output, write func(io.Writer) error) error {
	if o.ToStdout() {
		out, err := e.request.stdout()
		if err != nil {
			return err
		}
		return buffered(out, write)
	}
	if err := os.MkdirAll(filepath.Dir(o.Dest), 0o755); err != nil {
		return err
	}
	file, err := os.Create(o.Dest)
	if err != nil {
		return err
	}
	err = errors.Join(buffered(file, write), file.Close())
	if err == nil {
		return nil
	}
	if info, statErr := os.Lstat(o.Dest); statErr == nil && info.Mode().IsRegular() {
		err = errors.Join(err, os.Remove(o.Dest))
	}
	return err
}

func buffered(out io.Writer, write func(io.Writer) error) error {
	w := bufio.NewWriterSize(out, writeBuffer)
	if err := write(w); err != nil {
		return err
	}
	return w.Flush()
}

// load hands the image to a running Docker.
func (r *Result) load(ctx context.Context, names []name.Reference) (string, error) {
	if len(r.Images) != 1 {
		return "", r.notForDocker()
	}
	host, err := docker.FindHost(os.Getenv)
	if err != nil {
		return "", err
	}
	loaded, err := docker.Load(ctx, host, func(w io.Writer) error {
		return buffered(w, func(w io.Writer) error { return r.WriteDocker(ctx, w, names) })
	})
	return strings.Join(loaded, ", "), err
}

// platformFolder is what docker buildx calls a platform's folder.
func platformFolder(p ocispec.Platform) string {
	return strings.ReplaceAll(plan.FormatPlatform(p), "/", "_")
}

// tree are an image's layers for what flattens them.
func (r *Result) layersOf(i *Image) []flatten.Layer {
	var all []flatten.Layer
	for _, link := range i.layers {
		all = append(all, func(ctx context.Context) (io.ReadCloser, error) { return r.unpacked(ctx, link) })
	}
	return all
}

// oneOrSplit refuses files of several platforms in one place.
func (r *Result) oneOrSplit(split bool) error {
	if !split && len(r.Images) > 1 {
		return invalid(errors.New("files of several platforms would overwrite each other: leave platform-split out"))
	}
	return nil
}

// WriteTar writes the image's files as a tar stream; with split, each
// platform's into a folder of its own. It is for outputs of the build under way.
func (r *Result) WriteTar(ctx context.Context, to io.Writer, split bool) error {
	if err := r.oneOrSplit(split); err != nil {
		return err
	}
	w := tar.NewWriter(to)
	for _, image := range r.Images {
		prefix := ""
		if split {
			prefix = platformFolder(image.Platform)
		}
		if err := flatten.Write(ctx, r.layersOf(image), flatten.Archive(w, prefix)); err != nil {
			return err
		}
	}
	return w.Close()
}

// WriteLocal writes the image's files below a folder as WriteTar does, and
// tells how many were left out.
func (r *Result) WriteLocal(ctx context.Context, dir string, split bool) (skipped int, err error) {
	if err := r.oneOrSplit(split); err != nil {
		return 0, err
	}
	for _, image := range r.Images {
		at := dir
		if split {
			at = filepath.Join(dir, platformFolder(image.Platform))
		}
		folder, err := flatten.NewFolder(at)
		if err != nil {
			return skipped, err
		}
		err = flatten.Write(ctx, r.layersOf(image), folder)
		skipped += folder.Skipped
		if err := errors.Join(err, folder.Close()); err != nil {
			return skipped, err
		}
	}
	return skipped, nil
}
