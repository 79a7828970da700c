package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/filelock"
	"github.com/tidegate-ci/tidegate/stages/sandbox/userns"
)

// Snapshot is a writable root filesystem over layers. What is written to it is
// kept apart from them. It belongs to the process that mounted it.
type Snapshot struct {
	// Root is the merged tree, a mount point.
	Root string
	// Upper holds what was changed, in overlay form.
	Upper string

	dir    string
	layers stack // with their corrections
	pins   []*filelock.Lock
	owner  *filelock.Lock
	// epoch is what Diff clamped times to; Adopt has to do the same.
	epoch time.Time
	// seen is all that Diff found.
	seen []seenFile
}

// maxOptions is the page that mount(2) takes options in, without its terminator.
const maxOptions = 4095

// Mount gives a writable root filesystem over the layers, bottom first; none
// gives an empty one. The layers must be present (Ensure) and stay for as long
// as the snapshot is open. Mounting needs root (CAP_SYS_ADMIN) and a store on a
// filesystem that overlayfs accepts, which overlayfs itself is not.
func (s *Store) Mount(ctx context.Context, layers []v1.Hash) (_ *Snapshot, err error) {
	snapshot := &Snapshot{}
	defer func() {
		if err != nil {
			err = errors.Join(err, snapshot.Close())
		}
	}()
	layers = lastOfEach(layers)
	if err := s.pin(ctx, snapshot, layers); err != nil {
		return nil, err
	}
	snapshot.dir = filepath.Join(s.dir, "snapshots", uuid.NewString())
	if snapshot.owner, err = filelock.Try(snapshot.dir+".lock", filelock.Exclusive); err != nil {
		return nil, fmt.Errorf("make a snapshot: %w", err)
	}
	snapshot.Root, snapshot.Upper = filepath.Join(snapshot.dir, "root"), filepath.Join(snapshot.dir, "upper")
	work := filepath.Join(snapshot.dir, "work")
	for _, dir := range []string{snapshot.dir, snapshot.Root, snapshot.Upper, work} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make a snapshot: %w", err)
		}
	}
	if err := s.stackUp(snapshot, layers); err != nil {
		return nil, fmt.Errorf("make a snapshot: %w", err)
	}
	lower := snapshot.layers
	if len(lower) == 0 {
		lower = stack{filepath.Join(s.dir, "empty")}
	}
	if err := copyAttributes(snapshot.Upper, lower[0]); err != nil {
		return nil, fmt.Errorf("make a snapshot: %w", err)
	}
	if err := mountOverlay(snapshot.Root, lower, snapshot.Upper, work); err != nil {
		return nil, s.explain(err)
	}
	return snapshot, nil
}

// lastOfEach drops all but the topmost of equal layers, as old images with empty
// layers have them. It shows and hides all that those below it did; overlayfs
// refuses to mount one directory twice.
func lastOfEach(layers []v1.Hash) (kept []v1.Hash) {
	for i, id := range layers {
		if !slices.Contains(layers[i+1:], id) {
			kept = append(kept, id)
		}
	}
	return kept
}

// pin takes hold of the layers so that no Prune removes them.
func (s *Store) pin(ctx context.Context, snapshot *Snapshot, layers []v1.Hash) error {
	now := time.Now()
	for _, id := range layers {
		if err := checkDiffID(id); err != nil {
			return err
		}
		pin, err := filelock.Acquire(ctx, s.lockPath(id), filelock.Shared)
		if err != nil {
			return fmt.Errorf("wait for layer %s: %w", id, err)
		}
		snapshot.pins = append(snapshot.pins, pin)
		if err := os.Chtimes(s.layerDir(id), now, now); err != nil {
			return fmt.Errorf("layer %s is not unpacked here: %w", id, err)
		}
	}
	return nil
}

// stackUp puts the layers on one another, with a correction where one needs it.
func (s *Store) stackUp(snapshot *Snapshot, layers []v1.Hash) error {
	for i, id := range layers {
		r, err := readRecord(s.layerDir(id))
		if err != nil {
			return err
		}
		below, tree := snapshot.layers, s.treeDir(id)
		// Overlayfs merges the roots of all layers, whatever they are marked with.
		opaque, err := isOpaque(tree)
		if err != nil {
			return err
		}
		if opaque {
			below = nil
		}
		snapshot.layers = append(stack{tree}, below...)
		if len(below) == 0 || len(r.Implied) == 0 {
			continue
		}
		dir := filepath.Join(snapshot.dir, fmt.Sprintf("correction-%d", i))
		made, err := correct(tree, dir, r.Implied, below)
		if err != nil {
			return fmt.Errorf("layer %s: %w", id, err)
		}
		if made {
			snapshot.layers = append(stack{dir}, snapshot.layers...)
		}
	}
	return nil
}

// mountOverlay mounts over the lower directories, top first. It names
// directories by descriptor: that keeps a hundred layers within the one page
// that mount options get, and needs no quoting.
func mountOverlay(target string, lower stack, upper, work string) error {
	var open []int
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	name := func(dir string) (string, error) {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("open %s: %w", dir, err)
		}
		open = append(open, fd)
		return fmt.Sprintf("/proc/self/fd/%d", fd), nil
	}
	var names []string
	for _, dir := range append(stack{upper, work}, lower...) {
		at, err := name(dir)
		if err != nil {
			return err
		}
		names = append(names, at)
	}
	options := fmt.Sprintf("%s,upperdir=%s,workdir=%s,lowerdir=%s", disk().options, names[0], names[1], strings.Join(names[2:], ":"))
	if len(options) > maxOptions {
		return fmt.Errorf("mount %d layers: more than one mount can take", len(lower))
	}
	return unix.Mount("overlay", target, "overlay", 0, options)
}

// explain says what a failed mount asks for.
func (s *Store) explain(err error) error {
	var fs unix.Statfs_t
	onOverlay := unix.Statfs(s.dir, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC
	switch {
	case errors.Is(err, unix.EPERM) && disk().ordinary:
		return fmt.Errorf("mount a root filesystem: %w: this kernel does not let a user mount overlayfs (Linux 5.11 does): run as root, or use a newer kernel", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("mount a root filesystem: %w: run as root (CAP_SYS_ADMIN is needed to mount overlayfs), or use stages without an image", err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("mount a root filesystem: %w: this kernel has no overlayfs (try: modprobe overlay)", err)
	case onOverlay:
		return fmt.Errorf("mount a root filesystem: %w: %s is itself on overlayfs (a container's own filesystem?): put the state directory on ext4, xfs, btrfs or a volume", err, s.dir)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("mount a root filesystem: %w: the filesystem of %s may not serve as an upper directory (it must support %s* attributes and d_type, as ext4 and xfs do)", err, s.dir, disk().notes)
	}
	return fmt.Errorf("mount a root filesystem: %w", err)
}

// copyAttributes gives a directory the owner, mode, attributes and times of another.
func copyAttributes(to, from string) error {
	var stat unix.Stat_t
	if err := unix.Lstat(from, &stat); err != nil {
		return fmt.Errorf("stat %s: %w", from, err)
	}
	if err := unix.Lchown(to, int(stat.Uid), int(stat.Gid)); err != nil {
		return fmt.Errorf("chown %s: %w", to, err)
	}
	if err := unix.Chmod(to, stat.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod %s: %w", to, err)
	}
	kept, err := attributes(from)
	if err != nil {
		return err
	}
	if owner, err := getAttribute(from, userns.OwnerAttribute); err == nil && disk().single {
		if err := unix.Lsetxattr(to, userns.OwnerAttribute, []byte(owner), 0); err != nil {
			return fmt.Errorf("note the owner of %s: %w", to, err)
		}
	}
	for name, value := range kept {
		if err := unix.Lsetxattr(to, name, []byte(value), 0); err != nil {
			return fmt.Errorf("set attribute %s of %s: %w", name, to, err)
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{stat.Atim, stat.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// Close unmounts the snapshot and removes what was written to it. Closing again
// does nothing.
func (s *Snapshot) Close() error {
	err := s.unmount()
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	if err != nil {
		// The lock stays held: what is left is cleared when the next store opens
		// after this process, not under its feet.
		return fmt.Errorf("remove snapshot %s: %w", s.dir, err)
	}
	if s.owner != nil {
		s.owner.Remove()
	}
	for _, pin := range s.pins {
		pin.Release()
	}
	s.owner, s.pins, s.dir = nil, nil, ""
	return nil
}

func (s *Snapshot) unmount() error {
	if s.dir == "" {
		return nil
	}
	return unmount(s.Root)
}

// unmount detaches what is mounted at target, however deep, if anything is.
func unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue // something may have been mounted over another
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil // not a mount point
		}
		return fmt.Errorf("unmount %s: %w", target, err)
	}
}

// recover clears snapshots and incoming layers whose process is gone.
func (s *Store) recover() error {
	var failures []error
	for _, parent := range []string{"snapshots", "incoming"} {
		locks, err := filepath.Glob(filepath.Join(escapeGlob(s.dir), parent, "*.lock"))
		if err != nil {
			return err
		}
		for _, name := range locks {
			held, err := filelock.Try(name, filelock.Exclusive)
			if errors.Is(err, filelock.ErrHeld) {
				continue
			}
			if err != nil {
				failures = append(failures, err)
				continue
			}
			dir := strings.TrimSuffix(name, ".lock")
			err = unmount(filepath.Join(dir, "root"))
			if err == nil {
				err = os.RemoveAll(dir)
			}
			if err != nil {
				failures = append(failures, err)
				held.Release()
				continue
			}
			held.Remove()
		}
	}
	return errors.Join(failures...)
}

func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}
