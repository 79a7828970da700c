package sign_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

// recorded is what cosign 3.1.3 left in a registry: "theirs" signed and attested
// in its own form (bundles that refer to the image), "theirs2" signed in that of
// cosign 2 (--new-bundle-format=false). The private key is gone.
type recorded struct {
	Key       string
	Artifacts []struct {
		Repository string
		Tags       []string
		MediaType  types.MediaType
		Raw        []byte
		Blobs      [][]byte
	}
}

// replay puts what cosign left into a registry.
func replay(t *testing.T, client *registry.Client, at string) (*sign.PublicKey, recorded) {
	t.Helper()
	data, err := os.ReadFile("testdata/cosign-v3.1.3.json")
	require.NoError(t, err)
	var r recorded
	require.NoError(t, json.Unmarshal(data, &r))
	for _, a := range r.Artifacts {
		repository, err := name.NewRepository(at + "/" + a.Repository)
		require.NoError(t, err)
		m := registry.Manifest{Raw: a.Raw, MediaType: a.MediaType}
		for _, blob := range a.Blobs {
			hash, size, err := v1.SHA256(bytes.NewReader(blob))
			require.NoError(t, err)
			m.Blobs = append(m.Blobs, registry.Upload{
				Descriptor: v1.Descriptor{Digest: hash, Size: size},
				Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
					return io.NopCloser(bytes.NewReader(blob[offset:])), nil
				},
			})
		}
		_, err = client.Push(context.Background(), registry.Push{Repository: repository, Tags: a.Tags, Manifest: m})
		require.NoError(t, err)
	}
	key, err := sign.LoadPublicKey([]byte(r.Key))
	require.NoError(t, err)
	return key, r
}

func digestOf(t *testing.T, client *registry.Client, image string) name.Digest {
	t.Helper()
	tag, err := name.NewTag(image)
	require.NoError(t, err)
	found, err := client.Artifact(context.Background(), tag)
	require.NoError(t, err)
	return tag.Context().Digest(found.Digest.String())
}

func TestWhatCosignSignedVerifies(t *testing.T) {
	ctx := context.Background()
	client := registry.New(registry.Options{})
	at := serve(t)
	key, _ := replay(t, client, at)
	stranger, _ := newKey(t, nil)
	for _, repository := range []string{"theirs", "theirs2"} {
		image := digestOf(t, client, at+"/"+repository+":1")
		_, err := sign.Verify(ctx, client, image, []*sign.PublicKey{key})
		require.NoError(t, err, repository)
		_, err = sign.Verify(ctx, client, image, keys(stranger))
		require.ErrorIs(t, err, sign.ErrNotBy, repository)
	}
	statements, err := sign.VerifyAttestations(ctx, client, digestOf(t, client, at+"/theirs:1"), []*sign.PublicKey{key}, attest.PredicateProvenance)
	require.NoError(t, err)
	require.Len(t, statements, 1)
}

// What we store differs from what cosign stores in nothing but the values.
func TestSignaturesAreStoredAsCosignStoresThem(t *testing.T) {
	ctx := context.Background()
	client := registry.New(registry.Options{})
	at := serve(t)
	_, theirs := replay(t, client, at)
	image := digestOf(t, client, at+"/theirs:1")
	key, _ := newKey(t, nil)
	_, err := sign.Sign(ctx, client, image, key, nil)
	require.NoError(t, err)
	tag := image.Context().Tag("sha256-" + hashOf(t, image).Hex + ".sig")
	ours, err := client.Artifact(ctx, tag)
	require.NoError(t, err)
	signature := theirs.Artifacts[len(theirs.Artifacts)-1]
	require.Len(t, signature.Tags, 1)
	require.Contains(t, signature.Tags[0], ".sig")
	require.Equal(t, signature.MediaType, ours.MediaType)
	want, err := v1.ParseManifest(bytes.NewReader(signature.Raw))
	require.NoError(t, err)
	have, err := v1.ParseManifest(bytes.NewReader(ours.Raw))
	require.NoError(t, err)
	require.Equal(t, want.Config.MediaType, have.Config.MediaType)
	require.Len(t, have.Layers, len(want.Layers))
	require.Equal(t, want.Layers[0].MediaType, have.Layers[0].MediaType)
	for annotation := range want.Layers[0].Annotations {
		require.Contains(t, have.Layers[0].Annotations, annotation)
	}
	shape := func(raw []byte) []string {
		var document map[string]map[string]any
		require.NoError(t, json.Unmarshal(raw, &document))
		var all []string
		for outer, inner := range document {
			all = append(all, outer)
			for name := range inner {
				all = append(all, outer+"."+name)
			}
		}
		slices.Sort(all)
		return all
	}
	payload, err := client.Content(ctx, image.Context(), have.Layers[0], 1<<20)
	require.NoError(t, err)
	require.Equal(t, shape(signature.Blobs[1]), shape(payload))
}
