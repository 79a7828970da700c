package run

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/stages/sandbox/filelock"
)

// maxSlots is how many copies of one cache are kept for attempts that run at the
// same time. An attempt beyond them starts with an empty directory that is
// thrown away.
const maxSlots = 4

// caches keeps directories between attempts. A cache is used by one attempt at a
// time: another that wants it meanwhile gets the next slot, which fills on its
// own. So no tool ever meets a second one writing to its cache, and no attempt
// waits for another. The lock of a killed process is gone with it.
type caches struct{ dir string }

// cacheKey decides who shares a cache. What a fork's code wrote is never read by
// the repository's own branches, nor by another pull request.
func cacheKey(e event.Event, image, path string) string {
	trust := string(e.Trust)
	if e.Trust != event.Own {
		trust = "fork"
		if e.PullRequest != nil {
			trust += "/" + strconv.Itoa(e.PullRequest.Number)
		}
	}
	digest := sha256.New()
	for _, part := range []string{"cache 1", e.Forge, e.Repository.FullName, trust, image, path} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		digest.Write(length[:])
		digest.Write([]byte(part))
	}
	return hex.EncodeToString(digest.Sum(nil))
}

// heldCache is a cache directory in use.
type heldCache struct {
	dir       string
	lock      *filelock.Lock
	temporary bool
}

func (c *caches) take(key string) (*heldCache, error) {
	parent := filepath.Join(c.dir, key)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	for slot := range maxSlots {
		held, err := takeSlot(filepath.Join(parent, strconv.Itoa(slot)))
		if err == nil || !errors.Is(err, filelock.ErrHeld) {
			return held, err
		}
	}
	dir, err := os.MkdirTemp(parent, "extra-")
	if err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	return &heldCache{dir: dir, temporary: true}, open(dir)
}

// open lets any user of a container write to its cache; on the host the parent
// directory keeps others out.
func open(dir string) error { return os.Chmod(dir, 0o777) }

func takeSlot(name string) (*heldCache, error) {
	lock, err := filelock.Try(name+".lock", filelock.Exclusive)
	if err != nil {
		return nil, fmt.Errorf("take cache: %w", err)
	}
	now := time.Now()
	err = errors.Join(os.MkdirAll(name, 0o777), open(name), os.Chtimes(lock.Path(), now, now))
	if err != nil {
		lock.Release()
		return nil, fmt.Errorf("take cache: %w", err)
	}
	return &heldCache{dir: name, lock: lock}, nil
}

func (h *heldCache) release() {
	if h.temporary {
		_ = os.RemoveAll(h.dir)
		return
	}
	h.lock.Release()
}

// PruneCaches removes caches, those used longest ago first, until the rest takes
// at most maxBytes. Caches in use stay. It returns the bytes that remain.
func (k *Kind) PruneCaches(ctx context.Context, maxBytes int64) (int64, error) {
	if k.options.CacheDir == "" {
		return 0, nil
	}
	locks, err := filepath.Glob(filepath.Join(k.options.CacheDir, "*", "*.lock"))
	if err != nil {
		return 0, err
	}
	type slot struct {
		lock  string
		bytes int64
		used  time.Time
	}
	var slots []slot
	var total int64
	for _, lock := range locks {
		info, err := os.Stat(lock)
		if err != nil {
			continue // pruned by another process
		}
		bytes, err := treeBytes(ctx, strings.TrimSuffix(lock, ".lock"))
		if err != nil {
			return total, fmt.Errorf("measure cache: %w", err)
		}
		slots, total = append(slots, slot{lock, bytes, info.ModTime()}), total+bytes
	}
	slices.SortFunc(slots, func(a, b slot) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.lock, b.lock)) })
	for _, s := range slots {
		if total <= maxBytes {
			break
		}
		held, err := takeSlot(strings.TrimSuffix(s.lock, ".lock"))
		if errors.Is(err, filelock.ErrHeld) {
			continue
		}
		if err != nil {
			return total, err
		}
		if err := os.RemoveAll(held.dir); err != nil {
			held.release()
			return total, fmt.Errorf("remove cache: %w", err)
		}
		held.lock.Remove()
		total -= s.bytes
	}
	return total, nil
}

func treeBytes(ctx context.Context, dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a command is at work in it
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total, err
}
