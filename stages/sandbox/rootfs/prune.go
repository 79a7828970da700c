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
		removed, err := s.removeUnused(layer)
		if err != nil {
			return done, fmt.Errorf("remove layer %s: %w", layer.DiffID, err)
		}
		if removed {
			done.Layers++
			done.Bytes += layer.Bytes
			done.Kept -= layer.Bytes
		}
	}
	return done, nil
}

// Unpacked is a layer that is kept.
type Unpacked struct {
	DiffID v1.Hash
	Bytes  int64 // on disk, roughly
	Used   time.Time
}

// List gives the layers, the one used longest ago first.
func (s *Store) List() ([]Unpacked, error) {
	layers, err := s.list()
	if err != nil {
		return nil, fmt.Errorf("list layers of %s: %w", s.dir, err)
	}
	return layers, nil
}

// Remove removes a layer of List unless somebody holds it or has used it since.
// It tells whether the layer is gone.
func (s *Store) Remove(layer Unpacked) (bool, error) {
	if err := checkDiffID(layer.DiffID); err != nil {
		return false, err
	}
	removed, err := s.removeUnused(layer)
	if err != nil {
		return false, fmt.Errorf("remove layer %s: %w", layer.DiffID, err)
	}
	return removed, nil
}

// list gives the layers, the one used longest ago first.
func (s *Store) list() ([]Unpacked, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	if err != nil {
		return nil, err
	}
	var layers []Unpacked
	for _, entry := range entries {
		layer := Unpacked{DiffID: v1.Hash{Algorithm: "sha256", Hex: entry.Name()}}
		info, err := entry.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		layer.Used = info.ModTime()
		r, err := readRecord(s.layerDir(layer.DiffID))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		layer.Bytes = r.Bytes
		layers = append(layers, layer)
	}
	slices.SortFunc(layers, func(a, b Unpacked) int {
		return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(a.DiffID.Hex, b.DiffID.Hex))
	})
	return layers, nil
}

// removeUnused removes the layer unless somebody holds it or used it meanwhile.
func (s *Store) removeUnused(layer Unpacked) (bool, error) {
	lock, err := filelock.Try(s.lockPath(layer.DiffID), filelock.Exclusive)
	if errors.Is(err, filelock.ErrHeld) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := os.Lstat(s.layerDir(layer.DiffID))
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
	if err := os.Rename(s.layerDir(layer.DiffID), filepath.Join(trash.dir, "removed")); err != nil {
		lock.Release()
		return false, err
	}
	lock.Remove()
	return true, nil
}
