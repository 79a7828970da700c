package image

import (
	"context"
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

func (e *execution) knownKey() v1.Hash {
	k := newKeyer("known files")
	k.text("context", e.files.tree.Dir)
	return k.sum()
}

// hash fills in the digests of context files.
func (k *knownFiles) hash(ctx context.Context, e *execution, items []layer.Item) error {
	k.load.Do(func() {
		// What cannot be read is hashed again.
		_, _ = e.Store.Record(knownRecord, e.knownKey(), &k.files)
	})
	fresh, err := layer.Hash(ctx, e.files.tree, items, &k.files, e.now())
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fresh = append(k.fresh, fresh...)
	return nil
}

// save keeps what is new, beside what was known.
func (k *knownFiles) save(e *execution) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.fresh) == 0 {
		return nil
	}
	return e.session.Put(knownRecord, e.knownKey(), k.files.Merge(k.fresh, maxKnown))
}

// maxKnown bounds the files remembered for one context.
const maxKnown = 1 << 20
