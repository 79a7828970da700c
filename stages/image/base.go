package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
)

// imageSet are the images a build uses, each resolved once.
type imageSet struct {
	execution *execution
	resolved  onceMap[string, *registry.Image]

	mu sync.Mutex
	// layouts are the images that lie in OCI layouts of this machine.
	layouts map[*registry.Image]layerSource
}

// resolutions is how many images are looked up at once.
const resolutions = 8

func (s *imageSet) resolveAll(ctx context.Context, references []plan.Reference) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(resolutions)
	for _, r := range references {
		group.Go(func() error {
			// Failures show when the plan asks, with their place in the Dockerfile.
			_, _ = s.get(ctx, r)
			return nil
		})
	}
	return group.Wait()
}

func (s *imageSet) get(ctx context.Context, of plan.Reference) (*registry.Image, error) {
	reference, platform := of.Name, of.Platform
	return s.resolved.do(of.Key(), func() (*registry.Image, error) {
		e := s.execution
		start := e.now()
		id := "image " + reference
		e.emit(progress.Event{Kind: progress.Start, Step: id, Text: "resolve " + reference})
		suits := v1.Platform{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant}
		var image *registry.Image
		err := e.admitLayout(of)
		switch {
		case err != nil:
		case of.Context == "":
			image, err = e.resolve(ctx, reference, suits)
		default:
			image, err = s.fromLayout(ctx, of.Context, suits)
		}
		if err != nil {
			e.emit(progress.Event{Kind: progress.Failed, Step: id, Text: firstLine(err), Duration: e.now().Sub(start)})
			return nil, err
		}
		e.emit(progress.Event{Kind: progress.Done, Step: id, Digest: image.Digest.String(), Duration: e.now().Sub(start)})
		return image, nil
	})
}

// fromLayout finds the image of a named context that is an OCI layout.
func (s *imageSet) fromLayout(ctx context.Context, name string, platform v1.Platform) (*registry.Image, error) {
	layout, which, err := s.execution.files.contexts.layout(name)
	if err != nil {
		return nil, err
	}
	image, err := layout.Image(ctx, which, platform)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.layouts == nil {
		s.layouts = map[*registry.Image]layerSource{}
	}
	s.layouts[image] = layout
	return image, nil
}

// from is where an image's layers can be read.
func (s *imageSet) from(image *registry.Image) layerSource {
	s.mu.Lock()
	defer s.mu.Unlock()
	if layout, ok := s.layouts[image]; ok {
		return layout
	}
	return baseImage{s.execution.Registry, image.Repository}
}

// Config implements plan.Images.
func (s *imageSet) Config(ctx context.Context, reference plan.Reference) (plan.Image, error) {
	image, err := s.get(ctx, reference)
	if err != nil {
		return plan.Image{}, err
	}
	planned := plan.Image{Digest: image.Digest.String()}
	if err := json.Unmarshal(image.Config(), &planned.Config); err != nil {
		return plan.Image{}, fmt.Errorf("its configuration cannot be read: %w", err)
	}
	return planned, nil
}

// layers are the image's layers as a result to build on.
func (s *imageSet) layers(ctx context.Context, of plan.Reference) (*stageResult, error) {
	reference := of.Name
	image, err := s.get(ctx, of)
	if err != nil {
		return nil, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(image.Config(), &config); err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", reference, err)
	}
	if len(config.RootFS.DiffIDs) != len(image.Manifest.Layers) {
		return nil, fmt.Errorf("image %s is broken: its configuration has %d layers, its manifest %d", reference, len(config.RootFS.DiffIDs), len(image.Manifest.Layers))
	}
	result := &stageResult{history: config.History}
	for i, d := range image.Manifest.Layers {
		diffID, err := v1.NewHash(config.RootFS.DiffIDs[i].String())
		if err != nil {
			return nil, fmt.Errorf("image %s: layer %d: %w", reference, i, err)
		}
		mediaType, err := layerType(d.MediaType)
		if err != nil {
			return nil, fmt.Errorf("image %s: layer %d: %w", reference, i, err)
		}
		result.chain = append(result.chain, chainLink{
			Layer: layer.Layer{Digest: d.Digest, DiffID: diffID, Size: d.Size, MediaType: mediaType}, from: s.from(image),
		})
	}
	return result, nil
}

// layerType gives the OCI name of a layer's media type; the bytes are the same.
func layerType(t types.MediaType) (types.MediaType, error) {
	switch t {
	case types.OCILayer, types.DockerLayer:
		return types.OCILayer, nil
	case types.OCIUncompressedLayer, types.DockerUncompressedLayer:
		return types.OCIUncompressedLayer, nil
	case types.OCILayerZStd:
		return types.OCILayerZStd, nil
	}
	return "", fmt.Errorf("media type %q is not supported", string(t))
}

// documents keeps manifests and configurations in the build's store.
type documents struct{ e *execution }

func (d documents) Document(digest v1.Hash) ([]byte, bool) {
	file, err := d.e.Store.Blob(digest)
	if err != nil {
		return nil, false
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, 16<<20))
	if err != nil {
		return nil, false
	}
	if actual, _ := sha256Of(data); actual != digest {
		return nil, false
	}
	return data, true
}

func (d documents) KeepDocument(digest v1.Hash, data []byte) error {
	if file, err := d.e.Store.Blob(digest); err == nil {
		return file.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.e.session.PutBlob(digest, data)
}

// onceMap computes each key's value once, also when asked for by several
// goroutines at the same time. Failures are not kept.
type onceMap[K comparable, V any] struct {
	mu      sync.Mutex
	entries map[K]*onceEntry[V]
}

type onceEntry[V any] struct {
	mu    sync.Mutex
	value V
	done  bool
}

func (m *onceMap[K, V]) do(key K, compute func() (V, error)) (V, error) {
	m.mu.Lock()
	if m.entries == nil {
		m.entries = map[K]*onceEntry[V]{}
	}
	entry := m.entries[key]
	if entry == nil {
		entry = &onceEntry[V]{}
		m.entries[key] = entry
	}
	m.mu.Unlock()
	entry.mu.Lock()
	defer entry.mu.Unlock()
	if entry.done {
		return entry.value, nil
	}
	value, err := compute()
	if err == nil {
		entry.value, entry.done = value, true
	}
	return value, err
}
