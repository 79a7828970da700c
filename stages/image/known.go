package image

import (
	"context"
	"errors"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
)

// knownFiles are the digests of the context's files that earlier builds left,
// so that a file that has not changed is not read again.
type knownFiles struct {
	load  sync.Once
	files layer.Known
	mu    sync.Mutex
	fresh []layer.KnownFile
}

const knownRecord = "files"

func (t *sourceTree) knownKey() v1.Hash {
	k := newKeyer("known files")
	k.text("context", t.selector.Tree.Dir)
	return k.sum()
}

// hash fills in the digests of the tree's files.
func (t *sourceTree) hash(ctx context.Context, e *execution, items []layer.Item) error {
	k := &t.known
	k.load.Do(func() {
		if !t.passing {
			// What cannot be read is hashed again.
			_, _ = e.Store.Record(knownRecord, t.knownKey(), &k.files)
		}
	})
	fresh, err := layer.Hash(ctx, t.selector.Tree, items, &k.files, e.now())
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fresh == nil {
		k.fresh = fresh // not copied: there may be very many
	} else {
		k.fresh = append(k.fresh, fresh...)
	}
	return nil
}

// save keeps what is new, beside what was known.
func (t *sourceTree) save(e *execution) error {
	k := &t.known
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.fresh) == 0 || t.passing {
		return nil
	}
	return e.session.Put(knownRecord, t.knownKey(), k.files.Merge(k.fresh, maxKnown))
}

// saveKnown keeps what is known of all trees of this machine.
func (e *execution) saveKnown() error {
	all := e.files.save(e)
	for _, tree := range e.files.contexts.opened() {
		all = errors.Join(all, tree.save(e))
	}
	return all
}

// maxKnown bounds the files remembered for one context.
const maxKnown = 1 << 20
