// Package rootfs keeps unpacked image layers by content and mounts writable
// root filesystems over them.
//
// A layer is unpacked once, in the form overlayfs reads (a whiteout is a
// character device 0/0, an opaque directory carries trusted.overlay.opaque), and
// independently of every other layer, so that images share what they have in
// common. Several processes may use one store: files locked with flock say who
// holds what, and the kernel lets go of them when a process dies.
package rootfs

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/tidegate-ci/tidegate/stages/sandbox/filelock"
)

// Store is a directory of unpacked layers and of snapshots mounted over them.
// It is safe for concurrent use, also by several processes.
//
// On disk:
//
//	layers/HEX/tree      the layer in overlay form
//	layers/HEX/record    what else is known about it (JSON)
//	surplus/NAME/tree    what a snapshot wrote and a layer holds already, until its room is needed
//	surplus/NAME/record  as above
//	locks/HEX            shared while a snapshot uses the layer, exclusive while it is made or removed
//	snapshots/ID.lock    exclusive while the snapshot's process lives
//	snapshots/ID/        upper, work and root (the mount point)
//	incoming/NAME        a layer being unpacked; NAME.lock is held by who unpacks it
//	empty/               the lower directory of a snapshot over no layers
type Store struct {
	dir    string
	limits Limits
}

// Limits bound what one layer may make this machine store.
type Limits struct {
	Bytes   int64 // of file content and of the tar stream; 0 means DefaultMaxBytes
	Entries int   // 0 means DefaultMaxEntries
	// take, if not nil, is asked before the store writes so many bytes more.
	take func(bytes int64) error
}

// The bounds of a store opened without others.
const (
	DefaultMaxBytes   = 64 << 30
	DefaultMaxEntries = 4 << 20
)

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = DefaultMaxBytes
	}
	if l.Entries == 0 {
		l.Entries = DefaultMaxEntries
	}
	return l
}

// Open opens the store at dir, making it if needed, and clears what killed
// processes left: their mounts and half-unpacked layers.
func Open(dir string) (*Store, error) { return OpenLimited(dir, Limits{}) }

// OpenLimited is Open with other bounds for a layer.
func OpenLimited(dir string, limits Limits) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open layer store: %w", err)
	}
	s := &Store{dir: dir, limits: limits.withDefaults()}
	for _, name := range []string{"layers", "surplus", "locks", "snapshots", "incoming", "empty"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("open layer store %s: %w", dir, err)
		}
	}
	// The merged root of a snapshot over no layers takes its mode from here.
	if err := os.Chmod(filepath.Join(dir, "empty"), 0o755); err != nil {
		return nil, fmt.Errorf("open layer store %s: %w", dir, err)
	}
	if err := s.recover(); err != nil {
		return nil, fmt.Errorf("clear what killed processes left in layer store %s: %w", dir, err)
	}
	return s, nil
}

func (s *Store) layerDir(id v1.Hash) string { return filepath.Join(s.dir, "layers", id.Hex) }
func (s *Store) treeDir(id v1.Hash) string  { return filepath.Join(s.layerDir(id), "tree") }
func (s *Store) lockPath(id v1.Hash) string { return filepath.Join(s.dir, "locks", id.Hex) }

// checkDiffID keeps anything but a plain sha256 out of path names.
func checkDiffID(id v1.Hash) error {
	if id.Algorithm != "sha256" {
		return fmt.Errorf("layer %s: diff IDs are sha256 here, not %q", id, id.Algorithm)
	}
	if raw, err := hex.DecodeString(id.Hex); err != nil || len(raw) != sha256.Size || strings.ToLower(id.Hex) != id.Hex {
		return fmt.Errorf("layer %q: not a sha256 digest", id)
	}
	return nil
}

// Has tells whether the layer is unpacked here.
func (s *Store) Has(diffID v1.Hash) bool {
	if checkDiffID(diffID) != nil {
		return false
	}
	_, err := os.Lstat(s.layerDir(diffID))
	return err == nil
}

// Ensure unpacks the layer with this diff ID unless it is here. open returns the
// uncompressed tar stream and is called at most once, only when it is needed;
// the stream must have the digest diffID. Concurrent callers, also in other
// processes, unpack a layer once, and a layer shows only when it is whole.
func (s *Store) Ensure(ctx context.Context, diffID v1.Hash, open func() (io.ReadCloser, error)) error {
	return s.EnsureWithin(ctx, diffID, open, nil)
}

// EnsureWithin is Ensure for a store under a cap: take is asked for room before
// it is written to, and its error ends the unpacking.
func (s *Store) EnsureWithin(ctx context.Context, diffID v1.Hash, open func() (io.ReadCloser, error), take func(bytes int64) error) error {
	limits := s.limits
	limits.take = take
	err := s.make(ctx, diffID, func(tree string) (record, error) { return s.unpack(ctx, diffID, open, tree, limits) })
	if err != nil {
		return fmt.Errorf("unpack layer %s: %w", diffID, err)
	}
	return nil
}

// make makes the layer diffID unless it is here: fill writes its tree to the
// name it is given and describes it. Concurrent callers, also in other
// processes, fill once.
func (s *Store) make(ctx context.Context, diffID v1.Hash, fill func(tree string) (record, error)) error {
	if err := checkDiffID(diffID); err != nil {
		return err
	}
	// Once the layer is here, snapshots may hold its lock for as long as they like.
	lock, err := filelock.AcquireUnless(ctx, s.lockPath(diffID), filelock.Exclusive, func() bool { return s.Has(diffID) })
	if err != nil {
		return fmt.Errorf("wait for its lock: %w", err)
	}
	defer lock.Release()
	if s.Has(diffID) {
		return nil
	}
	incoming, err := s.newIncoming()
	if err != nil {
		return err
	}
	defer incoming.discard()
	r, err := fill(filepath.Join(incoming.dir, "tree"))
	if err != nil {
		return err
	}
	return s.publish(incoming, diffID, r)
}

func (s *Store) unpack(ctx context.Context, diffID v1.Hash, open func() (io.ReadCloser, error), tree string, limits Limits) (_ record, err error) {
	stream, err := open()
	if err != nil {
		return record{}, err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	digest := sha256.New()
	source := bufio.NewReaderSize(&boundedReader{ctx: ctx, from: stream, hash: digest, left: s.limits.Bytes}, 256<<10)
	if err := os.Mkdir(tree, 0o755); err != nil {
		return record{}, err
	}
	r, err := extract(source, tree, limits)
	if err != nil {
		return record{}, err
	}
	// The digest covers what follows the tar's end marker too.
	if _, err := io.Copy(io.Discard, source); err != nil {
		return record{}, err
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != diffID.Hex {
		return record{}, fmt.Errorf("the stream's digest is sha256:%s: the layer is damaged or was changed on its way", got)
	}
	return r, nil
}

// publish makes an incoming layer visible in one step. The caller holds the
// layer's lock.
func (s *Store) publish(incoming *incoming, diffID v1.Hash, record record) error {
	if err := record.write(incoming.dir); err != nil {
		return err
	}
	if err := os.Rename(incoming.dir, s.layerDir(diffID)); err != nil {
		return err
	}
	now := time.Now()
	return os.Chtimes(s.layerDir(diffID), now, now)
}

// boundedReader ends a stream that is too long or no longer wanted, and hashes
// what went through.
type boundedReader struct {
	ctx  context.Context
	from io.Reader
	hash hash.Hash
	left int64
}

func (r *boundedReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.from.Read(p)
	r.hash.Write(p[:n])
	r.left -= int64(n)
	if r.left < 0 {
		return n, errors.New("the layer is larger than the store's limit for one layer")
	}
	return n, err
}
