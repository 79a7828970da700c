package rootfs

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// describe lists everything a container could see of a tree, one line a name.
func describe(t testing.TB, root string) string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	require.NoError(t, filepath.WalkDir(root, func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(file, &stat); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %o %d:%d", name, stat.Mode, stat.Uid, stat.Gid)
		switch stat.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q %d", content, stat.Mtim.Sec)
		case unix.S_IFLNK:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" -> %q %d", target, stat.Mtim.Sec)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %d", stat.Rdev)
		}
		if stat.Mode&unix.S_IFMT != unix.S_IFDIR && stat.Nlink > 1 {
			if same, ok := first[stat.Ino]; ok {
				line += " same as " + same
			} else {
				first[stat.Ino] = name
			}
		}
		kept, err := attributes(file)
		if err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(kept)) {
			line += fmt.Sprintf(" %s=%q", key, kept[key])
		}
		lines = append(lines, line)
		return nil
	}))
	return strings.Join(lines, "\n")
}
