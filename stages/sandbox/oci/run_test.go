package oci

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

func findRuntime(t testing.TB) *Runtime {
	t.Helper()
	r, err := Find(context.Background(), Options{Dir: t.TempDir()})
	require.NoError(t, err, "these tests need root and an OCI runtime: apt-get install runc")
	return r
}

// busyboxRoot makes a root filesystem of the machine's static busybox.
func busyboxRoot(t testing.TB) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.Chmod(root, 0o755))
	for _, dir := range []string{"bin", "etc", "tmp", "root"} {
		require.NoError(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	raw, err := os.ReadFile("/bin/busybox")
	require.NoError(t, err, "these tests need a static busybox: apt-get install busybox-static")
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin/busybox"), raw, 0o755))
	names, err := exec.Command("/bin/busybox", "--list").Output()
	require.NoError(t, err)
	for _, name := range bytes.Fields(names) {
		if string(name) != "busybox" {
			require.NoError(t, os.Symlink("busybox", filepath.Join(root, "bin", string(name))))
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\nworker:x:1000:1000::/home/worker:/bin/sh\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nworker:x:1000:\nextra:x:2000:worker\n"), 0o644))
	return root
}

// shell runs a script in a fresh container and returns what it printed.
func shell(t testing.TB, r *Runtime, root, script string, change ...func(*sandbox.Command)) (string, error) {
	t.Helper()
	var out bytes.Buffer
	command := sandbox.Command{Args: []string{"sh", "-c", script}, Stdout: &out, Stderr: &out}
	for _, c := range change {
		c(&command)
	}
	err := r.Run(context.Background(), root, command, Limits{})
	return out.String(), err
}

func TestRunsAndTellsTheExitStatus(t *testing.T) {
	r, root := findRuntime(t), busyboxRoot(t)
	out, err := shell(t, r, root, "echo hello; pwd; exit 7", func(c *sandbox.Command) { c.Dir = "/made/here" })
	require.Equal(t, "hello\n/made/here\n", out)
	require.Equal(t, &sandbox.ExitError{Code: 7}, err)

	_, err = shell(t, r, root, "sh -c 'kill -9 $$'; exit $?")
	require.Equal(t, &sandbox.ExitError{Code: 137, Signal: "killed"}, err)

	err = r.Run(context.Background(), root, sandbox.Command{Args: []string{"no-such"}}, Limits{})
	require.ErrorIs(t, err, ErrNotExecutable)
}

func TestLeavesNoMountPointsBehind(t *testing.T) {
	r := findRuntime(t)
	root := busyboxRoot(t)
	before := listTree(t, root)
	source := t.TempDir()
	out, err := shell(t, r, root, "ls / /cache; cat /etc/hosts; touch /cache/a/written", func(c *sandbox.Command) {
		c.Mounts = []sandbox.Mount{{Source: source, Target: "/cache/a"}}
	})
	require.NoError(t, err, out)
	require.Equal(t, before, listTree(t, root))
	require.FileExists(t, filepath.Join(source, "written"))
}

func listTree(t testing.TB, root string) (names []string) {
	t.Helper()
	require.NoError(t, filepath.Walk(root, func(name string, info os.FileInfo, err error) error {
		names = append(names, name+" "+info.Mode().String()+" "+info.ModTime().String())
		return err
	}))
	return names
}
