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
	s.seen = nil
	buffered := bufio.NewWriterSize(w, copyBuffer)
	d := &diff{
		ctx: ctx, snapshot: s, epoch: options.Epoch, limits: options.Limits.withDefaults(), links: map[inode]string{},
		archive: tar.NewWriter(buffered),
	}
	d.content.dir, d.content.buffer = -1, make([]byte, copyBuffer)
	defer d.leave()
	if err := d.root(); err != nil {
		return false, fmt.Errorf("write the changes of a snapshot: %w", err)
	}
	if err := errors.Join(d.archive.Close(), buffered.Flush()); err != nil {
		return false, fmt.Errorf("write the changes of a snapshot: %w", err)
	}
	return d.entries > 0, nil
}

// copyBuffer is how many bytes of content move at a time.
const copyBuffer = 256 << 10

type inode struct{ device, number uint64 }

// seenFile is what Diff found in an upper directory, as far as Adopt needs it to
// make a layer's tree of it.
type seenFile struct {
	name string
	// at is when it was modified.
	at unix.Timespec
	// bytes is the room it takes.
	bytes int64
	// noted is set when overlayfs keeps attributes of its own at the file.
	noted, whiteout, socket bool
}

// see remembers a file for Adopt.
func (d *diff) see(name string, c *child) {
	kind := c.stat.Mode & unix.S_IFMT
	seen := seenFile{
		name: name, at: c.stat.Mtim, bytes: blockSize, whiteout: isWhiteout(&c.stat), socket: kind == unix.S_IFSOCK,
		noted: slices.ContainsFunc(c.attributes, func(name string) bool { return strings.HasPrefix(name, disk().notes) }),
	}
	if kind == unix.S_IFREG {
		seen.bytes += (c.stat.Size + blockSize - 1) / blockSize * blockSize
	}
	d.snapshot.seen = append(d.snapshot.seen, seen)
}

type diff struct {
	ctx      context.Context
	snapshot *Snapshot
	epoch    time.Time
	limits   Limits
	archive  *tar.Writer
	// pending are the directories above, as far as they were not written: one in
	// which nothing changed is left out, if the layers show it as it is.
	pending []*tar.Header
	entries int
	bytes   int64
	links   map[inode]string
	// content reads what files hold, out of the directory used last.
	content struct {
		name   string
		dir    int
		buffer []byte
	}
}

func (d *diff) root() error {
	var top child
	if err := unix.Lstat(d.snapshot.Upper, &top.stat); err != nil {
		return err
	}
	var err error
	if top.attributes, err = listAttributes(d.snapshot.Upper); err != nil {
		return err
	}
	d.see("", &top)
	same, err := d.sameAsBelow("", &top.stat)
	if err != nil {
		return err
	}
	if !same {
		header, err := d.header("", &top)
		if err != nil {
			return err
		}
		if err := d.write(header, false); err != nil {
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
	children, err := d.children(name)
	if err != nil {
		return fmt.Errorf("list /%s: %w", name, err)
	}
	for i := range children {
		if err := d.child(path.Join(name, children[i].name), &children[i], covered); err != nil {
			return err
		}
	}
	return nil
}

// child is a file of a directory that is listed.
type child struct {
	name string
	stat unix.Stat_t
	// attributes are the names of its extended attributes.
	attributes []string
}

// device tells whether the file is a character device, which whiteouts are.
func (c *child) device() int {
	if c.stat.Mode&unix.S_IFMT == unix.S_IFCHR {
		return 0
	}
	return 1
}

// children describes the files of a directory by its descriptor: a look-up of
// the whole name costs more than most of what is asked.
func (d *diff) children(name string) ([]child, error) {
	dir, err := unix.Open(filepath.Join(d.snapshot.Upper, name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	names, err := readNames(dir)
	if err != nil {
		return nil, err
	}
	children := make([]child, len(names))
	for i, name := range names {
		c := &children[i]
		c.name = name
		if err := unix.Fstatat(dir, name, &c.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, fmt.Errorf("stat %s: %w", name, err)
		}
		if isWhiteout(&c.stat) {
			continue
		}
		if c.attributes, err = listAttributes(entryOf(dir, name)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	// Whiteouts go before their siblings, as the image specification asks.
	slices.SortFunc(children, func(a, b child) int {
		return cmp.Or(cmp.Compare(a.device(), b.device()), strings.Compare(a.name, b.name))
	})
	return children, nil
}

func (d *diff) child(name string, c *child, covered bool) error {
	d.see(name, c)
	if isWhiteout(&c.stat) {
		dir, base := path.Split(name)
		return d.write(d.marker(dir+whiteoutPrefix+base), false)
	}
	if strings.HasPrefix(c.name, whiteoutPrefix) {
		return fmt.Errorf("/%s: names that begin with %q can't be in an image: in a layer they mean that a file is removed", name, whiteoutPrefix)
	}
	switch c.stat.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFDIR:
	default:
		return d.add(name, c)
	}
	opaque := false
	if slices.Contains(c.attributes, disk().opaque()) {
		var err error
		if opaque, err = isOpaque(filepath.Join(d.snapshot.Upper, name)); err != nil {
			return err
		}
	}
	header, err := d.header(name, c)
	if err != nil {
		return err
	}
	above := len(d.pending)
	d.pending = append(d.pending, header)
	if opaque {
		if err := d.write(d.marker(path.Join(name, opaqueMarker)), false); err != nil {
			return err
		}
	}
	covered = covered || opaque
	if err := d.directory(name, covered); err != nil || len(d.pending) <= above {
		return err
	}
	// Nothing below it changed: overlayfs copies a directory up also when
	// something in it came and went.
	if !covered {
		same, err := d.sameAsBelow(name, &c.stat)
		if err != nil {
			return err
		}
		if same {
			d.pending = d.pending[:above]
			return nil
		}
	}
	return d.flush()
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

// marker is the header of an empty file that only its name gives a meaning.
func (d *diff) marker(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

// add writes a file that is no directory.
func (d *diff) add(name string, c *child) error {
	header, err := d.header(name, c)
	if err != nil {
		return err
	}
	return d.write(header, header.Typeflag == tar.TypeReg)
}

func (d *diff) header(name string, c *child) (*tar.Header, error) {
	file, stat := filepath.Join(d.snapshot.Upper, name), &c.stat
	uid, gid := userns.Owner(file, stat.Uid, stat.Gid)
	header := &tar.Header{
		Name:    name,
		Mode:    int64(stat.Mode & 0o7777),
		Uid:     uid,
		Gid:     gid,
		ModTime: layerTime(stat.Mtim, d.epoch),
		Format:  tar.FormatPAX,
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
		if name == "" {
			header.Name = "./"
		}
	case unix.S_IFREG:
		header.Typeflag, header.Size = tar.TypeReg, stat.Size
	case unix.S_IFLNK:
		target, err := os.Readlink(file)
		if err != nil {
			return nil, err
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
			return header, nil
		}
		d.links[key] = name
	}
	if d.bytes += header.Size; d.bytes > d.limits.Bytes {
		return nil, fmt.Errorf("more than %d bytes changed", d.limits.Bytes)
	}
	kept, err := keptAttributes(file, c.attributes)
	if err != nil {
		return nil, err
	}
	for key, value := range kept {
		if header.PAXRecords == nil {
			header.PAXRecords = map[string]string{}
		}
		header.PAXRecords[paxAttribute+key] = value
	}
	return header, nil
}

// layerTime is a file's time as a layer carries it: whole seconds, not after epoch.
func layerTime(at unix.Timespec, epoch time.Time) time.Time {
	t := time.Unix(at.Sec, 0)
	if !epoch.IsZero() && t.After(epoch) {
		return time.Unix(epoch.Unix(), 0)
	}
	return t
}
