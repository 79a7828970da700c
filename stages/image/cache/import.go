package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// Blobs is where the layers of a cache are.
type Blobs interface {
	// Open gives a blob's content from an offset. Read from 0, it fails at its
	// end unless size and digest are right. The error is a *GoneError when the
	// blob is no longer there.
	Open(ctx context.Context, descriptor v1.Descriptor, offset int64) (io.ReadCloser, error)
	// Repository is where the blobs can be mounted from; the zero value is nowhere.
	Repository() name.Repository
	String() string
}

// GoneError says that a cache no longer has a blob it spoke of.
type GoneError struct {
	Digest v1.Hash
	Where  string
}

func (e *GoneError) Error() string {
	return fmt.Sprintf("the cache %s does not hold layer %s", e.Where, e.Digest)
}

// Imported is a cache that is read from.
type Imported struct {
	// Name is how messages call it.
	Name  string
	Scope string
	Blobs Blobs

	records map[v1.Hash]Record
	held    map[v1.Hash]bool
	mounts  map[string]Mount
}

// Mount gives the packed content of a cache mount.
func (i *Imported) Mount(id string) (Mount, bool) {
	m, ok := i.mounts[id]
	return m, ok
}

// Lookup gives the record of a key.
func (i *Imported) Lookup(key v1.Hash) (Record, bool) {
	r, ok := i.records[key]
	return r, ok
}

// Holds tells whether the cache has a layer and not just its name.
func (i *Imported) Holds(digest v1.Hash) bool { return i.held[digest] }

// Len counts records.
func (i *Imported) Len() int { return len(i.records) }

// ErrNoCache says that what was found is no cache and no image with one.
var ErrNoCache = errors.New("there is no build cache in it")

// inlineField holds a Document in the configuration of an image.
const inlineField = "tidegate.build.cache"

// newImported reads a manifest's document. Only layers that the manifest names
// are held: a registry keeps those.
func newImported(name string, blobs Blobs, manifest *v1.Manifest, config []byte) (*Imported, error) {
	if string(manifest.Config.MediaType) != DocumentType {
		var image map[string]json.RawMessage
		if err := json.Unmarshal(config, &image); err != nil || image[inlineField] == nil {
			return nil, fmt.Errorf("%s: %w", name, ErrNoCache)
		}
		config = image[inlineField]
	}
	document, err := Parse(config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	i := &Imported{
		Name: name, Scope: document.Scope, Blobs: blobs,
		records: make(map[v1.Hash]Record, len(document.Records)), held: make(map[v1.Hash]bool, len(manifest.Layers)), mounts: map[string]Mount{},
	}
	sizes := make(map[v1.Hash]int64, len(manifest.Layers))
	for _, l := range manifest.Layers {
		sizes[l.Digest] = l.Size
	}
	for _, m := range document.Mounts {
		if size, ok := sizes[m.Digest]; ok && size == m.Size {
			i.mounts[m.ID] = m
		}
	}
	for _, r := range document.Records {
		i.records[r.Key] = r
		if r.Layer != nil {
			// A size that does not agree is one of two lies; neither is believed.
			if size, ok := sizes[r.Layer.Digest]; ok && size == r.Layer.Size {
				i.held[r.Layer.Digest] = true
			}
		}
	}
	return i, nil
}

// FromRegistry reads the cache a reference means, or the one in an image for
// the platform. Only manifest and document are fetched.
func FromRegistry(ctx context.Context, client *registry.Client, reference string, platform v1.Platform, documents registry.Documents) (*Imported, error) {
	ref, err := client.Destination(reference)
	if err != nil {
		return nil, err
	}
	image, err := client.Resolve(ctx, ref.Name(), platform, documents)
	if err != nil {
		return nil, err
	}
	return newImported(reference, &registryBlobs{client, image.Repository}, image.Manifest, image.Config())
}

type registryBlobs struct {
	client     *registry.Client
	repository name.Repository
}

func (b *registryBlobs) Open(ctx context.Context, descriptor v1.Descriptor, offset int64) (io.ReadCloser, error) {
	content, err := b.client.Blob(ctx, b.repository, descriptor, offset)
	if registry.NotFound(err) {
		return nil, fmt.Errorf("%w: %w", &GoneError{descriptor.Digest, b.String()}, err)
	}
	return content, err
}

func (b *registryBlobs) Repository() name.Repository { return b.repository }
func (b *registryBlobs) String() string              { return b.repository.Name() }

// Embed puts a document into an image's configuration.
func Embed(config []byte, document Document) ([]byte, error) {
	encoded, err := document.Encode()
	if err != nil {
		return nil, err
	}
	body := bytes.TrimSuffix(bytes.TrimSpace(config), []byte("}"))
	if len(body) == len(bytes.TrimSpace(config)) || len(body) < 2 {
		return nil, errors.New("the image's configuration is no JSON object with fields")
	}
	return slices.Concat(body, []byte(`,"`+inlineField+`":`), encoded, []byte("}")), nil
}
