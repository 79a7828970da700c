package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Adopt makes what was written to the snapshot the unpacked layer diffID, which
// must be the digest of the stream that Diff gave last, so that the layer need not be
// unpacked again. If it is here already, and removing what was written would take
// long, that becomes surplus. The snapshot's root is gone afterwards; it still
// has to be closed.
func (s *Store) Adopt(ctx context.Context, snapshot *Snapshot, diffID v1.Hash) error {
	adopted := false
	err := s.make(ctx, diffID, func(tree string) (record, error) {
		if snapshot.seen == nil {
			return record{}, errors.New("they were not listed yet")
		}
		adopted = true
		if err := snapshot.unmount(); err != nil {
			return record{}, err
		}
		if err := os.Rename(snapshot.Upper, tree); err != nil {
			return record{}, err
		}
		return normalise(ctx, tree, snapshot)
	})
	if err == nil && !adopted && len(snapshot.seen) >= surplusFrom {
		err = s.leave(snapshot)
	}
	if err != nil {
		return fmt.Errorf("keep the changes of a snapshot as layer %s: %w", diffID, err)
	}
	return nil
}

// normalise brings an upper directory to what unpacking its Diff would give.
func normalise(ctx context.Context, tree string, snapshot *Snapshot) (record, error) {
	r := record{Implied: []string{""}}
	for i := range snapshot.seen {
		f := &snapshot.seen[i]
		r.Bytes += f.bytes
		file := filepath.Join(tree, f.name)
		switch {
		case f.socket:
			if err := os.Remove(file); err != nil {
				return record{}, err
			}
		case f.noted:
			if err := dropOverlayAttributes(file); err != nil {
				return record{}, err
			}
		}
	}
	// Times last: removing a socket changed its directory's.
	return r, setTimes(ctx, tree, snapshot)
}

// setTimes gives every file the time that it has in the layer.
func setTimes(ctx context.Context, tree string, snapshot *Snapshot) error {
	dir, name := -1, ""
	defer func() {
		if dir >= 0 {
			unix.Close(dir)
		}
	}()
	for i := range snapshot.seen {
		f := &snapshot.seen[i]
		if f.socket || f.whiteout {
			continue
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		parent, base := path.Split(f.name)
		if dir < 0 || parent != name {
			if dir >= 0 {
				unix.Close(dir)
			}
			var err error
			if dir, err = unix.Open(filepath.Join(tree, parent), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
				return &os.PathError{Op: "open", Path: filepath.Join(tree, parent), Err: err}
			}
			name = parent
		}
		if base == "" {
			base = "."
		}
		at := unix.NsecToTimespec(layerTime(f.at, snapshot.epoch).UnixNano())
		if err := unix.UtimesNanoAt(dir, base, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set the time of /%s: %w", f.name, err)
		}
	}
	return nil
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
