package attest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations by which an index tells an attestation manifest from an image.
const (
	AnnotationReferenceType   = "vnd.docker.reference.type"
	AnnotationReferenceDigest = "vnd.docker.reference.digest"
	// ReferenceType is the value of AnnotationReferenceType.
	ReferenceType = "attestation-manifest"
	// AnnotationPredicateType names a layer's predicate.
	AnnotationPredicateType = "in-toto.io/predicate-type"
)

// Blob is content with its descriptor.
type Blob struct {
	Descriptor v1.Descriptor
	Data       []byte
}

// Manifest is an attestation manifest: statements about one image, as
// BuildKit's docs/attestations/attestation-storage.md lays them out.
type Manifest struct {
	// Descriptor is the index's entry for it: platform unknown/unknown and the
	// annotations that name the image.
	Descriptor v1.Descriptor
	Raw        []byte
	// Blobs are the configuration and the statements.
	Blobs []Blob
}

// NewManifest wraps statements about the image with a digest.
func NewManifest(image v1.Hash, statements []Statement) (Manifest, error) {
	if len(statements) == 0 {
		return Manifest{}, errors.New("an attestation manifest needs a statement")
	}
	// The configuration is an image's, for registries that look inside. BuildKit
	// lists the statements as difference ids in it; they are no layers of a file
	// system, and validators (go-containerregistry's) rightly count none.
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: "unknown", Architecture: "unknown"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	manifest.SchemaVersion = 2
	var m Manifest
	add := func(mediaType string, data []byte) (ocispec.Descriptor, error) {
		hash, size, err := v1.SHA256(bytes.NewReader(data))
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		m.Blobs = append(m.Blobs, Blob{Descriptor: v1.Descriptor{MediaType: types.MediaType(mediaType), Digest: hash, Size: size}, Data: data})
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(hash.String()), Size: size}, nil
	}
	for _, s := range statements {
		data, err := json.Marshal(s)
		if err != nil {
			return Manifest{}, fmt.Errorf("encode statement: %w", err)
		}
		layer, err := add(PayloadType, data)
		if err != nil {
			return Manifest{}, err
		}
		layer.Annotations = map[string]string{AnnotationPredicateType: s.PredicateType}
		manifest.Layers = append(manifest.Layers, layer)
	}
	rawConfig, err := json.Marshal(config)
	if err != nil {
		return Manifest{}, fmt.Errorf("encode configuration of attestations: %w", err)
	}
	if manifest.Config, err = add(ocispec.MediaTypeImageConfig, rawConfig); err != nil {
		return Manifest{}, err
	}
	if m.Raw, err = json.Marshal(manifest); err != nil {
		return Manifest{}, fmt.Errorf("encode attestation manifest: %w", err)
	}
	hash, size, err := v1.SHA256(bytes.NewReader(m.Raw))
	if err != nil {
		return Manifest{}, err
	}
	m.Descriptor = v1.Descriptor{
		MediaType: types.OCIManifestSchema1, Digest: hash, Size: size,
		Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{
			AnnotationReferenceType: ReferenceType, AnnotationReferenceDigest: image.String(),
		},
	}
	return m, nil
}
