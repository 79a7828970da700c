package image

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
)

// sharedKeys are the steps of one build by key. Platforms, and stages that begin
// alike, have steps in common: whichever comes first makes the layer and the
// others wait for it, also when nothing may come from the cache.
type sharedKeys struct {
	mu   sync.Mutex
	keys map[v1.Hash]*sharedKey
}

type sharedKey struct {
	// turn holds a value while a step works on the key.
	turn chan struct{}
	made layer.Layer
	done bool
}

// lock waits until no other step works on the key, and gives what was made.
func (r *stepRun) lock(ctx context.Context, key v1.Hash) (layer.Layer, bool, error) {
	all := &r.shared
	all.mu.Lock()
	if all.keys == nil {
		all.keys = map[v1.Hash]*sharedKey{}
	}
	k := all.keys[key]
	if k == nil {
		k = &sharedKey{turn: make(chan struct{}, 1)}
		all.keys[key] = k
	}
	all.mu.Unlock()
	select {
	case k.turn <- struct{}{}:
	case <-ctx.Done():
		return layer.Layer{}, false, ctx.Err()
	}
	r.locked = append(r.locked, k)
	return k.made, k.done, nil
}

// share gives what the step has made to the others of its key.
func (r *stepRun) share(key v1.Hash, made layer.Layer) {
	r.shared.mu.Lock()
	k := r.shared.keys[key]
	r.shared.mu.Unlock()
	if k != nil {
		k.made, k.done = made, true
	}
}

// unlock lets the next step of each key have its turn.
func (r *stepRun) unlock() {
	for _, k := range r.locked {
		<-k.turn
	}
	r.locked = nil
}

// unwanted tells whether the stage is one that may not come from a cache.
func (r *stepRun) unwanted() bool {
	return slices.ContainsFunc(r.request.NoCacheStages, func(name string) bool {
		return strings.EqualFold(name, r.stage.Name) || name == strconv.Itoa(r.stage.Index)
	})
}
