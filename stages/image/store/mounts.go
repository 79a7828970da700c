package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mountRecord describes a cache mount's directory. It lies beside it, and its
// file's time is when the mount was last used.
type mountRecord struct {
	Scope string `json:"scope"`
	ID    string `json:"id"`
	// Bytes is what the directory took when it was measured last; Dirty says
	// that it was used since.
	Bytes int64 `json:"bytes"`
	Dirty bool  `json:"dirty"`
}

const (
	mountSuffix     = ".json"
	mountLockSuffix = ".lock"
	maxMountRecord  = 64 << 10
)

func readMountRecord(dir string) (mountRecord, error) {
	var r mountRecord
	data, err := os.ReadFile(dir + mountSuffix)
	if err == nil && len(data) > maxMountRecord {
		err = errors.New("it is too large")
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	return r, err
}

func (s *Store) writeMountRecord(dir string, r mountRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fresh, err := os.CreateTemp(filepath.Dir(dir), "record-")
	if err != nil {
		return err
	}
	_, err = fresh.Write(data)
	if err := errors.Join(err, fresh.Close()); err != nil {
		_ = os.Remove(fresh.Name()) // err matters more
		return err
	}
	s.touch(fresh.Name())
	return os.Rename(fresh.Name(), dir+mountSuffix)
}

// usedMount notes that a mount is in use: what it holds may grow. It tells what
// the mount counts for until it is measured again.
func (s *Store) usedMount(dir string, r mountRecord) (int64, error) {
	if known, err := readMountRecord(dir); err == nil {
		r.Bytes = known.Bytes
	}
	r.Dirty = true
	return r.Bytes, s.writeMountRecord(dir, r)
}

// measureMount notes how much a mount holds.
func (s *Store) measureMount(ctx context.Context, dir string) error {
	r, err := readMountRecord(dir)
	if err != nil {
		return err
	}
	if r.Bytes, err = DiskUse(ctx, dir); err != nil {
		return err
	}
	r.Dirty = false
	return s.writeMountRecord(dir, r)
}

// DiskUse is the space the files below dir take; a file with several names
// counts once. Files that vanish meanwhile do not count.
func DiskUse(ctx context.Context, dir string) (int64, error) {
	m := &measurement{ctx: ctx, seen: map[inode]bool{}}
	var top unix.Stat_t
	err := unix.Lstat(dir, &top)
	if err == nil {
		m.total = top.Blocks * 512
		err = m.directory(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return m.total, nil
}

type inode struct{ device, number uint64 }

// measurement adds up what files take, each of them once.
type measurement struct {
	ctx   context.Context
	seen  map[inode]bool
	total int64
}

// directory adds what is in a directory, which may change meanwhile.
func (m *measurement) directory(dir string) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	below, err := m.files(dir)
	for _, name := range below {
		if err == nil {
			err = m.directory(filepath.Join(dir, name))
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // gone since, or something else by now
	}
	return err
}

// files adds the files of one directory, and names the directories in it. They
// are looked up in the directory itself, which costs less than by their paths.
func (m *measurement) files(dir string) (below []string, err error) {
	file, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	names, err := file.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	for _, name := range names {
		if err := unix.Fstatat(int(file.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
			continue
		} else if err != nil {
			return nil, err
		}
		if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			below = append(below, name)
		} else if stat.Nlink > 1 {
			id := inode{stat.Dev, stat.Ino}
			if m.seen[id] {
				continue
			}
			m.seen[id] = true
		}
		m.total += stat.Blocks * 512
	}
	return below, nil
}

// mounts lists the cache mounts. Those that were left by killed builds are
// measured now.
func (s *Store) mounts(ctx context.Context) ([]Entry, error) {
	names, err := filepath.Glob(filepath.Join(escapeGlob(s.dir), cachesDir, "*"+mountLockSuffix))
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, name := range names {
		dir := strings.TrimSuffix(name, mountLockSuffix)
		info, err := os.Stat(dir + mountSuffix)
		if errors.Is(err, fs.ErrNotExist) {
			// Its user was killed early.
			info, err = os.Stat(name)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("measure cache mounts: %w", err)
		}
		r, err := readMountRecord(dir)
		if err != nil {
			r = mountRecord{Dirty: true}
		}
		if r.Dirty {
			// In use, it is measured by its user; else its user was killed.
			if lock, held := lockMount(dir); !held {
				if r.Bytes, err = DiskUse(ctx, dir); err == nil {
					r.Dirty = false
					err = s.writeMountRecordKeepingTime(dir, r, info)
				}
				_ = lock.Close() // closing unlocks
				if err != nil {
					return nil, fmt.Errorf("measure cache mounts: %w", err)
				}
			}
		}
		all = append(all, Entry{Kind: KindMount, Name: r.ID, Scope: r.Scope, Bytes: r.Bytes, Used: info.ModTime(), path: dir})
	}
	return all, nil
}

func (s *Store) writeMountRecordKeepingTime(dir string, r mountRecord, info fs.FileInfo) error {
	if err := s.writeMountRecord(dir, r); err != nil {
		return err
	}
	return os.Chtimes(dir+mountSuffix, info.ModTime(), info.ModTime())
}

func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// lockMount takes a mount's lock alone, or tells that it is held.
func lockMount(dir string) (*os.File, bool) {
	lock, err := os.OpenFile(dir+mountLockSuffix, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, true
	}
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		_ = lock.Close() // held elsewhere
		return nil, true
	}
	return lock, false
}

// removeMount removes a mount nobody uses.
func (s *Store) removeMount(e Entry) (bool, error) {
	lock, held := lockMount(e.path)
	if held {
		return false, nil
	}
	defer lock.Close()
	info, err := os.Stat(e.path + mountSuffix)
	if err == nil && !info.ModTime().Equal(e.Used) {
		return false, nil // somebody had it meanwhile
	}
	// What was the container's may be unreadable to everyone but root, who builds.
	if err := os.RemoveAll(e.path); err != nil {
		return false, err
	}
	return true, errors.Join(ignoreMissing(os.Remove(e.path+mountSuffix)), ignoreMissing(os.Remove(lock.Name())))
}

func sameFile(named fs.FileInfo, file *os.File) bool {
	held, err := file.Stat()
	return err == nil && os.SameFile(named, held)
}
