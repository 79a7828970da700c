package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// Content is a cache to write.
type Content struct {
	Document Document
	// Blobs are the layers to keep, with how to read each.
	Blobs []registry.Upload
	// Progress is told how many bytes of a blob went up; nil is fine.
	Progress func(digest v1.Hash, bytes int64)
}

// manifest makes the manifest and the document's blob.
func (c Content) manifest() (manifest []byte, document registry.Upload, blobs []registry.Upload, err error) {
	data, err := c.Document.Encode()
	if err != nil {
		return nil, document, nil, err
	}
	document = bytesBlob(data, DocumentType)
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ArtifactType,
		Config: descriptorOf(document.Descriptor), Layers: []ocispec.Descriptor{},
	}
	m.SchemaVersion = 2
	seen := map[v1.Hash]bool{}
	for _, blob := range c.Blobs {
		if seen[blob.Digest] {
			continue
		}
		seen[blob.Digest] = true
		blobs = append(blobs, blob)
		m.Layers = append(m.Layers, descriptorOf(blob.Descriptor))
	}
	manifest, err = json.Marshal(m)
	if err != nil {
		return nil, document, nil, fmt.Errorf("encode build cache: %w", err)
	}
	return manifest, document, blobs, nil
}

func descriptorOf(d v1.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: string(d.MediaType), Digest: digestOf(d.Digest), Size: d.Size}
}

func digestOf(h v1.Hash) digest.Digest { return digest.Digest(h.String()) }

func bytesBlob(data []byte, mediaType types.MediaType) registry.Upload {
	hash, size, _ := v1.SHA256(bytes.NewReader(data)) // memory does not fail
	return registry.Upload{
		Descriptor: v1.Descriptor{Digest: hash, Size: size, MediaType: mediaType},
		Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(data[offset:])), nil
		},
	}
}

// ToRegistry writes a cache under a tag. What is there already is not sent again.
func ToRegistry(ctx context.Context, client *registry.Client, reference string, content Content) (registry.Pushed, error) {
	ref, err := client.Destination(reference)
	if err != nil {
		return registry.Pushed{}, err
	}
	tag, ok := ref.(name.Tag)
	if !ok {
		return registry.Pushed{}, fmt.Errorf("cache %q: a digest can't be written to; use a tag", reference)
	}
	manifest, document, blobs, err := content.manifest()
	if err != nil {
		return registry.Pushed{}, err
	}
	return client.Push(ctx, registry.Push{
		Repository: ref.Context(), Tags: []string{tag.TagStr()}, Progress: content.Progress,
		Manifest: registry.Manifest{Raw: manifest, MediaType: types.OCIManifestSchema1, Blobs: append(blobs, document)},
	})
}
