package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Adopt makes what was written to the snapshot the unpacked layer diffID, which
// must be the digest of the stream that Diff gave, so that the layer need not be
// unpacked again. The snapshot's root is gone afterwards; it still has to be closed.
func (s *Store) Adopt(ctx context.Context, snapshot *Snapshot, diffID v1.Hash) error {
	err := s.make(ctx, diffID, func(tree string) (record, error) {
		if err := snapshot.unmount(); err != nil {
			return record{}, err
		}
		if err := os.Rename(snapshot.Upper, tree); err != nil {
			return record{}, err
		}
		return normalise(ctx, tree, snapshot)
	})
	if err != nil {
		return fmt.Errorf("keep the changes of a snapshot as layer %s: %w", diffID, err)
	}
	return nil
}

// normalise brings an upper directory to what unpacking its Diff would give.
func normalise(ctx context.Context, tree string, snapshot *Snapshot) (record, error) {
	r := record{Implied: []string{""}}
	err := filepath.WalkDir(tree, func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		var stat unix.Stat_t
		if err := unix.Lstat(file, &stat); err != nil {
			return err
		}
		r.Bytes += blockSize
		kind := stat.Mode & unix.S_IFMT
		if kind == unix.S_IFSOCK {
			return os.Remove(file) //nolint:gosec // G122: the container has ended, nothing changes the tree under the walk
		}
		if kind == unix.S_IFREG {
			r.Bytes += (stat.Size + blockSize - 1) / blockSize * blockSize
		}
		if isWhiteout(&stat) {
			return nil
		}
		return dropOverlayAttributes(file)
	})
	if err != nil {
		return record{}, err
	}
	// Times last: removing a socket changed its directory's.
	return r, filepath.WalkDir(tree, func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(file, &stat); err != nil {
			return err
		}
		if isWhiteout(&stat) {
			return nil
		}
		at := unix.NsecToTimespec(layerTime(stat.Mtim, snapshot.epoch).UnixNano())
		return unix.UtimesNanoAt(unix.AT_FDCWD, file, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// dropOverlayAttributes removes what overlayfs noted for itself, such as where a
// file was copied from; only that a directory is opaque is part of the layer.
func dropOverlayAttributes(file string) error {
	names, err := listAttributes(file)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, disk().notes) || name == disk().opaque() {
			continue
		}
		if err := unix.Lremovexattr(file, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove attribute %s of %s: %w", name, file, err)
		}
	}
	return nil
}
