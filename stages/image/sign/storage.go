package sign

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// attachment is what a tag beside an image holds: a manifest whose layers are
// signatures or envelopes.
type attachment struct {
	tag      name.Tag
	manifest ocispec.Manifest
	// fresh are the blobs that the registry does not have yet, by digest.
	fresh map[digest.Digest][]byte
}

// open reads what a tag holds; a tag that is not there holds nothing.
func open(ctx context.Context, r Registry, tag name.Tag) (*attachment, error) {
	a := &attachment{tag: tag, fresh: map[digest.Digest][]byte{}}
	a.manifest.SchemaVersion = 2
	a.manifest.MediaType = ocispec.MediaTypeImageManifest
	artifact, err := r.Artifact(ctx, tag)
	if registry.NotFound(err) {
		return a, nil
	}
	if err != nil {
		return nil, err
	}
	if !artifact.MediaType.IsImage() {
		return nil, fmt.Errorf("%s is no manifest", tag)
	}
	if err := json.Unmarshal(artifact.Raw, &a.manifest); err != nil {
		return nil, fmt.Errorf("%s: %w", tag, err)
	}
	return a, nil
}

// content is a layer's, or nil when it can't be had: such a signature is none.
func (a *attachment) content(ctx context.Context, r Registry, layer ocispec.Descriptor, most int64) []byte {
	hash, err := v1.NewHash(string(layer.Digest))
	if err != nil {
		return nil
	}
	raw, err := r.Content(ctx, a.tag.Context(), v1.Descriptor{Digest: hash, Size: layer.Size}, most)
	if err != nil {
		return nil
	}
	return raw
}

func (a *attachment) layers(mediaType string) []ocispec.Descriptor {
	var all []ocispec.Descriptor
	for _, layer := range a.manifest.Layers {
		if layer.MediaType == mediaType && len(all) < maxSignatures {
			all = append(all, layer)
		}
	}
	return all
}

func (a *attachment) signatures(ctx context.Context, r Registry) []Signature {
	var all []Signature
	for _, layer := range a.layers(simpleSigningType) {
		made, err := decodeSignature(layer.Annotations[signatureAnnotation])
		if err != nil {
			continue
		}
		if raw := a.content(ctx, r, layer, maxPayload); raw != nil {
			all = append(all, Signature{Payload: raw, Signature: made})
		}
	}
	return all
}

func (a *attachment) envelopes(ctx context.Context, r Registry) [][]byte {
	var all [][]byte
	for _, layer := range a.layers(envelopeType) {
		if raw := a.content(ctx, r, layer, 2*attest.MaxStatement); raw != nil {
			all = append(all, raw)
		}
	}
	return all
}

func (a *attachment) addSignature(s Signature) error {
	return a.add(simpleSigningType, s.Payload, map[string]string{
		signatureAnnotation: base64.StdEncoding.EncodeToString(s.Signature),
	})
}

func (a *attachment) addEnvelope(envelope []byte, predicateType string) error {
	// The signature is in the envelope; cosign wants the annotation nevertheless.
	return a.add(envelopeType, envelope, map[string]string{signatureAnnotation: "", predicateAnnotation: predicateType})
}

func (a *attachment) add(mediaType string, data []byte, annotations map[string]string) error {
	if len(a.manifest.Layers) >= maxSignatures {
		return fmt.Errorf("%s has %d entries: more are not read; delete the tag to begin anew", a.tag, len(a.manifest.Layers))
	}
	d := digest.FromBytes(data)
	a.fresh[d] = data
	a.manifest.Layers = append(a.manifest.Layers, ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data)), Annotations: annotations})
	return nil
}

// push writes the manifest anew. Two that sign the same image at the same
// moment may overwrite each other, as with cosign: the tag has no lock.
func (a *attachment) push(ctx context.Context, r Registry) error {
	config := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	for _, layer := range a.manifest.Layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.Digest)
	}
	rawConfig, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("encode %s: %w", a.tag, err)
	}
	configDigest := digest.FromBytes(rawConfig)
	a.manifest.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: configDigest, Size: int64(len(rawConfig))}
	a.fresh[configDigest] = rawConfig
	raw, err := json.Marshal(a.manifest)
	if err != nil {
		return fmt.Errorf("encode %s: %w", a.tag, err)
	}
	push := registry.Push{Repository: a.tag.Context(), Tags: []string{a.tag.TagStr()}, Manifest: registry.Manifest{Raw: raw, MediaType: types.OCIManifestSchema1}}
	for d, data := range a.fresh {
		hash, err := v1.NewHash(string(d))
		if err != nil {
			return err
		}
		push.Blobs = append(push.Blobs, registry.Upload{
			Descriptor: v1.Descriptor{Digest: hash, Size: int64(len(data))},
			Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(data[offset:])), nil
			},
		})
	}
	_, err = r.Push(ctx, push)
	return err
}

// bundlesOf fetches the envelopes of the sigstore bundles that refer to an image.
func bundlesOf(ctx context.Context, r Registry, image name.Digest) ([][]byte, error) {
	referrers, err := r.Referrers(ctx, image)
	if err != nil {
		return nil, err
	}
	var all [][]byte
	for _, d := range referrers[:min(len(referrers), maxSignatures)] {
		// A registry without the API lists whatever refers, of any type.
		artifact, err := r.Artifact(ctx, image.Context().Digest(d.Digest.String()))
		if err != nil || !artifact.MediaType.IsImage() {
			continue
		}
		manifest, err := v1.ParseManifest(bytes.NewReader(artifact.Raw))
		if err != nil || manifest.Subject == nil || manifest.Subject.Digest.String() != image.DigestStr() {
			continue
		}
		for _, layer := range manifest.Layers {
			if !strings.HasPrefix(string(layer.MediaType), bundleType) {
				continue
			}
			raw, err := r.Content(ctx, image.Context(), layer, 2*attest.MaxStatement)
			if err != nil {
				continue
			}
			if envelope, err := envelopeOf(raw); err == nil {
				all = append(all, envelope)
			}
		}
	}
	return all, nil
}
