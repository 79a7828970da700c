package scoped

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestNamesStayBelowTheRoot(t *testing.T) {
	outer := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outer, "secret"), []byte("outside"), 0o600))
	dir := filepath.Join(outer, "root")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("inside"), 0o600))
	for name, target := range map[string]string{"up": "..", "absolute": "/", "host": outer, "file": "../../secret", "loop": "loop", "magic": "/proc/self/root" + outer} {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, name)))
	}
	for name, want := range map[string]string{
		"secret": "inside", "/secret": "inside", "../secret": "inside", strings.Repeat("../", 30) + "secret": "inside",
		"up/secret": "inside", "absolute/secret": "inside", "file": "inside", "host/secret": "", "loop": "", "magic/secret": "", "up": "",
	} {
		file, err := ReadFile(dir, name)
		if want == "" {
			require.Error(t, err, name)
			continue
		}
		require.NoError(t, err, name)
		content := make([]byte, 20)
		n, err := file.Read(content)
		require.NoError(t, err)
		require.Equal(t, want, string(content[:n]), name)
		require.NoError(t, file.Close())
	}
	root, err := Root(dir)
	require.NoError(t, err)
	defer unix.Close(root)
	_, err = OpenPlain(root, "up", unix.O_PATH)
	require.ErrorIs(t, err, unix.ELOOP)
	target, err := Readlink(root, "file")
	require.NoError(t, err)
	require.Equal(t, "../../secret", target)
}
