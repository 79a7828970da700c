package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/stages/image/cache"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// fillMount gives a cache mount that this machine does not have what another
// machine's cache keeps of it. Without, the mount is empty, which is no failure.
func (e *execution) fillMount(ctx context.Context, id string, owner store.CacheOwner) error {
	e.made.usedMount(id, owner)
	if e.Store.HasCache(e.request.Scope, id) {
		return nil
	}
	for _, c := range e.imported.all {
		packed, ok := c.Mount(id)
		// Who fills a cache decides what its users run: a fork's, and a fork, are
		// alone with theirs.
		if !ok || (isFork(e.request.Scope) && c.Scope != e.request.Scope) {
			continue
		}
		err := e.unpackMount(ctx, c, packed, owner)
		var full *store.FullError
		if err == nil || ctx.Err() != nil || errors.As(err, &full) {
			return err
		}
		e.emit(progress.Event{Kind: progress.Warning, Text: fmt.Sprintf("the cache mount %q begins empty: %s", progress.Printable(id), firstLine(err))})
	}
	return nil
}

func (e *execution) unpackMount(ctx context.Context, c *cache.Imported, packed cache.Mount, owner store.CacheOwner) error {
	// Alone with it: whoever comes next finds it filled.
	mount, err := e.session.Cache(ctx, e.request.Scope, packed.ID, store.Locked, owner)
	if err != nil {
		return err
	}
	defer mount.Release()
	entries, err := os.ReadDir(mount.Path)
	if err != nil || len(entries) > 0 {
		return err
	}
	start := e.now()
	id := "cache mount " + packed.ID
	e.emit(progress.Event{Kind: progress.Start, Step: id, Text: "fill cache mount from " + c.Name, Total: packed.Size})
	err = func() error {
		content, err := c.Blobs.Open(ctx, v1.Descriptor{Digest: packed.Digest, Size: packed.Size}, 0)
		if err != nil {
			return err
		}
		defer content.Close()
		reading := &movedReader{from: content, e: e, id: id, total: packed.Size}
		if err := cache.Unpack(ctx, reading, mount.Path, mount.Take); err != nil {
			return err
		}
		// The reader verifies the digest at the very end.
		_, err = io.Copy(io.Discard, reading)
		return err
	}()
	if err != nil {
		e.emit(progress.Event{Kind: progress.Failed, Step: id, Text: firstLine(err), Duration: e.now().Sub(start)})
		return errors.Join(err, clearDirectory(mount.Path))
	}
	e.emit(progress.Event{Kind: progress.Done, Step: id, Bytes: packed.Size, Duration: e.now().Sub(start)})
	return nil
}

// clearDirectory removes what is in a directory.
func clearDirectory(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		err = errors.Join(err, root.RemoveAll(entry.Name()))
	}
	return err
}

func (m *madeSteps) usedMount(id string, owner store.CacheOwner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mounts == nil {
		m.mounts = map[string]store.CacheOwner{}
	}
	m.mounts[id] = owner
}

// packMounts packs the cache mounts that the build used.
func (e *execution) packMounts(ctx context.Context) ([]cache.Mount, error) {
	e.made.mu.Lock()
	used := maps.Clone(e.made.mounts)
	e.made.mu.Unlock()
	var all []cache.Mount
	for _, id := range slices.Sorted(maps.Keys(used)) {
		packed, err := e.packMount(ctx, id, used[id])
		if err != nil {
			return nil, fmt.Errorf("cache mount %q: %w", id, err)
		}
		all = append(all, packed)
	}
	return all, nil
}

func (e *execution) packMount(ctx context.Context, id string, owner store.CacheOwner) (cache.Mount, error) {
	mount, err := e.session.Cache(ctx, e.request.Scope, id, store.Locked, owner)
	if err != nil {
		return cache.Mount{}, err
	}
	defer mount.Release()
	file, err := e.session.Temporary()
	if err != nil {
		return cache.Mount{}, err
	}
	defer file.Discard()
	hash := sha256.New()
	counted := &countingWriter{to: io.MultiWriter(file, hash)}
	if err := cache.Pack(ctx, mount.Path, counted); err != nil {
		return cache.Mount{}, err
	}
	digest := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(hash.Sum(nil))}
	return cache.Mount{ID: id, Digest: digest, Size: counted.n}, file.Keep(digest)
}

type countingWriter struct {
	to io.Writer
	n  int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}
