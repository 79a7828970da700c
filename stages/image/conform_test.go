package image

import (
	"bytes"
	"encoding/json"

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

	layers, err := image.Layers()
	require.NoError(b, err)
	onlyGzip := true
	for _, l := range layers {
		media, err := l.MediaType()
		require.NoError(b, err)
		onlyGzip = onlyGzip && media != types.OCILayerZStd && media != types.OCIUncompressedLayer
	}
	if onlyGzip {
		require.NoError(b, validate.Image(image))
		return
	}
	// Of layers it takes gzip alone: the others are checked here.
	require.NoError(b, validate.Image(image, validate.Fast))
	for _, l := range layers {
		packed, err := l.Compressed()
		require.NoError(b, err)
		digest, _, err := v1.SHA256(packed)
		require.NoError(b, err)
		require.NoError(b, packed.Close())
		want, err := l.Digest()
		require.NoError(b, err)
		require.Equal(b, want, digest)
		stream, err := l.Uncompressed()
		require.NoError(b, err)
		digest, _, err = v1.SHA256(stream)
		require.NoError(b, err)
		require.NoError(b, stream.Close())
		want, err = l.DiffID()
		require.NoError(b, err)
		require.Equal(b, want, digest)
	}
}

// indexConforms checks an index and all in it.
func (b *bench) indexConforms(index v1.ImageIndex) {
	b.Helper()
	raw, err := index.RawManifest()
	require.NoError(b, err)
	require.NoError(b, schema.ValidatorMediaTypeImageIndex.Validate(bytes.NewReader(raw)), "%s", raw)
	require.NoError(b, validate.Index(index))
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
