package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/tidegate-ci/tidegate/internal/mask"
	"github.com/tidegate-ci/tidegate/stages/image/attest"
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
	masker   *mask.Masker

	images  imageSet
	tables  tableSet
	fetches onceMap[v1.Hash, struct{}]
	ensured onceMap[v1.Hash, struct{}]

	// tidying is what need not be done before the next step, but before the build
	// ends.
	tidying errgroup.Group

	// debugging is held while somebody looks at a failed step.
	debugging sync.Mutex
	// started is when the build began, for provenance that tells it.
	started time.Time
	// downloads are what ADD took from elsewhere, for provenance.
	downloads []attest.Material

	mu      sync.Mutex
	futures map[*plan.Stage]*future
	// labels name the stages for people, with a platform when there are several.
	labels       map[*plan.Stage]string
	stats        Stats
	shared       sharedKeys
	recompressed recompressions
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
		running: semaphore.NewWeighted(int64(parallel)), masker: newMasker(request.Secrets), futures: map[*plan.Stage]*future{},
	}
	e.images.execution, e.started = e, e.now()
	return e
}

func (e *execution) emit(event progress.Event) {
	event.Time = e.now()
	e.request.Progress(event)
}

func warningText(w plan.Warning) string {
	if w.Rule == "" {
		return w.Message
	}
	return w.Rule + ": " + w.Message
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
		return e.images.layers(ctx, s.ImageReference())
	}
	return &stageResult{}, nil
}

const layerRecord = "layer"

// step makes a step's layer, or finds it made before.
func (e *execution) step(ctx context.Context, s *plan.Stage, step *plan.Step, chain []chainLink) (chainLink, error) {
	id := fmt.Sprintf("%s %d/%d", e.label(s), step.Number, step.Of)
	start := e.now()
	e.emit(progress.Event{Kind: progress.Start, Step: id, Text: step.Text, Position: step.Pos.String()})
	r := &stepRun{
		execution: e, stage: s, step: step, id: id, chain: chain,
		setting: setting{
			Codec: e.request.Codec, Epoch: e.request.Epoch, Platform: s.Platform, Chain: diffIDs(chain),
		},
	}
	defer r.unlock()
	made, cached, err := r.layer(ctx)
	took := e.now().Sub(start)
	if err != nil {
		if ctx.Err() == nil {
			e.emit(stepFailed(id, err, took))
			if err = r.explain(err); len(e.request.Platforms) > 1 {
				err = fmt.Errorf("%s: %w", e.label(s), err)
			}
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
