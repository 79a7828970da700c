package pipeline

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func file(name string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte("version: 1\nname: " + name + "\non: push\nstages: {a: {run: x}}\n")}
}

func TestLoadReadsEveryPipelineOfARepository(t *testing.T) {
	pipelines, err := Load(fstest.MapFS{
		".tidegate.yaml": file("main"), ".tidegate/b.yaml": file("b"), ".tidegate/a.yml": file("a"), ".tidegate/README.md": file("no"),
	})
	require.NoError(t, err)
	var names []string
	for _, p := range pipelines {
		names = append(names, p.Name)
	}
	require.Equal(t, []string{"main", "a", "b"}, names)
	require.Equal(t, ".tidegate/a.yml", pipelines[1].Pos.File)
}

func TestLoadReturnsTheGoodBesideTheProblems(t *testing.T) {
	pipelines, err := Load(fstest.MapFS{
		".tidegate/a.yaml": file("same"), ".tidegate/b.yaml": file("same"), ".tidegate/c.yaml": &fstest.MapFile{Data: []byte("version: 3")},
	})
	require.Len(t, pipelines, 1)
	var problems Errors
	require.True(t, errors.As(err, &problems))
	require.Contains(t, err.Error(), `.tidegate/b.yaml:1:1: the name "same" is taken by .tidegate/a.yaml`)
	require.Contains(t, err.Error(), ".tidegate/c.yaml:1:10: version is 3")
}

func TestLoadWithoutPipeline(t *testing.T) {
	_, err := Load(fstest.MapFS{"README.md": file("x")})
	require.ErrorIs(t, err, ErrNoPipeline)
	require.Equal(t, CauseInvalid, CauseOf(err))
}

func TestLoadRefusesSymbolicLinks(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret.yaml")
	require.NoError(t, os.WriteFile(outside, file("secret").Data, 0o600))
	for _, place := range []string{".tidegate.yaml", ".tidegate/x.yaml", ".tidegate"} {
		repository := t.TempDir()
		target := outside
		if place == ".tidegate" {
			target = filepath.Dir(outside)
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(repository, place)), 0o755))
		require.NoError(t, os.Symlink(target, filepath.Join(repository, place)))
		pipelines, err := Load(os.DirFS(repository))
		require.ErrorContains(t, err, "symbolic links are not followed", place)
		require.Empty(t, pipelines)
	}
}
