package rootfs

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox/userns"
)

// DiffOptions shape the layer that Diff writes.
type DiffOptions struct {
	// Epoch, when not zero, is the latest time an entry may carry; later ones
	// are set to it (SOURCE_DATE_EPOCH).
	Epoch time.Time
	// Limits bound the layer; zero fields mean the store's defaults.
	Limits Limits
}

// Diff writes what was changed in the snapshot as a layer: an OCI tar stream
// that depends on nothing but the changes. Sockets are left out. changed is
// false when there is nothing to tell; the stream is then a valid tar without
// entries. The snapshot must not be in use meanwhile.
func (s *Snapshot) Diff(ctx context.Context, w io.Writer, options DiffOptions) (changed bool, err error) {
	s.epoch = options.Epoch
	d := &diff{ctx: ctx, snapshot: s, epoch: options.Epoch, limits: options.Limits.withDefaults(), links: map[inode]string{}}
	if err := d.root(); err != nil {
		return false, fmt.Errorf("list the changes of a snapshot: %w", err)
	}
	buffered := bufio.NewWriterSize(w, 256<<10)
	archive := tar.NewWriter(buffered)
	for _, e := range d.entries {
		if err := d.write(archive, e); err != nil {
			return false, fmt.Errorf("write the changes of a snapshot: %s: %w", e.header.Name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return false, fmt.Errorf("write the changes of a snapshot: %w", err)
	}
	return len(d.entries) > 0, buffered.Flush()
}

type inode struct{ device, number uint64 }

type diffEntry struct {
	header *tar.Header
	file   string // whose content follows; empty for none
}

type diff struct {
	ctx      context.Context
	snapshot *Snapshot
	epoch    time.Time
	limits   Limits
	entries  []diffEntry
	bytes    int64
	links    map[inode]string
}

func (d *diff) root() error {
	var top unix.Stat_t
	if err := unix.Lstat(d.snapshot.Upper, &top); err != nil {
		return err
	}
	same, err := d.sameAsBelow("", &top)
	if err != nil {
		return err
	}
	if !same {
		if err := d.add("", &top); err != nil {
			return err
		}
	}
	return d.directory("", false)
}

// directory lists what changed below the directory name, in a fixed order.
// covered says that it, or one above it, hides what lower layers have there.
func (d *diff) directory(name string, covered bool) error {
	if err := d.ctx.Err(); err != nil {
		return context.Cause(d.ctx)
	}
	children, err := os.ReadDir(filepath.Join(d.snapshot.Upper, name))
	if err != nil {
		return err
	}
	// Whiteouts go before their siblings, as the image specification asks.
	rank := func(e os.DirEntry) int {
		if e.Type()&os.ModeCharDevice != 0 {
			return 0
		}
		return 1
	}
	slices.SortFunc(children, func(a, b os.DirEntry) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a.Name(), b.Name()))
	})
	for _, child := range children {
		if err := d.child(path.Join(name, child.Name()), covered); err != nil {
			return err
		}
	}
	return nil
}

func (d *diff) child(name string, covered bool) error {
	file := filepath.Join(d.snapshot.Upper, name)
	var stat unix.Stat_t
	if err := unix.Lstat(file, &stat); err != nil {
		return fmt.Errorf("stat %s: %w", file, err)
	}
	if isWhiteout(&stat) {
		dir, base := path.Split(name)
		return d.append(diffEntry{header: d.marker(dir + whiteoutPrefix + base)})
	}
	if strings.HasPrefix(path.Base(name), whiteoutPrefix) {
		return fmt.Errorf("/%s: names that begin with %q can't be in an image: in a layer they mean that a file is removed", name, whiteoutPrefix)
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFDIR:
	default:
		return d.add(name, &stat)
	}
	opaque, err := isOpaque(file)
	if err != nil {
		return err
	}
	before := len(d.entries)
	if err := d.add(name, &stat); err != nil {
		return err
	}
	if opaque {
		if err := d.append(diffEntry{header: d.marker(path.Join(name, opaqueMarker))}); err != nil {
			return err
		}
	}
	covered = covered || opaque
	if err := d.directory(name, covered); err != nil {
		return err
	}
	if covered || len(d.entries) > before+1 {
		return nil
	}
	// Nothing below it changed: overlayfs copies a directory up also when
	// something in it came and went.
	same, err := d.sameAsBelow(name, &stat)
	if err == nil && same {
		d.entries = d.entries[:before]
	}
	return err
}

// sameAsBelow tells whether the layers already show this directory with the
// same owner, mode and attributes.
func (d *diff) sameAsBelow(name string, stat *unix.Stat_t) (bool, error) {
	below, err := d.snapshot.layers.directory(name)
	if err != nil {
		return false, err
	}
	if below == "" {
		return name == "" && stat.Mode&0o7777 == 0o755 && stat.Uid == 0 && stat.Gid == 0, nil
	}
	var other unix.Stat_t
	if err := unix.Lstat(below, &other); err != nil {
		return false, err
	}
	if stat.Mode != other.Mode || stat.Uid != other.Uid || stat.Gid != other.Gid {
		return false, nil
	}
	ours, err := attributes(filepath.Join(d.snapshot.Upper, name))
	if err != nil {
		return false, err
	}
	theirs, err := attributes(below)
	if err != nil {
		return false, err
	}
	return mapsEqual(ours, theirs), nil
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			return false
		}
	}
	return true
}

func (d *diff) append(e diffEntry) error {
	if len(d.entries) == d.limits.Entries {
		return fmt.Errorf("more than %d entries changed", d.limits.Entries)
	}
	d.entries = append(d.entries, e)
	return nil
}

// marker is the header of an empty file that only its name gives a meaning.
func (d *diff) marker(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

func (d *diff) add(name string, stat *unix.Stat_t) error {
	file := filepath.Join(d.snapshot.Upper, name)
	uid, gid := userns.Owner(file, stat.Uid, stat.Gid)
	header := &tar.Header{
		Name:    name,
		Mode:    int64(stat.Mode & 0o7777),
		Uid:     uid,
		Gid:     gid,
		ModTime: layerTime(stat.Mtim, d.epoch),
		Format:  tar.FormatPAX,
	}
	entry := diffEntry{header: header}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
		if name == "" {
			header.Name = "./"
		}
	case unix.S_IFREG:
		header.Typeflag, header.Size = tar.TypeReg, stat.Size
		entry.file = file
	case unix.S_IFLNK:
		target, err := os.Readlink(file)
		if err != nil {
			return err
		}
		header.Typeflag, header.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		header.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		header.Typeflag = tar.TypeChar
		if stat.Mode&unix.S_IFMT == unix.S_IFBLK {
			header.Typeflag = tar.TypeBlock
		}
		header.Devmajor, header.Devminor = int64(unix.Major(stat.Rdev)), int64(unix.Minor(stat.Rdev))
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR && stat.Nlink > 1 {
		key := inode{stat.Dev, stat.Ino}
		if first, ok := d.links[key]; ok {
			header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
			return d.append(diffEntry{header: header})
		}
		d.links[key] = name
	}
	if d.bytes += header.Size; d.bytes > d.limits.Bytes {
		return fmt.Errorf("more than %d bytes changed", d.limits.Bytes)
	}
	kept, err := attributes(file)
	if err != nil {
		return err
	}
	for key, value := range kept {
		if header.PAXRecords == nil {
			header.PAXRecords = map[string]string{}
		}
		header.PAXRecords[paxAttribute+key] = value
	}
	return d.append(entry)
}

// layerTime is a file's time as a layer carries it: whole seconds, not after epoch.
func layerTime(at unix.Timespec, epoch time.Time) time.Time {
	t := time.Unix(at.Sec, 0)
	if !epoch.IsZero() && t.After(epoch) {
		return time.Unix(epoch.Unix(), 0)
	}
	return t
}

func (d *diff) write(archive *tar.Writer, e diffEntry) error {
	if err := d.ctx.Err(); err != nil {
		return context.Cause(d.ctx)
	}
	if err := archive.WriteHeader(e.header); err != nil {
		return err
	}
	if e.file == "" {
		return nil
	}
	fd, err := unix.Open(e.file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), e.file)
	defer file.Close()
	n, err := io.Copy(archive, io.LimitReader(file, e.header.Size))
	if err == nil && n != e.header.Size {
		err = errors.New("the file shrank while it was read")
	}
	return err
}
