package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
	"github.com/tidegate-ci/tidegate/stages/sandbox/scoped"
)

// The runtime mounts sources by name, long after they were looked up, and others
// may swap a directory for a link to the host in between. So the runtime is
// started in a mount namespace of its own in which every source is mounted in a
// place that nobody else can reach, from a descriptor; those places are what it
// is given. The place is a ramfs, which is never swapped to a disk: secrets lie
// right there, and are gone when runtime and container are, however they ended.

// staged is the source of a mount.
type staged struct {
	sandbox.Mount
	// fd is the source as it was when it was looked up, -1 for a file of memory.
	fd        int
	directory bool
}

func (b *bundle) stageDir() string { return filepath.Join(b.dir, "mounts") }

func (b *bundle) stagePath(i int) string { return filepath.Join(b.stageDir(), strconv.Itoa(i)) }

// stage opens what a mount shows and tells where the runtime will find it.
func (b *bundle) stage(m sandbox.Mount) (source *staged, name string, err error) {
	s := &staged{Mount: m, fd: -1}
	if m.Content == nil {
		if s.fd, err = openSource(m); err != nil {
			return nil, "", err
		}
		var stat unix.Stat_t
		if err := unix.Fstat(s.fd, &stat); err != nil {
			unix.Close(s.fd)
			return nil, "", err
		}
		s.directory = stat.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	b.staged = append(b.staged, s)
	return s, b.stagePath(len(b.staged) - 1), nil
}

func openSource(m sandbox.Mount) (fd int, err error) {
	if m.Within == "" {
		if !filepath.IsAbs(m.Source) {
			return -1, fmt.Errorf("the source %q must be absolute", m.Source)
		}
		fd, err = unix.Open(m.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
	} else {
		var root int
		if root, err = scoped.Root(m.Within); err != nil {
			return -1, err
		}
		defer unix.Close(root)
		fd, err = scoped.Open(root, m.Source, unix.O_PATH)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: m.Source, Err: err}
	}
	return fd, nil
}

// configure hands the specification to the runtime by way of a nameless file:
// the environment in it may hold secrets.
func (b *bundle) configure(spec []byte) error {
	fd, err := unix.MemfdCreate("container", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make the container's specification: %w", err)
	}
	b.config = os.NewFile(uintptr(fd), "container")
	if _, err := b.config.Write(spec); err != nil {
		return fmt.Errorf("make the container's specification: %w", err)
	}
	return os.Symlink(scoped.Path(fd), filepath.Join(b.dir, "config.json"))
}

// start starts the runtime in a mount namespace with the sources of its mounts.
func (b *bundle) start(cmd *exec.Cmd) error {
	if err := os.Mkdir(b.stageDir(), 0o700); err != nil {
		return err
	}
	started := make(chan error, 1)
	go func() {
		// Never unlocked: the thread that was moved to another namespace ends with
		// this goroutine.
		runtime.LockOSThread()
		started <- b.startApart(cmd)
	}()
	return <-started
}

func (b *bundle) startApart(cmd *exec.Cmd) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("tidegate", b.stageDir(), "ramfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount memory: %w", err)
	}
	for i, s := range b.staged {
		if err := s.put(b.stagePath(i)); err != nil {
			return fmt.Errorf("mount at %s: %w", s.Target, err)
		}
	}
	return cmd.Start()
}

// put makes the source appear at name.
func (s *staged) put(name string) error {
	if s.Content != nil {
		return writeContent(name, s.Content)
	}
	// Opened again: what was opened before belongs to the other namespace, from
	// which nothing can be mounted here.
	fd, err := openSource(s.Mount)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if s.directory {
		err = os.Mkdir(name, 0o700)
	} else {
		err = os.WriteFile(name, nil, 0o600)
	}
	if err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/thread-self/fd/%d", fd), name, "", unix.MS_BIND, "")
}

func writeContent(name string, c *sandbox.Content) error {
	if err := os.WriteFile(name, c.Data, 0o600); err != nil {
		return err
	}
	if err := os.Chown(name, c.UID, c.GID); err != nil {
		return err
	}
	return os.Chmod(name, c.Mode.Perm())
}
