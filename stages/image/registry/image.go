package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxDocument bounds manifests and configurations, in bytes.
const maxDocument = 8 << 20

// Documents keeps manifests and configurations by digest between builds.
type Documents interface {
	Document(digest v1.Hash) ([]byte, bool)
	KeepDocument(digest v1.Hash, data []byte) error
}

// Image is an image in a registry. Its layers are fetched when they are read.
type Image struct {
	// Repository is where it was found, which may be a mirror.
	Repository name.Repository
	Digest     v1.Hash
	// Index is the digest of the index that the name means and the image was
	// chosen from; zero when the name means the image itself.
	Index    v1.Hash
	Manifest *v1.Manifest

	client      *Client
	rawManifest []byte
	rawConfig   []byte
	mediaType   types.MediaType
}

// Image is the image a reference means, for the client's platform.
func (c *Client) Image(ctx context.Context, reference string) (v1.Image, error) {
	platform := c.options.Platform
	if platform.OS == "" {
		platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	}
	image, err := c.Resolve(ctx, reference, platform, nil)
	if err != nil {
		return nil, err
	}
	return image.V1(ctx)
}

// Resolve finds the image a reference means for a platform. Documents may be nil.
func (c *Client) Resolve(ctx context.Context, reference string, platform v1.Platform, documents Documents) (*Image, error) {
	ref, err := c.Source(reference)
	if err != nil {
		return nil, &permanentError{err}
	}
	var failures []error
	candidates := c.candidates(ref)
	for i, candidate := range candidates {
		image, err := c.resolve(ctx, candidate, platform, documents, i == len(candidates)-1)
		if err == nil {
			return image, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		failures = append(failures, err)
	}
	if len(failures) == 1 {
		return nil, failures[0]
	}
	return nil, &ManyError{Failures: failures}
}

// ManyError says that neither mirrors nor the registry had an image; the last
// failure is the registry's own.
type ManyError struct{ Failures []error }

func (e *ManyError) Error() string {
	last := len(e.Failures) - 1
	var mirrors []string
	for _, err := range e.Failures[:last] {
		mirrors = append(mirrors, err.Error())
	}
	return fmt.Sprintf("%v (mirrors were tried first: %s)", e.Failures[last], strings.Join(mirrors, "; "))
}
func (e *ManyError) Unwrap() []error { return e.Failures }

// NotFound tells whether an error means that a registry answered and does not
// have what was asked for.
func NotFound(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == http.StatusNotFound
}

func (c *Client) resolve(ctx context.Context, ref name.Reference, platform v1.Platform, documents Documents, patient bool) (*Image, error) {
	var s *session
	open := func() error {
		var err error
		s, err = c.puller(ctx, ref.Context())
		return err
	}
	// A mirror that is down is not waited for: there is the registry itself.
	try := c.do
	if !patient {
		try = func(_ context.Context, operation func() error) error { return operation() }
	}
	var raw []byte
	var mediaType types.MediaType
	var digest v1.Hash
	if d, ok := ref.(name.Digest); ok {
		var err error
		if digest, err = v1.NewHash(d.DigestStr()); err != nil {
			return nil, &permanentError{fmt.Errorf("image name %s: %w", ref, err)}
		}
	}
	err := try(ctx, func() error {
		if digest.Hex != "" && documents != nil {
			if data, ok := documents.Document(digest); ok {
				raw = data
				return nil
			}
		}
		if err := open(); err != nil {
			return err
		}
		if digest.Hex == "" && documents != nil {
			// The tag may be where it was: then the manifest is here.
			if found, err := s.head(ctx, ref.Identifier(), c); err == nil {
				if data, ok := documents.Document(found); ok {
					raw, digest = data, found
					return nil
				}
			}
		}
		var err error
		raw, mediaType, err = s.manifest(ctx, ref.Identifier(), digest, c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find image %s: %w", ref, err)
	}
	actual, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	c.keep(documents, actual, raw)
	if mediaType == "" {
		mediaType = declaredType(raw)
	}
	if mediaType.IsIndex() {
		image, err := c.fromIndex(ctx, ref, raw, platform, documents, patient)
		if err != nil {
			return nil, err
		}
		image.Index = actual
		return image, nil
	}
	image := &Image{Repository: ref.Context(), Digest: actual, client: c, rawManifest: raw, mediaType: mediaType}
	if image.Manifest, err = v1.ParseManifest(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("manifest of image %s: %w", ref, err)
	}
	if !mediaType.IsImage() {
		return nil, fmt.Errorf("%s is no image: its media type is %q", ref, printable(string(mediaType)))
	}
	return image, try(ctx, func() error { return image.loadConfig(ctx, documents) })
}

func (c *Client) keep(documents Documents, digest v1.Hash, data []byte) {
	if documents != nil {
		_ = documents.KeepDocument(digest, data) // it can be fetched again
	}
}

func declaredType(raw []byte) types.MediaType {
	var document struct {
		MediaType types.MediaType   `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	_ = json.Unmarshal(raw, &document) // what it is not is found out by the parser
	switch {
	case document.MediaType != "":
		return document.MediaType
	case document.Manifests != nil:
		return types.OCIImageIndex
	}
	return types.OCIManifestSchema1
}

func (c *Client) fromIndex(ctx context.Context, ref name.Reference, raw []byte, platform v1.Platform, documents Documents, patient bool) (*Image, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("index of image %s: %w", ref, err)
	}
	if d := pick(index.Manifests, platform); d != nil {
		return c.resolve(ctx, ref.Context().Digest(d.Digest.String()), platform, documents, patient)
	}
	var has []string
	for _, d := range index.Manifests {
		if d.Platform != nil && d.Platform.OS != "unknown" {
			has = append(has, printable(d.Platform.String()))
		}
	}
	return nil, &permanentError{fmt.Errorf("image %s has no %s: it has %s", ref, platform.String(), strings.Join(has, ", "))}
}

// pick gives what suits a platform best: its own, or one that it runs, such as
// linux/arm/v6 on linux/arm/v7; nil if there is none.
func pick(manifests []v1.Descriptor, want v1.Platform) *v1.Descriptor {
	suits := platforms.Only(specPlatform(want))
	var best *v1.Descriptor
	for i := range manifests {
		d := &manifests[i]
		if d.Platform == nil || !suits.Match(specPlatform(*d.Platform)) {
			continue
		}
		if best == nil || suits.Less(specPlatform(*d.Platform), specPlatform(*best.Platform)) {
			best = d
		}
	}
	return best
}

func specPlatform(p v1.Platform) ocispec.Platform {
	return platforms.Normalize(ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures})
}

var acceptManifests = strings.Join([]string{
	string(types.OCIImageIndex), string(types.OCIManifestSchema1),
	string(types.DockerManifestList), string(types.DockerManifestSchema2),
}, ", ")

func (s *session) head(ctx context.Context, identifier string, c *Client) (v1.Hash, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, s.url("manifests/%s", identifier), nil)
	if err != nil {
		return v1.Hash{}, &permanentError{err}
	}
	request.Header.Set("Accept", acceptManifests)
	response, err := s.client.Do(request)
	if err != nil {
		return v1.Hash{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return v1.Hash{}, statusError(response, c.options.Retry.Now())
	}
	return v1.NewHash(response.Header.Get("Docker-Content-Digest"))
}

func (s *session) manifest(ctx context.Context, identifier string, want v1.Hash, c *Client) ([]byte, types.MediaType, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("manifests/%s", identifier), nil)
	if err != nil {
		return nil, "", &permanentError{err}
	}
	request.Header.Set("Accept", acceptManifests)
	response, err := s.client.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, "", statusError(response, c.options.Retry.Now())
	}
	raw, err := readDocument(response.Body)
	if err != nil {
		return nil, "", err
	}
	if want.Hex != "" {
		if err := checkDigest(raw, want); err != nil {
			return nil, "", err
		}
	}
	mediaType, err := agreedType(response.Header.Get("Content-Type"), raw)
	return raw, mediaType, err
}

// agreedType is a manifest's type as header and content have it. One that says
// different things to different readers is refused: who checked it may have
// seen another image than who runs it (CVE-2021-41190).
func agreedType(header string, raw []byte) (types.MediaType, error) {
	text, _, _ := strings.Cut(header, ";")
	said := types.MediaType(strings.TrimSpace(text))
	var document struct {
		MediaType types.MediaType   `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
		Layers    []json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(raw, &document); err != nil {
		return "", &permanentError{fmt.Errorf("the manifest is not JSON: %w", err)}
	}
	known := func(t types.MediaType) bool { return t.IsImage() || t.IsIndex() }
	switch {
	case document.Manifests != nil && document.Layers != nil:
		return "", &permanentError{errors.New("the manifest is an image and an index at once")}
	case known(said) && document.MediaType != "" && document.MediaType != said:
		return "", &permanentError{fmt.Errorf("the registry calls the manifest %s, and it calls itself %q", said, printable(string(document.MediaType)))}
	case known(said) && said.IsIndex() != (document.Manifests != nil):
		return "", &permanentError{fmt.Errorf("the registry calls the manifest %s, and it is none", said)}
	case known(said):
		return said, nil
	}
	return declaredType(raw), nil
}

func readDocument(from io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(from, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxDocument {
		return nil, &permanentError{fmt.Errorf("document is larger than %d bytes", maxDocument)}
	}
	return raw, nil
}

func checkDigest(raw []byte, want v1.Hash) error {
	actual, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	if actual != want {
		return &DigestError{Want: want, Got: actual}
	}
	return nil
}

// DigestError says that a registry gave other bytes than asked for.
type DigestError struct{ Want, Got v1.Hash }

func (e *DigestError) Error() string {
	return fmt.Sprintf("the registry sent content with digest %s where %s was asked for", e.Got, e.Want)
}

func (i *Image) loadConfig(ctx context.Context, documents Documents) error {
	digest := i.Manifest.Config.Digest
	if documents != nil {
		if data, ok := documents.Document(digest); ok {
			i.rawConfig = data
			return nil
		}
	}
	content, err := i.client.Blob(ctx, i.Repository, v1.Descriptor{Digest: digest, Size: i.Manifest.Config.Size}, 0)
	if err != nil {
		return fmt.Errorf("configuration of image %s: %w", i.Repository, err)
	}
	defer content.Close()
	if i.rawConfig, err = readDocument(content); err != nil {
		return fmt.Errorf("configuration of image %s: %w", i.Repository, err)
	}
	i.client.keep(documents, digest, i.rawConfig)
	return nil
}

// Config is the image's configuration as JSON.
func (i *Image) Config() []byte { return i.rawConfig }

// V1 is the image for go-containerregistry; ctx bounds reading its layers.
func (i *Image) V1(ctx context.Context) (v1.Image, error) {
	return partial.CompressedToImage(&core{i, ctx})
}

// core implements partial.CompressedImageCore.
type core struct {
	*Image
	ctx context.Context //nolint:containedctx // v1.Image has no place for it
}

func (c *core) RawConfigFile() ([]byte, error)      { return c.rawConfig, nil }
func (c *core) MediaType() (types.MediaType, error) { return c.mediaType, nil }
func (c *core) RawManifest() ([]byte, error)        { return c.rawManifest, nil }
func (c *core) LayerByDigest(digest v1.Hash) (partial.CompressedLayer, error) {
	for _, d := range c.Manifest.Layers {
		if d.Digest == digest {
			return &layer{c, d}, nil
		}
	}
	return nil, fmt.Errorf("image %s has no layer %s", c.Repository, digest)
}

type layer struct {
	core       *core
	descriptor v1.Descriptor
}

func (l *layer) Digest() (v1.Hash, error)            { return l.descriptor.Digest, nil }
func (l *layer) Size() (int64, error)                { return l.descriptor.Size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }
func (l *layer) Compressed() (io.ReadCloser, error) {
	return l.core.client.Blob(l.core.ctx, l.core.Repository, l.descriptor, 0)
}
