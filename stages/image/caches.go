package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/image/cache"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// layerSource is where a layer can be had that may not be in the store.
type layerSource interface {
	// Open gives the blob from an offset, verified when read from 0.
	Open(ctx context.Context, descriptor v1.Descriptor, offset int64) (io.ReadCloser, error)
	// Repository is where it can be mounted from; the zero value is nowhere.
	Repository() name.Repository
	String() string
}

// baseImage is the repository of a base image.
type baseImage struct {
	client     *registry.Client
	repository name.Repository
}

func (b baseImage) Open(ctx context.Context, descriptor v1.Descriptor, offset int64) (io.ReadCloser, error) {
	return b.client.Blob(ctx, b.repository, descriptor, offset)
}
func (b baseImage) Repository() name.Repository { return b.repository }
func (b baseImage) String() string              { return b.repository.Name() }

// absentLayer is a layer that a cache knows of and does not have: its names
// serve as long as nobody needs its bytes.
type absentLayer string

func (a absentLayer) Open(_ context.Context, descriptor v1.Descriptor, _ int64) (io.ReadCloser, error) {
	return nil, &cache.GoneError{Digest: descriptor.Digest, Where: string(a)}
}
func (a absentLayer) Repository() name.Repository { return name.Repository{} }
func (a absentLayer) String() string              { return string(a) }

// importedCaches are the caches of other machines that a build reads.
type importedCaches struct {
	all  []*cache.Imported
	gone goneLayers
}

// goneLayers is what turned out to be missing from caches.
type goneLayers struct {
	layers map[v1.Hash]bool
	// tries counts how often a build began again for that.
	tries int
}

// maxGone is how often a build begins again because of caches, before it does
// without them.
const maxGone = 3

// buildWithCaches builds, and again when a cache does not hold what it said.
func (b *Builder) buildWithCaches(ctx context.Context, build func(goneLayers) (*Result, error)) (*Result, error) {
	gone := goneLayers{layers: map[v1.Hash]bool{}}
	for {
		result, err := build(gone)
		var missing *cache.GoneError
		if err == nil || ctx.Err() != nil || gone.tries == maxGone || !errors.As(err, &missing) {
			return result, err
		}
		gone.layers[missing.Digest] = true
		gone.tries++
	}
}

// stepFailed is the event of a step that failed, or has to be made after all.
func stepFailed(id string, err error, took time.Duration) progress.Event {
	var missing *cache.GoneError
	if errors.As(err, &missing) {
		return progress.Event{Kind: progress.Again, Step: id, Text: firstLine(err), Duration: took}
	}
	return progress.Event{Kind: progress.Failed, Step: id, Text: firstLine(err), Duration: took}
}

// lookUp asks registries for base images and caches, all at once.
func (e *execution) lookUp(ctx context.Context, references []plan.Reference) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.images.resolveAll(ctx, references) })
	group.Go(func() error { return e.importCaches(ctx) })
	return group.Wait()
}

func (e *execution) importCaches(ctx context.Context) error {
	if e.request.NoCache || e.imported.gone.tries == maxGone {
		return nil
	}
	// An image with its cache in it may be one of an index: each platform has its own.
	platforms := e.request.Platforms
	found := make([]*cache.Imported, len(e.request.CacheFrom)*len(platforms))
	var group errgroup.Group
	group.SetLimit(resolutions)
	for i := range found {
		group.Go(func() error {
			found[i] = e.importCache(ctx, e.request.CacheFrom[i/len(platforms)], platforms[i%len(platforms)])
			return nil
		})
	}
	_ = group.Wait() // none fails
	e.imported.all = slices.DeleteFunc(found, func(c *cache.Imported) bool { return c == nil })
	return ctx.Err()
}

// importCache reads a cache's records; a cache that cannot be read is none.
func (e *execution) importCache(ctx context.Context, spec cache.Spec, platform ocispec.Platform) *cache.Imported {
	start := e.now()
	id := "cache " + spec.String()
	if len(e.request.Platforms) > 1 {
		id += " for " + plan.FormatPlatform(platform)
	}
	e.emit(progress.Event{Kind: progress.Start, Step: id, Text: "read cache " + spec.String()})
	found, err := e.readCache(ctx, spec, platform)
	if err == nil && !e.mayRead(found.Scope) {
		found, err = nil, fmt.Errorf("it is of %q, whose builds this one may not use", progress.Printable(found.Scope))
	}
	done := progress.Event{Kind: progress.Done, Step: id, Duration: e.now().Sub(start)}
	switch {
	case err == nil:
		done.Text = fmt.Sprintf("%d steps", found.Len())
	case registry.NotFound(err), errors.Is(err, fs.ErrNotExist):
		done.Text = "there is none yet"
	default:
		done.Text = "not used"
		e.emit(progress.Event{Kind: progress.Warning, Step: id, Text: fmt.Sprintf("the cache %s is not used: %s", spec, firstLine(err))})
	}
	e.emit(done)
	return found
}

func (e *execution) readCache(ctx context.Context, spec cache.Spec, platform ocispec.Platform) (*cache.Imported, error) {
	if spec.Kind == cache.Local {
		return cache.FromLocal(spec.Dir, spec.Tag)
	}
	return cache.FromRegistry(ctx, e.Registry, spec.Ref, *registryPlatform(platform), documents{e})
}

// forkScope begins the scope of a fork's builds.
const forkScope = "fork "

func isFork(scope string) bool { return strings.HasPrefix(scope, forkScope) }

// mayRead tells whether a cache made in that scope may feed this build: a fork's
// feeds nobody else, and a fork is fed by its own repository alone.
func (e *execution) mayRead(scope string) bool {
	if scope == e.request.Scope || slices.Contains(e.request.ReadScopes, scope) {
		return true
	}
	return !isFork(e.request.Scope) && !isFork(scope)
}

// cached gives the layer of a key if it can be had.
func (r *stepRun) cached(ctx context.Context, key v1.Hash, private bool) (layer.Layer, bool, error) {
	r.key = key
	if made, ok, err := r.lock(ctx, key); err != nil || ok {
		return made, ok, err
	}
	if r.request.NoCache || r.unwanted() {
		return layer.Layer{}, false, nil
	}
	scopes := []string{r.request.Scope}
	if !private {
		scopes = append(scopes, r.request.ReadScopes...)
	}
	for _, scope := range scopes {
		if made, ok, err := r.kept(scopedKey(scope, key)); err != nil || ok {
			return made, ok, err
		}
	}
	for _, c := range r.imported.all {
		if private && c.Scope != r.request.Scope && isFork(r.request.Scope) {
			continue
		}
		record, ok := c.Lookup(scopedKey(c.Scope, key))
		if !ok {
			continue
		}
		if made, ok := r.answer(c, record); ok {
			return made, true, nil
		}
	}
	return layer.Layer{}, false, nil
}

// answer takes a record of another machine, and remembers where its layer is.
func (r *stepRun) answer(c *cache.Imported, record cache.Record) (layer.Layer, bool) {
	made := record.Answer()
	switch {
	case made.Empty, r.Store.Has(made.Digest, made.Size):
	case r.imported.gone.layers[made.Digest]:
		return layer.Layer{}, false
	case c.Holds(made.Digest):
		r.from = c.Blobs
	case r.imported.gone.tries > 0:
		// Once was enough: what is not held anywhere is made.
		return layer.Layer{}, false
	default:
		r.from = absentLayer(c.Name)
	}
	return made, true
}

// kept gives the layer of a record of the store if it is still here.
func (r *stepRun) kept(key v1.Hash) (layer.Layer, bool, error) {
	var kept keptLayer
	found, err := r.Store.Record(layerRecord, key, &kept)
	switch {
	case err != nil || !found:
		return layer.Layer{}, false, err
	case kept.Layer == nil:
		return layer.Layer{Empty: true}, true, nil
	case !r.Store.Has(kept.Layer.Digest, kept.Layer.Size):
		return layer.Layer{}, false, nil
	}
	return *kept.Layer, true, nil
}

// keptLayer is the record of a key. No layer means that the step made none.
type keptLayer struct {
	Layer *layer.Layer `json:"layer,omitempty"`
}

// keep records what a key gives.
func (r *stepRun) keep(key v1.Hash, made layer.Layer) error {
	r.share(key, made)
	kept := keptLayer{Layer: &made}
	if made.Empty {
		kept.Layer = nil
	}
	return r.session.Put(layerRecord, scopedKey(r.request.Scope, key), kept)
}

// madeSteps are the steps of a build, for the caches it writes.
type madeSteps struct {
	mu    sync.Mutex
	steps []madeStep
	// mounts are the ids of the cache mounts that were used.
	mounts map[string]store.CacheOwner
}

type madeStep struct {
	key  v1.Hash
	link chainLink
}

func (m *madeSteps) add(key v1.Hash, link chainLink) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps = append(m.steps, madeStep{key, link})
}

// cacheDocument are the records of the build.
func (e *execution) cacheDocument() cache.Document {
	e.made.mu.Lock()
	defer e.made.mu.Unlock()
	records := make([]cache.Record, 0, len(e.made.steps))
	for _, s := range e.made.steps {
		records = append(records, cache.Record{Key: scopedKey(e.request.Scope, s.key), Layer: cache.Of(s.link.Layer)})
	}
	return cache.NewDocument(e.request.Scope, records)
}

// inlineCache puts the records into the image's configuration if asked to.
func (e *execution) inlineCache(config []byte) ([]byte, error) {
	for _, spec := range e.request.CacheTo {
		if spec.Kind == cache.Inline {
			return cache.Embed(config, e.cacheDocument())
		}
	}
	return config, nil
}

// writeCaches gives what was built to other machines.
func (e *execution) writeCaches(ctx context.Context, result *Result) error {
	for _, spec := range e.request.CacheTo {
		if spec.Kind == cache.Inline {
			continue
		}
		if isFork(e.request.Scope) && spec.Kind == cache.Registry {
			return pipeline.Fail(pipeline.CauseRefused, "the cache %s is not written: code from a fork may not feed what others build", spec)
		}
		if err := e.writeCache(ctx, result, spec); err != nil {
			if !spec.IgnoreError || ctx.Err() != nil {
				return classify(fmt.Errorf("write cache %s: %w", spec, err))
			}
			e.emit(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("the cache %s was not written: %s", spec, firstLine(err))})
		}
	}
	return nil
}

func (e *execution) writeCache(ctx context.Context, result *Result, spec cache.Spec) error {
	start := e.now()
	id := "cache to " + spec.String()
	e.emit(progress.Event{Kind: progress.Start, Step: id, Text: "write cache " + spec.String()})
	content := cache.Content{Document: e.cacheDocument()}
	var pushed []name.Repository
	if spec.Kind == cache.Registry {
		target, err := e.Registry.Destination(spec.Ref)
		if err != nil {
			return invalid(err)
		}
		pushed = slices.DeleteFunc(slices.Clone(result.repositories), func(r name.Repository) bool {
			return r.RegistryStr() != target.Context().RegistryStr()
		})
	}
	var total int64
	if spec.Mounts {
		packed, err := e.packMounts(ctx)
		if err != nil {
			e.emit(stepFailed(id, err, e.now().Sub(start)))
			return err
		}
		for _, m := range packed {
			content.Document.Mounts = append(content.Document.Mounts, m)
			content.Blobs = append(content.Blobs, e.upload(chainLink{Layer: layer.Layer{Digest: m.Digest, Size: m.Size, MediaType: cache.MountType}}, nil))
			total += m.Size
		}
	}
	for _, link := range e.cacheLayers(result, spec.Mode) {
		content.Blobs = append(content.Blobs, e.upload(link, pushed))
		total += link.Size
	}
	content.Progress = e.transferred(id, total)
	var done registry.Pushed
	var err error
	if spec.Kind == cache.Local {
		done, err = cache.ToLocal(ctx, spec.Dir, spec.Tag, content)
	} else {
		done, err = cache.ToRegistry(ctx, e.Registry, spec.Ref, content)
	}
	if err != nil {
		e.emit(stepFailed(id, err, e.now().Sub(start)))
		return err
	}
	e.emit(progress.Event{
		Kind: progress.Done, Step: id, Bytes: done.Bytes, Digest: done.Digest.String(), Duration: e.now().Sub(start),
		Text: fmt.Sprintf("%d steps; %d blobs sent, %d mounted, %d there already", len(content.Document.Records), done.Uploaded, done.Mounted, done.Present),
	})
	return nil
}

// cacheLayers are the layers a cache holds, those of base images left out: they
// are where they were.
func (e *execution) cacheLayers(result *Result, mode cache.Mode) []chainLink {
	e.made.mu.Lock()
	defer e.made.mu.Unlock()
	inImage := map[v1.Hash]bool{}
	for _, image := range result.Images {
		for _, link := range image.layers {
			inImage[link.Digest] = true
		}
	}
	var links []chainLink
	for _, s := range e.made.steps {
		_, absent := s.link.from.(absentLayer)
		if s.link.Empty || absent || (mode == cache.Min && !inImage[s.link.Digest]) {
			continue
		}
		links = append(links, s.link)
	}
	// In an order of their own: stages end in any.
	slices.SortFunc(links, func(a, b chainLink) int { return strings.Compare(a.Digest.Hex, b.Digest.Hex) })
	return links
}
