package rootfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
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
		total += layer.bytes
	}
	done := Pruned{Kept: total}
	for _, layer := range layers {
		if done.Kept <= maxBytes {
			break
		}
		if err := ctx.Err(); err != nil {
			return done, context.Cause(ctx)
		}
		removed, err := s.removeUnused(layer)
		if err != nil {
			return done, fmt.Errorf("remove layer %s: %w", layer.id, err)
		}
		if removed {
			done.Layers++
			done.Bytes += layer.bytes
			done.Kept -= layer.bytes
		}
	}
	return done, nil
}

type storedLayer struct {
	id    v1.Hash
	bytes int64
	used  time.Time
}

// list gives the layers, the one used longest ago first.
func (s *Store) list() ([]storedLayer, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	if err != nil {
		return nil, err
	}
	var layers []storedLayer
	for _, entry := range entries {
		layer := storedLayer{id: v1.Hash{Algorithm: "sha256", Hex: entry.Name()}}
		info, err := entry.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		layer.used = info.ModTime()
		r, err := readRecord(s.layerDir(layer.id))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		layer.bytes = r.Bytes
		layers = append(layers, layer)
	}
	slices.SortFunc(layers, func(a, b storedLayer) int {
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.id.Hex, b.id.Hex))
	})
	return layers, nil
}

// removeUnused removes the layer unless somebody holds it or used it meanwhile.
func (s *Store) removeUnused(layer storedLayer) (bool, error) {
	lock, err := tryAcquire(s.lockPath(layer.id), exclusive)
	if errors.Is(err, errHeld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := os.Lstat(s.layerDir(layer.id))
	if errors.Is(err, os.ErrNotExist) {
		lock.remove()
		return true, nil
	}
	if err != nil || info.ModTime().After(layer.used) {
		lock.release()
		return false, err
	}
	// Out of sight first, in one step; a crash leaves the rest to recover.
	trash, err := s.newIncoming()
	if err != nil {
		lock.release()
		return false, err
	}
	defer trash.discard()
	if err := os.Rename(s.layerDir(layer.id), filepath.Join(trash.dir, "removed")); err != nil {
		lock.release()
		return false, err
	}
	lock.remove()
	return true, nil
}
