package rawfile

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600))
	require.NoError(t, os.Symlink("file", filepath.Join(dir, "link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "directory"), 0o700))
	at, err := os.Open(dir)
	require.NoError(t, err)
	defer at.Close()

	for name, want := range map[string]string{"file": "content", "empty": ""} {
		file, err := OpenAt(int(at.Fd()), name)
		require.NoError(t, err)
		raw, err := io.ReadAll(file)
		require.NoError(t, err)
		require.Equal(t, want, string(raw))
		require.NoError(t, file.Close())
	}
	for name, want := range map[string]error{
		"link": unix.ELOOP, "pipe": ErrNotRegular, "directory": ErrNotRegular, "missing": os.ErrNotExist,
	} {
		_, err := OpenAt(int(at.Fd()), name)
		require.ErrorIs(t, err, want, name)
	}
}
