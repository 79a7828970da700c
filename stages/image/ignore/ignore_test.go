package ignore

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ignored asks the way a walk does: directory by directory.
func ignored(t testing.TB, m *Matcher, name string) bool {
	t.Helper()
	var state State
	out := false
	parts := strings.Split(name, "/")
	for i := range parts {
		var err error
		out, state, err = m.Match(path.Join(parts[:i+1]...), state)
		require.NoError(t, err)
	}
	return out
}

func TestPatterns(t *testing.T) {
	cases := []struct {
		patterns string
		out, in  []string
	}{
		{"", nil, []string{"a", "a/b"}},
		{"# a\n\n", nil, []string{"a", "# a"}},
		{"a", []string{"a", "a/b"}, []string{"b/a", "ab"}},
		{"/a/", []string{"a", "a/b"}, []string{"b/a"}},
		{"*.md\n!README.md", []string{"x.md"}, []string{"README.md", "d/x.md"}},
		{"**/*.md", []string{"x.md", "d/x.md", "d/e/x.md"}, []string{"x.go"}},
		{"*\n!src", []string{"a"}, []string{"src", "src/a"}},
		{"node_modules\n!node_modules/keep", []string{"node_modules/x"}, []string{"node_modules/keep"}},
		{"**\n!a/b", []string{"a", "a/c"}, []string{"a/b", "a/b/c"}},
		{"a?", []string{"ab"}, []string{"a", "abc"}},
		{"!a", nil, []string{"a"}},
		{"a/**/z", []string{"a/b/z", "a/b/c/z"}, []string{"a/b"}},
		{"  padded  ", []string{"padded"}, nil},
		{"./dot", []string{"dot"}, nil},
		{"!keep\nkeep", []string{"keep"}, nil},
		{"\ufeffbom", []string{"bom"}, nil},
		{"a\r\nb\r\n", []string{"a", "b"}, nil},
	}
	for _, c := range cases {
		t.Run(c.patterns, func(t *testing.T) {
			m, err := Parse(".dockerignore", []byte(c.patterns))
			require.NoError(t, err)
			for _, name := range c.out {
				require.True(t, ignored(t, m, name), "%s should be left out", name)
			}
			for _, name := range c.in {
				require.False(t, ignored(t, m, name), "%s should be there", name)
			}
		})
	}
}

func TestDirectoriesAreOnlyEnteredForAReason(t *testing.T) {
	m, err := Parse(".dockerignore", []byte("node_modules\nsrc\n!src/keep/this"))
	require.NoError(t, err)
	require.False(t, m.MayReturn("node_modules"))
	require.True(t, m.MayReturn("src"))
	require.True(t, m.MayReturn("src/keep"))
	require.False(t, m.MayReturn("src/other"))
}

func TestTheDockerfilesOwnFileGoesFirst(t *testing.T) {
	files := map[string]string{"deploy/Dockerfile.dockerignore": "own", ".dockerignore": "general"}
	read := func(name string) (io.ReadCloser, error) {
		content, ok := files[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(strings.NewReader(content)), nil
	}
	m, err := Open("deploy/Dockerfile", read)
	require.NoError(t, err)
	require.True(t, ignored(t, m, "own"))
	require.False(t, ignored(t, m, "general"))
	m, err = Open("Dockerfile", read)
	require.NoError(t, err)
	require.True(t, ignored(t, m, "general"))
	_, err = Open("", func(string) (io.ReadCloser, error) { return nil, errors.New("broken") })
	require.ErrorContains(t, err, "broken")
}

func TestABadPatternIsNamed(t *testing.T) {
	_, err := Parse(".dockerignore", []byte("good\n[bad\n"))
	require.ErrorContains(t, err, ".dockerignore:2:1")
	require.ErrorContains(t, err, "[bad")
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"a", "*\n!a", "**/x/**", "[a-z]?\n!\\[", "#c\n\n/"} {
		f.Add(seed, "a/b")
	}
	f.Fuzz(func(_ *testing.T, patterns, name string) {
		m, err := Parse(".dockerignore", []byte(patterns))
		if err != nil {
			return
		}
		name = strings.TrimPrefix(path.Clean("/"+name), "/")
		if name == "" {
			return
		}
		var state State
		parts := strings.Split(name, "/")
		for i := range parts {
			if _, state, err = m.Match(path.Join(parts[:i+1]...), state); err != nil {
				return
			}
		}
		m.MayReturn(name)
	})
}
