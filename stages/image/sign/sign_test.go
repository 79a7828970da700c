package sign_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	embedded "github.com/tidegate-ci/tidegate/internal/registry"
	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

// serve runs a registry until the test ends.
func serve(t *testing.T) string {
	t.Helper()
	r, err := embedded.New(embedded.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	server, err := r.Listen(ctx, "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, r.Close())
	})
	return server.Address()
}

// push puts an image without layers, that differs by its label, into a repository.
func push(t *testing.T, client *registry.Client, repository, label string) name.Digest {
	t.Helper()
	config := []byte(`{"architecture":"amd64","os":"linux","config":{"Labels":{"l":"` + label + `"}},"rootfs":{"type":"layers","diff_ids":[]}}`)
	hash, size, err := v1.SHA256(bytes.NewReader(config))
	require.NoError(t, err)
	manifest := []byte(`{"schemaVersion":2,"mediaType":"` + string(types.OCIManifestSchema1) + `","config":{"mediaType":"` + string(types.OCIConfigJSON) +
		`","digest":"` + hash.String() + `","size":` + itoa(size) + `},"layers":[]}`)
	repo, err := name.NewRepository(repository)
	require.NoError(t, err)
	pushed, err := client.Push(context.Background(), registry.Push{
		Repository: repo,
		Manifest: registry.Manifest{
			Raw: manifest, MediaType: types.OCIManifestSchema1,
			Blobs: []registry.Upload{{Descriptor: v1.Descriptor{Digest: hash, Size: size}, Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(config[offset:])), nil
			}}},
		},
	})
	require.NoError(t, err)
	return repo.Digest(pushed.Digest.String())
}

func itoa(n int64) string {
	var digits []byte
	for ; n > 0; n /= 10 {
		digits = append([]byte{byte('0' + n%10)}, digits...)
	}
	return string(digits)
}

func newKey(t *testing.T, password []byte) (*sign.Key, []byte) {
	t.Helper()
	private, _, err := sign.Generate(password)
	require.NoError(t, err)
	key, err := sign.LoadKey(private, password)
	require.NoError(t, err)
	return key, private
}

func keys(all ...*sign.Key) (public []*sign.PublicKey) {
	for _, k := range all {
		public = append(public, k.Public())
	}
	return public
}

func TestSignAndVerify(t *testing.T) {
	ctx := context.Background()
	client := registry.New(registry.Options{})
	at := serve(t)
	image, other := push(t, client, at+"/shop", "a"), push(t, client, at+"/shop", "b")
	first, _ := newKey(t, nil)
	second, _ := newKey(t, nil)

	_, err := sign.Verify(ctx, client, image, keys(first))
	var missing *sign.NotSignedError
	require.ErrorAs(t, err, &missing)
	require.Zero(t, missing.Found)

	made, err := sign.Sign(ctx, client, image, first, nil)
	require.NoError(t, err)
	require.True(t, made)
	made, err = sign.Sign(ctx, client, image, first, nil)
	require.NoError(t, err)
	require.False(t, made, "the same signature twice")
	found, err := sign.Verify(ctx, client, image, keys(second, first))
	require.NoError(t, err)
	require.Equal(t, first.Public().ID(), found.ID())

	_, err = sign.Verify(ctx, client, image, keys(second))
	require.ErrorAs(t, err, &missing)
	require.Equal(t, 1, missing.Found)
	require.ErrorIs(t, err, sign.ErrNotBy)
	_, err = sign.Verify(ctx, client, other, keys(first))
	require.Error(t, err)
	_, err = sign.Verify(ctx, client, image, nil)
	require.ErrorContains(t, err, "no key")

	_, err = sign.Sign(ctx, client, image, second, map[string]string{"team": "shop"})
	require.NoError(t, err)
	for _, key := range []*sign.Key{first, second} {
		_, err = sign.Verify(ctx, client, image, keys(key))
		require.NoError(t, err, "a second signature took the place of the first")
	}
}

// A signature of one image, put beside another, is none.
func TestSignaturesAreNotForOtherImages(t *testing.T) {
	ctx := context.Background()
	client := registry.New(registry.Options{})
	at := serve(t)
	good, bad := push(t, client, at+"/shop", "good"), push(t, client, at+"/shop", "bad")
	key, _ := newKey(t, nil)
	_, err := sign.Sign(ctx, client, good, key, nil)
	require.NoError(t, err)
	statement, err := attest.NewStatement(nil, hashOf(t, good), attest.PredicateProvenance, map[string]string{})
	require.NoError(t, err)
	require.NoError(t, sign.Attest(ctx, client, good, key, []attest.Statement{statement}))
	for _, suffix := range []string{".sig", ".att"} {
		from := good.Context().Tag("sha256-" + hashOf(t, good).Hex + suffix)
		to := "sha256-" + hashOf(t, bad).Hex + suffix
		artifact, err := client.Artifact(ctx, from)
		require.NoError(t, err)
		_, err = client.Push(ctx, registry.Push{Repository: good.Context(), Tags: []string{to}, Manifest: registry.Manifest{Raw: artifact.Raw, MediaType: artifact.MediaType}})
		require.NoError(t, err)
	}
	_, err = sign.Verify(ctx, client, bad, keys(key))
	require.ErrorContains(t, err, "of another image")
	_, err = sign.VerifyAttestations(ctx, client, bad, keys(key), "")
	require.ErrorContains(t, err, "about another image")
	_, err = sign.Verify(ctx, client, good, keys(key))
	require.NoError(t, err)
}

func TestAttestations(t *testing.T) {
	ctx := context.Background()
	client := registry.New(registry.Options{})
	image := push(t, client, serve(t)+"/shop", "a")
	key, _ := newKey(t, nil)
	stranger, _ := newKey(t, nil)
	provenance, err := attest.NewStatement(nil, hashOf(t, image), attest.PredicateProvenance, map[string]string{"a": "b"})
	require.NoError(t, err)
	sbom, err := attest.NewStatement(nil, hashOf(t, image), attest.PredicateSPDX, map[string]string{"c": "d"})
	require.NoError(t, err)
	require.NoError(t, sign.Attest(ctx, client, image, key, []attest.Statement{provenance}))
	require.NoError(t, sign.Attest(ctx, client, image, key, []attest.Statement{provenance, sbom}))

	found, err := sign.VerifyAttestations(ctx, client, image, keys(key), attest.PredicateSPDX)
	require.NoError(t, err)
	require.Equal(t, []attest.Statement{sbom}, found)
	found, err = sign.VerifyAttestations(ctx, client, image, keys(key), "")
	require.NoError(t, err)
	require.Equal(t, []attest.Statement{provenance, sbom}, found)
	_, err = sign.VerifyAttestations(ctx, client, image, keys(stranger), "")
	require.ErrorIs(t, err, sign.ErrNotBy)
	_, err = sign.VerifyAttestations(ctx, client, image, keys(key), "https://example.com/other")
	require.ErrorContains(t, err, "https://example.com/other")
	_, err = sign.Verify(ctx, client, image, keys(key))
	require.Error(t, err, "a statement is no signature of the image")
}

func hashOf(t *testing.T, image name.Digest) v1.Hash {
	t.Helper()
	hash, err := v1.NewHash(image.DigestStr())
	require.NoError(t, err)
	return hash
}

func TestKeys(t *testing.T) {
	private, public, err := sign.Generate([]byte("right"))
	require.NoError(t, err)
	require.Contains(t, string(private), "BEGIN ENCRYPTED SIGSTORE PRIVATE KEY")
	key, err := sign.LoadKey(private, []byte("right"))
	require.NoError(t, err)
	require.Equal(t, string(public), string(key.Public().PEM()))
	read, err := sign.LoadPublicKey(public)
	require.NoError(t, err)
	require.Equal(t, key.Public().ID(), read.ID())

	_, err = sign.LoadKey(private, []byte("wrong-canary"))
	require.ErrorIs(t, err, sign.ErrPassword)
	require.NotContains(t, err.Error(), "canary")
	_, err = sign.LoadKey(private, nil)
	require.ErrorContains(t, err, "COSIGN_PASSWORD")

	plain, _, err := sign.Generate(nil)
	require.NoError(t, err)
	require.Contains(t, string(plain), "BEGIN PRIVATE KEY")
	_, err = sign.LoadKey(plain, nil)
	require.NoError(t, err)

	for _, wrong := range [][]byte{nil, []byte("canary"), public, []byte("-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n"), make([]byte, sign.MaxKey+1)} {
		_, err = sign.LoadKey(wrong, nil)
		require.Error(t, err)
		require.NotContains(t, err.Error(), "canary")
		require.NotContains(t, err.Error(), "Y2Fu")
	}
	for _, wrong := range [][]byte{nil, private, make([]byte, sign.MaxKey+1)} {
		_, err = sign.LoadPublicKey(wrong)
		require.Error(t, err)
	}
}
