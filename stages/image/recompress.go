package image

import (
	"context"
	"fmt"
	"io"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
)

const recompressedRecord = "recompressed"

// compressed gives a stage's result with every layer in the codec asked for, if
// base images are to be compressed anew.
func (e *execution) compressed(ctx context.Context, built *stageResult) (*stageResult, error) {
	if !e.request.ForceCodec {
		return built, nil
	}
	again := &stageResult{history: built.history, chain: slices.Clone(built.chain)}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(DefaultParallel())
	for i := range again.chain {
		link := &again.chain[i]
		if link.MediaType == e.request.Codec.MediaType() {
			continue
		}
		group.Go(func() error {
			made, err := e.recompress(ctx, *link)
			if err != nil {
				return fmt.Errorf("compress layer %s anew: %w", link.Digest, err)
			}
			*link = chainLink{Layer: made}
			return nil
		})
	}
	return again, group.Wait()
}

func (e *execution) recompress(ctx context.Context, link chainLink) (layer.Layer, error) {
	k := newKeyer("recompressed")
	k.text("layer", link.DiffID.String())
	k.text("codec", e.request.Codec.Identity())
	return e.recompressed.do(k.sum(), func() (layer.Layer, error) {
		var made layer.Layer
		found, err := e.Store.Record(recompressedRecord, k.sum(), &made)
		if err != nil || found && e.Store.Has(made.Digest, made.Size) {
			return made, err
		}
		stream, err := e.unpacked(ctx, link)
		if err != nil {
			return made, err
		}
		defer stream.Close()
		w, err := layer.NewWriter(e.session, e.request.Codec)
		if err != nil {
			return made, err
		}
		if _, err := io.Copy(w, stream); err != nil {
			w.Abort()
			return made, err
		}
		if made, err = w.Commit(); err != nil {
			return made, err
		}
		if made.DiffID != link.DiffID {
			return made, fmt.Errorf("it unpacks to %s and not to %s as its image says", made.DiffID, link.DiffID)
		}
		return made, e.session.Put(recompressedRecord, k.sum(), made)
	})
}

type recompressions = onceMap[v1.Hash, layer.Layer]
