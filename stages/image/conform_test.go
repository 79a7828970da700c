package image

import (
	"bytes"
	"encoding/json"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/image-spec/schema"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

// conforms checks an image as `crane validate` does, and its documents against
// the schemas of the image specification. Every test that pulls what it built
// comes by here.
func (b *bench) conforms(image v1.Image) {
	b.Helper()
	manifest, err := image.RawManifest()
	require.NoError(b, err)
	require.NoError(b, schema.ValidatorMediaTypeManifest.Validate(bytes.NewReader(manifest)), "%s", manifest)
	config, err := image.RawConfigFile()
	require.NoError(b, err)
	require.NoError(b, schema.ValidatorMediaTypeImageConfig.Validate(bytes.NewReader(config)), "%s", config)

	// The content of layers is checked here: validate knows gzip alone, and would
	// read that of the base anew for each image, which the race detector makes slow.
	require.NoError(b, validate.Image(image, validate.Fast))
	layers, err := image.Layers()
	require.NoError(b, err)
	for _, l := range layers {
		b.layerConforms(l)
	}
}

// conforming are the layers (digest and identity of content) that were read whole.
var conforming sync.Map

func (b *bench) layerConforms(l v1.Layer) {
	b.Helper()
	digest, err := l.Digest()
	require.NoError(b, err)
	content, err := l.DiffID()
	require.NoError(b, err)
	want := [2]v1.Hash{digest, content}
	if _, known := conforming.Load(want); known {
		return
	}
	packed, err := l.Compressed()
	require.NoError(b, err)
	got, length, err := v1.SHA256(packed)
	require.NoError(b, err)
	require.NoError(b, packed.Close())
	require.Equal(b, digest, got)
	size, err := l.Size()
	require.NoError(b, err)
	require.Equal(b, size, length)

	stream, err := l.Uncompressed()
	require.NoError(b, err)
	got, _, err = v1.SHA256(stream)
	require.NoError(b, err)
	require.NoError(b, stream.Close())
	require.Equal(b, content, got)
	conforming.Store(want, true)
}

// indexConforms checks an index and all in it.
func (b *bench) indexConforms(index v1.ImageIndex) {
	b.Helper()
	raw, err := index.RawManifest()
	require.NoError(b, err)
	require.NoError(b, schema.ValidatorMediaTypeImageIndex.Validate(bytes.NewReader(raw)), "%s", raw)
	require.NoError(b, validate.Index(index, validate.Fast)) // conforms reads the images
	var manifest ocispec.Index
	require.NoError(b, json.Unmarshal(raw, &manifest))
	for _, d := range manifest.Manifests {
		digest, err := v1.NewHash(d.Digest.String())
		require.NoError(b, err)
		if types.MediaType(d.MediaType).IsIndex() {
			inner, err := index.ImageIndex(digest)
			require.NoError(b, err)
			b.indexConforms(inner)
			continue
		}
		image, err := index.Image(digest)
		require.NoError(b, err)
		b.conforms(image)
	}
}
