package layer

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// Known are the digests of files that were hashed before, by path, each with
// what would betray a change.
type Known map[string]KnownFile

// KnownFile is one file's digest.
type KnownFile struct {
	Stamp  stamp   `json:"stamp"`
	Digest v1.Hash `json:"digest"`
}

// settled is how old a change must be for the clock of the filesystem to tell
// it from the next one.
const settled = 2 * time.Second

// Hash fills in the digests of regular files, reading only those that known
// does not vouch for. It returns the files that later builds may trust, or nil
// when there is nothing new to keep.
func Hash(ctx context.Context, tree *Tree, items []Item, known Known, now time.Time) (Known, error) {
	fresh := make(Known, len(items))
	changed := false
	var todo []int
	for i := range items {
		item := &items[i]
		if item.Type != tar.TypeReg {
			continue
		}
		if k, ok := known[item.Path]; ok && k.Stamp == item.stamp {
			item.Digest = k.Digest
			fresh[item.Path] = k
			continue
		}
		todo = append(todo, i)
	}
	group, ctx := errgroup.WithContext(ctx)
	work := make(chan []int)
	var mu sync.Mutex
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			buffer := make([]byte, 256<<10)
			for batch := range work {
				for _, i := range batch {
					if err := ctx.Err(); err != nil {
						return err
					}
					if err := hashItem(tree, &items[i], buffer); err != nil {
						return err
					}
				}
				mu.Lock()
				for _, i := range batch {
					item := &items[i]
					if now.Sub(time.Unix(0, max(item.stamp.Changed, item.stamp.Modified))) > settled {
						fresh[item.Path] = KnownFile{item.stamp, item.Digest}
						changed = true
					}
				}
				mu.Unlock()
			}
			return nil
		})
	}
	group.Go(func() error {
		defer close(work)
		for len(todo) > 0 {
			n := min(len(todo), 64)
			select {
			case work <- todo[:n]:
				todo = todo[n:]
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if !changed {
		return nil, nil
	}
	return fresh, nil
}

func hashItem(tree *Tree, item *Item, buffer []byte) error {
	file, err := tree.Open(item.Path)
	if err != nil {
		return fmt.Errorf("read %q: %w", item.Path, err)
	}
	defer file.Close()
	hash := sha256.New()
	n, err := io.CopyBuffer(hash, struct{ io.Reader }{file}, buffer)
	if err != nil {
		return fmt.Errorf("read %q: %w", item.Path, err)
	}
	if n != item.Size {
		return fmt.Errorf("read %q: %w", item.Path, ErrChanged)
	}
	item.Digest = sum(hash)
	return nil
}
