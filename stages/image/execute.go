package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// execution is one build being carried out.
type execution struct {
	*Builder
	request  Request
	files    *buildContext
	document *plan.Document
	session  *store.Session
	running  *semaphore.Weighted

	images  imageSet
	tables  tableSet
	fetches onceMap[v1.Hash, struct{}]
	ensured onceMap[v1.Hash, struct{}]

	mu      sync.Mutex
	futures map[*plan.Stage]*future
	stats   Stats
	// known are the digests of context files from earlier builds; grown says
	// that there are new ones.
	known knownFiles
	// imported are the caches of other machines, made is what this build can
	// give to one.
	imported importedCaches
	made     madeSteps
}

// chainLink is a layer of an image, made here or of a base.
type chainLink struct {
	layer.Layer
	// from is where it can be had beside the store; nil for a layer made here.
	from layerSource
}

// stageResult is a stage that is built.
type stageResult struct {
	chain   []chainLink
	history []ocispec.History
}

// diffIDs are the identity of a chain.
func diffIDs(chain []chainLink) []v1.Hash {
	ids := make([]v1.Hash, 0, len(chain))
	for _, link := range chain {
		ids = append(ids, link.DiffID)
	}
	return ids
}

// future is a stage that is being built.
type future struct {
	done   chan struct{}
	result *stageResult
	err    error
}

func newExecution(b *Builder, request Request, files *buildContext, document *plan.Document, session *store.Session) *execution {
	parallel := b.Parallel
	if parallel <= 0 {
		parallel = DefaultParallel()
	}
	e := &execution{
		Builder: b, request: request, files: files, document: document, session: session,
		running: semaphore.NewWeighted(int64(parallel)), futures: map[*plan.Stage]*future{},
	}
	e.images.execution = e
	return e
}

func (e *execution) emit(event progress.Event) {
	event.Time = e.now()
	e.request.Progress(event)
}

func (e *execution) build(ctx context.Context) (*Result, error) {
	options := plan.Options{
		Args: e.request.Args, Target: e.request.Target, Platform: e.request.Platform, BuildPlatform: HostPlatform(),
		Images: &e.images,
	}
	references, err := e.document.References(options)
	if err != nil {
		return nil, classify(err)
	}
	if err := e.lookUp(ctx, references); err != nil {
		return nil, err
	}
	planned, err := e.document.Make(ctx, options)
	if err != nil {
		return nil, classify(err)
	}
	for _, w := range planned.Warnings {
		e.emit(progress.Event{Kind: progress.Warning, Text: warningText(w), Position: w.Pos.String()})
	}
	if err := e.stages(ctx, planned); err != nil {
		return nil, classify(err)
	}
	result, err := e.assemble(planned)
	if err != nil {
		return nil, err
	}
	result.Warnings = planned.Warnings
	return result, e.known.save(e)
}

func warningText(w plan.Warning) string {
	if w.Rule == "" {
		return w.Message
	}
	return w.Rule + ": " + w.Message
}

// stages builds all stages of the plan at once; each waits for those it needs.
func (e *execution) stages(ctx context.Context, planned *plan.Plan) error {
	for _, s := range planned.Stages {
		e.futures[s] = &future{done: make(chan struct{})}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range planned.Stages {
		f := e.futures[s]
		group.Go(func() error {
			defer close(f.done)
			f.result, f.err = e.stage(ctx, s)
			return f.err
		})
	}
	return group.Wait()
}

// wait gives a stage's result when it is there.
func (e *execution) wait(ctx context.Context, s *plan.Stage) (*stageResult, error) {
	f := e.futures[s]
	if f == nil {
		return nil, fmt.Errorf("stage %s is not in the plan", s.Label())
	}
	select {
	case <-f.done:
		return f.result, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (e *execution) stage(ctx context.Context, s *plan.Stage) (*stageResult, error) {
	result := &stageResult{history: slices.Clone(s.Config.History)}
	base, err := e.source(ctx, s.Base)
	if err != nil {
		return nil, err
	}
	result.chain = slices.Clone(base.chain)
	// The base may have made fewer layers than planned.
	copy(result.history, base.history)
	for i := range s.Steps {
		step := &s.Steps[i]
		made, err := e.step(ctx, s, step, result.chain)
		if err != nil {
			return nil, err
		}
		if made.Empty {
			result.history[step.History].EmptyLayer = true
			continue
		}
		result.chain = append(result.chain, made)
	}
	return result, nil
}

// source gives the layers behind a plan's source.
func (e *execution) source(ctx context.Context, s plan.Source) (*stageResult, error) {
	switch s.Kind {
	case plan.FromStage:
		return e.wait(ctx, s.Stage)
	case plan.FromImage:
		return e.images.layers(ctx, s.Reference, s.Platform)
	}
	return &stageResult{}, nil
}

const layerRecord = "layer"

// step makes a step's layer, or finds it made before.
func (e *execution) step(ctx context.Context, s *plan.Stage, step *plan.Step, chain []chainLink) (chainLink, error) {
	id := fmt.Sprintf("%s %d/%d", s.Label(), step.Number, step.Of)
	start := e.now()
	e.emit(progress.Event{Kind: progress.Start, Step: id, Text: step.Text, Position: step.Pos.String()})
	r := &stepRun{
		execution: e, stage: s, step: step, id: id, chain: chain,
		setting: setting{
			Codec: e.request.Codec, Epoch: e.request.Epoch, Platform: s.Platform, Chain: diffIDs(chain),
		},
	}
	made, cached, err := r.layer(ctx)
	took := e.now().Sub(start)
	if err != nil {
		if ctx.Err() == nil {
			e.emit(stepFailed(id, err, took))
			err = r.explain(err)
		}
		return chainLink{}, err
	}
	kind := progress.Done
	if cached {
		kind = progress.Cached
	}
	event := progress.Event{Kind: kind, Step: id, Duration: took, Bytes: made.Size}
	if !made.Empty {
		event.Digest = made.Digest.String()
	}
	e.emit(event)
	link := chainLink{Layer: made, from: r.from}
	e.made.add(r.key, link)
	e.mu.Lock()
	defer e.mu.Unlock()
	if cached {
		e.stats.Cached++
	} else {
		e.stats.Made++
	}
	return link, nil
}

// assemble makes configuration and manifest of the target.
func (e *execution) assemble(planned *plan.Plan) (*Result, error) {
	built := e.futures[planned.Target].result
	config := planned.Target.Config
	created := e.request.Epoch
	config.Created = &created
	config.RootFS = ocispec.RootFS{Type: "layers"}
	config.History = built.history
	for i := range config.History {
		if config.History[i].Created == nil && config.History[i].Comment == plan.HistoryComment {
			config.History[i].Created = &created
		}
	}
	for name, value := range e.request.Labels {
		if config.Config.Labels == nil {
			config.Config.Labels = map[string]string{}
		}
		config.Config.Labels[name] = value
	}
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	manifest.SchemaVersion = 2
	for _, link := range built.chain {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digestOf(link.DiffID))
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{
			MediaType: string(link.MediaType), Digest: digestOf(link.Digest), Size: link.Size,
		})
	}
	if config.RootFS.DiffIDs == nil {
		config.RootFS.DiffIDs = digestsOf(nil)
	}
	rawConfig, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encode image configuration: %w", err)
	}
	if rawConfig, err = e.inlineCache(rawConfig); err != nil {
		return nil, err
	}
	configDigest, configSize := sha256Of(rawConfig)
	manifest.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digestOf(configDigest), Size: configSize}
	rawManifest, err := json.Marshal(manifest)
	if err != nil {
		return nil, fmt.Errorf("encode image manifest: %w", err)
	}
	digest, _ := sha256Of(rawManifest)
	e.mu.Lock()
	stats := e.stats
	e.mu.Unlock()
	return &Result{
		Digest: digest, Manifest: rawManifest, Config: rawConfig, Stats: stats,
		layers: built.chain, store: e.Store,
	}, nil
}

// openLink gives a layer's compressed bytes from an offset, from this machine
// or else from where it was found.
func openLink(ctx context.Context, s *store.Store, link chainLink, offset int64) (io.ReadCloser, error) {
	if s.Has(link.Digest, link.Size) {
		file, err := s.Blob(link.Digest)
		if err == nil {
			_, err = file.Seek(offset, io.SeekStart)
			return file, err
		}
		if link.from == nil {
			return nil, err
		}
	}
	if link.from == nil {
		return nil, fmt.Errorf("layer %s has gone from the build cache: build again", link.Digest)
	}
	return link.from.Open(ctx, v1.Descriptor{Digest: link.Digest, Size: link.Size}, offset)
}
