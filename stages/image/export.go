package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is the result for go-containerregistry. Its layers are read from the
// build cache and, those of base images, from their registry; ctx bounds that.
func (r *Result) Image(ctx context.Context) (v1.Image, error) {
	return partial.CompressedToImage(&resultImage{r, ctx})
}

type resultImage struct {
	*Result
	ctx context.Context //nolint:containedctx // v1.Image has no place for it
}

func (i *resultImage) RawConfigFile() ([]byte, error)      { return i.Config, nil }
func (i *resultImage) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }
func (i *resultImage) RawManifest() ([]byte, error)        { return i.Manifest, nil }
func (i *resultImage) LayerByDigest(digest v1.Hash) (partial.CompressedLayer, error) {
	for _, link := range i.layers {
		if link.Digest == digest {
			return &resultLayer{i, link}, nil
		}
	}
	return nil, fmt.Errorf("the image has no layer %s", digest)
}

type resultLayer struct {
	image *resultImage
	link  chainLink
}

func (l *resultLayer) Digest() (v1.Hash, error)            { return l.link.Digest, nil }
func (l *resultLayer) Size() (int64, error)                { return l.link.Size, nil }
func (l *resultLayer) MediaType() (types.MediaType, error) { return l.link.MediaType, nil }
func (l *resultLayer) Compressed() (io.ReadCloser, error) {
	return openLink(l.image.ctx, l.image.store, l.link, 0)
}

// WriteLayout adds the image to the OCI image layout at dir, which is made if
// it does not exist.
func (r *Result) WriteLayout(ctx context.Context, dir string) error {
	image, err := r.Image(ctx)
	if err != nil {
		return err
	}
	path, err := layout.FromPath(dir)
	if errors.Is(err, fs.ErrNotExist) {
		path, err = layout.Write(dir, empty.Index)
	}
	if err != nil {
		return fmt.Errorf("open OCI layout %s: %w", dir, err)
	}
	if err := path.ReplaceImage(image, func(d v1.Descriptor) bool { return d.Digest == r.Digest }); err != nil {
		return fmt.Errorf("write OCI layout %s: %w", dir, err)
	}
	return nil
}

// WriteDocker writes a file that `docker load` reads, with the image under tag.
func (r *Result) WriteDocker(ctx context.Context, file string, tag name.Reference) (err error) {
	image, err := r.Image(ctx)
	if err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write docker archive: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := tarball.Write(tag, image, out); err != nil {
		return fmt.Errorf("write docker archive %s: %w", file, err)
	}
	return nil
}
