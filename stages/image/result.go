package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// Manifest is a manifest with the blobs it refers to.
type Manifest struct {
	// Descriptor is how an index lists it: digest, size, media type, platform
	// and annotations.
	v1.Descriptor
	Raw []byte
	// Blobs are the configuration and the layers.
	Blobs []registry.Upload
}

// Image is the result for one platform.
type Image struct {
	Manifest
	Platform ocispec.Platform
	Config   []byte
	// layers are the chain, bottom first.
	layers []chainLink
	// target is what it was made from, statements what the index says of it.
	target     *plan.Stage
	statements []attest.Statement
}

// Result is what a build made.
type Result struct {
	// Descriptor is of what a name of the result means: the index, or the
	// manifest of the only image when there is no index.
	Descriptor v1.Descriptor
	// Digest is the descriptor's.
	Digest v1.Hash
	// Index is nil when the manifest of the only image stands alone.
	Index []byte
	// Images are one for each platform, in the order asked for.
	Images []*Image
	// Attached are further manifests of the index, such as attestations.
	Attached []Manifest
	// Pushed are the names it was pushed to, each with the digest.
	Pushed []string
	// Stats tell what the build did.
	Stats    Stats
	Warnings []plan.Warning

	// unpacked opens a layer's tar stream.
	unpacked func(ctx context.Context, link chainLink) (io.ReadCloser, error)
	// repositories are where it was pushed.
	repositories []name.Repository
}

// manifests are all of the index, or the only one.
func (r *Result) manifests() []Manifest {
	all := make([]Manifest, 0, len(r.Images)+len(r.Attached))
	for _, i := range r.Images {
		all = append(all, i.Manifest)
	}
	return append(all, r.Attached...)
}

// join makes the result of the images. Several, or any with something attached,
// get an index; attached manifests come after the images, with the platform and
// annotations of their descriptors (attestations: unknown/unknown, and
// vnd.docker.reference.digest with the image's digest).
func join(images []*Image, attached []Manifest, annotations Annotations) (*Result, error) {
	r := &Result{Images: images, Attached: attached}
	if len(images) == 1 && len(attached) == 0 {
		if err := annotations.refuseIndex(); err != nil {
			return nil, err
		}
		r.Descriptor = images[0].Descriptor
		r.Descriptor.Annotations = annotations.of(OnManifestDescriptor, &images[0].Platform)
		r.Digest = r.Descriptor.Digest
		return r, nil
	}
	index := v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{},
		Annotations: annotations.of(OnIndex, nil),
	}
	for _, m := range r.manifests() {
		index.Manifests = append(index.Manifests, m.Descriptor)
	}
	for i, image := range images {
		onDescriptor := annotations.of(OnManifestDescriptor, &image.Platform)
		if len(onDescriptor) > 0 {
			d := &index.Manifests[i]
			d.Annotations = maps.Clone(d.Annotations)
			if d.Annotations == nil {
				d.Annotations = map[string]string{}
			}
			maps.Copy(d.Annotations, onDescriptor)
		}
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return nil, fmt.Errorf("encode image index: %w", err)
	}
	r.Index = raw
	r.Digest, r.Descriptor.Size = sha256Of(raw)
	r.Descriptor.Digest, r.Descriptor.MediaType = r.Digest, types.OCIImageIndex
	r.Descriptor.Annotations = annotations.of(OnIndexDescriptor, nil)
	return r, nil
}

// ImageID is what docker calls the result by: the digest of the configuration,
// or of the index when there is one.
func (r *Result) ImageID() v1.Hash {
	if r.Index == nil {
		return r.Images[0].Blobs[0].Digest
	}
	return r.Digest
}

// NewManifest describes a manifest that is not an image of a platform.
func NewManifest(raw []byte, mediaType types.MediaType, blobs ...registry.Upload) Manifest {
	digest, size := sha256Of(raw)
	return Manifest{Descriptor: v1.Descriptor{Digest: digest, Size: size, MediaType: mediaType}, Raw: raw, Blobs: blobs}
}

// BytesBlob is a blob that lies in memory.
func BytesBlob(data []byte, mediaType types.MediaType) registry.Upload {
	digest, size := sha256Of(data)
	return registry.Upload{
		Descriptor: v1.Descriptor{Digest: digest, Size: size, MediaType: mediaType},
		Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[min(offset, size):])), nil
		},
	}
}

// assemble makes configuration and manifest of a platform's target.
func (e *execution) assemble(ctx context.Context, platform ocispec.Platform, target *plan.Stage) (*Image, error) {
	built, err := e.compressed(ctx, e.futures[target].result)
	if err != nil {
		return nil, err
	}
	// The stage may be the target of several platforms.
	config := target.Config
	created := e.request.Epoch
	config.Created = &created
	config.RootFS = ocispec.RootFS{Type: "layers"}
	config.History = slices.Clone(built.history)
	for i := range config.History {
		if config.History[i].Created == nil && config.History[i].Comment == plan.HistoryComment {
			config.History[i].Created = &created
		}
	}
	if len(e.request.Labels) > 0 {
		config.Config.Labels = maps.Clone(config.Config.Labels)
		if config.Config.Labels == nil {
			config.Config.Labels = map[string]string{}
		}
		maps.Copy(config.Config.Labels, e.request.Labels)
	}
	manifest := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{},
		Annotations: e.request.Annotations.of(OnManifest, &platform),
	}
	manifest.SchemaVersion = 2
	for _, link := range built.chain {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digestOf(link.DiffID))
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{
			MediaType: string(link.MediaType), Digest: digestOf(link.Digest), Size: link.Size,
		})
	}
	if config.RootFS.DiffIDs == nil {
		config.RootFS.DiffIDs = digestsOf(nil)
	}
	rawConfig, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encode image configuration: %w", err)
	}
	if rawConfig, err = e.inlineCache(rawConfig); err != nil {
		return nil, err
	}
	configBlob := BytesBlob(rawConfig, types.OCIConfigJSON)
	manifest.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digestOf(configBlob.Digest), Size: configBlob.Size}
	rawManifest, err := json.Marshal(manifest)
	if err != nil {
		return nil, fmt.Errorf("encode image manifest: %w", err)
	}
	blobs := []registry.Upload{configBlob}
	for _, link := range built.chain {
		blobs = append(blobs, e.upload(link, nil))
	}
	image := &Image{
		Manifest: NewManifest(rawManifest, types.OCIManifestSchema1, blobs...), Platform: platform, Config: rawConfig, layers: built.chain, target: target,
	}
	image.Descriptor.Platform = registryPlatform(platform)
	return image, nil
}

func registryPlatform(p ocispec.Platform) *v1.Platform {
	return &v1.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: slices.Clone(p.OSFeatures),
	}
}
