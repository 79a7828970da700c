package rootfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/stages/sandbox/filelock"
)

// Pruned tells what Prune did.
type Pruned struct {
	Layers int   // removed
	Bytes  int64 // freed
	Kept   int64 // bytes of the layers that stay
}

// Prune removes the layers used longest ago until the rest takes at most
// maxBytes. Layers under a mounted snapshot, of any process, stay; if they alone
// take more than maxBytes, Kept says so.
func (s *Store) Prune(ctx context.Context, maxBytes int64) (Pruned, error) {
	layers, err := s.list()
	if err != nil {
		return Pruned{}, fmt.Errorf("list layers of %s: %w", s.dir, err)
	}
	var total int64
	for _, layer := range layers {
		total += layer.Bytes
	}
	done := Pruned{Kept: total}
	for _, layer := range layers {
		if done.Kept <= maxBytes {
			break
		}
		if err := ctx.Err(); err != nil {
			return done, context.Cause(ctx)
		}
		removed, err := s.Remove(layer)
		if err != nil {
			return done, err
		}
		if removed {
			done.Layers++
			done.Bytes += layer.Bytes
			done.Kept -= layer.Bytes
		}
	}
	return done, nil
}

// Unpacked is a tree that is kept: a layer, or what is surplus.
type Unpacked struct {
	// Name is the layer's diff ID; a surplus tree has another.
	Name  string
	Bytes int64 // on disk, roughly
	// Used is when it was used last; the Unix epoch for what never will be.
	Used time.Time
}

// List gives all trees, the one used longest ago first.
func (s *Store) List() ([]Unpacked, error) {
	layers, err := s.list()
	if err != nil {
		return nil, fmt.Errorf("list layers of %s: %w", s.dir, err)
	}
	return layers, nil
}

// Remove removes a tree of List unless somebody holds it or has used it since.
// It tells whether it is gone.
func (s *Store) Remove(tree Unpacked) (removed bool, err error) {
	if name, ok := strings.CutPrefix(tree.Name, surplusPrefix); ok {
		removed, err = s.removeSurplus(name)
	} else {
		removed, err = s.removeUnused(tree)
	}
	if err != nil {
		return false, fmt.Errorf("remove layer %s: %w", tree.Name, err)
	}
	return removed, nil
}

// list gives all trees, the one used longest ago first.
func (s *Store) list() ([]Unpacked, error) {
	layers, err := s.listOf("layers", "sha256:")
	if err != nil {
		return nil, err
	}
	surplus, err := s.listOf("surplus", surplusPrefix)
	if err != nil {
		return nil, err
	}
	all := append(layers, surplus...)
	slices.SortFunc(all, func(a, b Unpacked) int {
		return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

func (s *Store) listOf(parent, prefix string) ([]Unpacked, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, parent))
	if err != nil {
		return nil, err
	}
	var trees []Unpacked
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r, err := readRecord(filepath.Join(s.dir, parent, entry.Name()))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		trees = append(trees, Unpacked{Name: prefix + entry.Name(), Bytes: r.Bytes, Used: info.ModTime()})
	}
	return trees, nil
}

// removeUnused removes the layer unless somebody holds it or used it meanwhile.
func (s *Store) removeUnused(layer Unpacked) (bool, error) {
	diffID, err := v1.NewHash(layer.Name)
	if err != nil {
		return false, err
	}
	if err := checkDiffID(diffID); err != nil {
		return false, err
	}
	lock, err := filelock.Try(s.lockPath(diffID), filelock.Exclusive)
	if errors.Is(err, filelock.ErrHeld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := os.Lstat(s.layerDir(diffID))
	if errors.Is(err, os.ErrNotExist) {
		lock.Remove()
		return true, nil
	}
	if err != nil || info.ModTime().After(layer.Used) {
		lock.Release()
		return false, err
	}
	// Out of sight first, in one step; a crash leaves the rest to recover.
	trash, err := s.newIncoming()
	if err != nil {
		lock.Release()
		return false, err
	}
	defer trash.discard()
	if err := os.Rename(s.layerDir(diffID), filepath.Join(trash.dir, "removed")); err != nil {
		lock.Release()
		return false, err
	}
	lock.Remove()
	return true, nil
}
