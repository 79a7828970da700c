package layer

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Sum is the SHA-256 digest of a file's content.
type Sum [sha256.Size]byte

func (s Sum) String() string { return "sha256:" + hex.EncodeToString(s[:]) }

// settled is how old a change must be for the clock of the filesystem to tell
// it from the next one.
const settled = 2 * time.Second

// hashBatch is how many files a goroutine takes at once: neighbours, which lie
// in one directory as a rule.
const hashBatch = 256

// Hash fills in the digests of regular files, reading only those that known
// does not vouch for. It returns the files that later builds may trust beside
// those known before.
func Hash(ctx context.Context, tree *Tree, items []Item, known *Known, now time.Time) ([]KnownFile, error) {
	var todo []int
	look := known.finder()
	for i := range items {
		item := &items[i]
		if item.Type != tar.TypeReg {
			continue
		}
		if k := look.find(item.Path); k != nil && k.Stamp == item.stamp {
			item.Digest = k.Digest
			continue
		}
		todo = append(todo, i)
	}
	if len(todo) == 0 {
		return nil, nil
	}
	group, ctx := errgroup.WithContext(ctx)
	work := make(chan []int)
	var mu sync.Mutex
	fresh := make([]KnownFile, 0, len(todo))
	for range min(runtime.GOMAXPROCS(0), (len(todo)+hashBatch-1)/hashBatch) {
		group.Go(func() error {
			buffer := make([]byte, 256<<10)
			files := &opener{tree: tree}
			defer files.close()
			for batch := range work {
				for _, i := range batch {
					if err := ctx.Err(); err != nil {
						return err
					}
					if err := hashItem(files, &items[i], buffer); err != nil {
						return err
					}
				}
				mu.Lock()
				for _, i := range batch {
					item := &items[i]
					if now.Sub(time.Unix(0, max(item.stamp.Changed, item.stamp.Modified))) > settled {
						fresh = append(fresh, KnownFile{item.Path, item.stamp, item.Digest})
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
			n := min(len(todo), hashBatch)
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
	return fresh, nil
}

func hashItem(files *opener, item *Item, buffer []byte) error {
	file, err := files.open(item.Path)
	if err != nil {
		return fmt.Errorf("read %q: %w", item.Path, err)
	}
	defer file.Close()
	hash := sha256.New()
	// No byte more than was promised: the end of a file is not looked for.
	n, err := io.CopyBuffer(hash, struct{ io.Reader }{io.LimitReader(file, item.Size)}, buffer)
	if err != nil {
		return fmt.Errorf("read %q: %w", item.Path, err)
	}
	if n != item.Size {
		return fmt.Errorf("read %q: %w", item.Path, ErrChanged)
	}
	hash.Sum(item.Digest[:0])
	return nil
}
