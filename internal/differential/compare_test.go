package differential

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"
)

// The issue asks for so many; a case that is lost would go unnoticed otherwise.
func TestCorpusIsWhole(t *testing.T) {
	cases, err := Corpus(os.DirFS("testdata/corpus"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(cases), 150)
	for _, c := range cases {
		require.NoError(t, c.WriteContext(t.TempDir()), c.Name)
	}
}

func TestParse(t *testing.T) {
	c, err := Parse("x", []byte(`It is about links.
target: last
arg: A=1=2
fails: nowhere
-- Dockerfile --
FROM scratch
-- not a section
-- d/a --
-- setup --
chmod 0700 d

symlink a d/link
`))
	require.NoError(t, err)
	require.Equal(t, "It is about links.", c.About)
	require.Equal(t, map[string]string{"A": "1=2"}, c.Args)
	require.Equal(t, "FROM scratch\n-- not a section\n", string(c.Files[0].Data))
	require.Equal(t, []string{"chmod 0700 d", "symlink a d/link"}, c.Setup)
	dir := t.TempDir()
	require.NoError(t, c.WriteContext(dir))
	target, err := os.Readlink(filepath.Join(dir, "d/link"))
	require.NoError(t, err)
	require.Equal(t, "a", target)
	for _, broken := range []string{"", "About.\n-- a --\n", "About.\nnonsense: 1\n-- Dockerfile --\n", "About.\narg: A\n-- Dockerfile --\n"} {
		_, err := Parse("x", []byte(broken))
		require.Error(t, err, broken)
	}
}

func layerOf(t *testing.T, headers ...tar.Header) v1.Layer {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, h := range headers {
		content := h.Uname
		h.Uname = ""
		h.Size = int64(len(content))
		require.NoError(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data.Bytes())), nil })
	require.NoError(t, err)
	return layer
}

// file's content is given as Uname.
func file(name, content string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Uname: content}
}

func directory(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}
}

func describe(t *testing.T, config v1.Config, layers ...v1.Layer) Description {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, layers...)
	require.NoError(t, err)
	image, err = mutate.Config(image, config)
	require.NoError(t, err)
	d, err := Describe(image)
	require.NoError(t, err)
	return d
}

func TestDescribeStacksLayers(t *testing.T) {
	d := describe(t, v1.Config{User: "nobody", Env: []string{"A=1"}},
		layerOf(t, directory("d"), file("d/gone", "x"), file("d/stays", "x"), directory("o"), file("o/hidden", "x"), directory("f"), file("f/below", "x")),
		layerOf(t, file("d/.wh.gone", ""), file("o/new", "y"), file("o/.wh..wh..opq", ""), file("f", "a file now"),
			tar.Header{Typeflag: tar.TypeLink, Name: "link", Linkname: "d/stays"}),
	)
	require.Equal(t, `"nobody"`, d["config.User"])
	require.Equal(t, `["A=1"]`, d["config.Env"])
	require.NotContains(t, d, "/d/gone type")
	require.NotContains(t, d, "/o/hidden type")
	require.NotContains(t, d, "/f/below type")
	require.Equal(t, "file", d["/o/new type"])
	require.Equal(t, "file", d["/f type"])
	require.Equal(t, "/d/stays /link", d["/d/stays links"])
	require.Equal(t, d["/d/stays content"], d["/link content"])
}

// Every fact counts: a change of any shows.
func TestCompareSeesEachFact(t *testing.T) {
	original := file("a", "one")
	changes := map[string]func(*tar.Header){
		"/a mode":         func(h *tar.Header) { h.Mode = 0o4644 },
		"/a owner":        func(h *tar.Header) { h.Gid = 5 },
		"/a content":      func(h *tar.Header) { h.Uname = "two" },
		"/a xattr user.x": func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "1"} },
		"/a type":         func(h *tar.Header) { h.Typeflag, h.Uname = tar.TypeFifo, "" },
	}
	for fact, change := range changes {
		changed := original
		change(&changed)
		differences := Compare(describe(t, v1.Config{}, layerOf(t, changed)), describe(t, v1.Config{}, layerOf(t, original)))
		facts := map[string]bool{}
		for _, d := range differences {
			facts[d.Fact] = true
		}
		require.Contains(t, facts, fact)
	}
	require.Empty(t, Compare(describe(t, v1.Config{}, layerOf(t, original)), describe(t, v1.Config{}, layerOf(t, original))))
}

func TestCompareTellsOfAMissingFileOnce(t *testing.T) {
	differences := Compare(describe(t, v1.Config{}, layerOf(t, file("a", "x"))), describe(t, v1.Config{}, layerOf(t, directory("d"))))
	require.Equal(t, []Difference{{"/a type", "file", Absent}, {"/d type", Absent, "directory"}}, differences)
}

func TestSplit(t *testing.T) {
	found := []Difference{
		{"config.Env", "[]", "[1]"}, {"/a/b mode", "0644", "0600"}, {"history 3 created_by", "COPY a* b", "COPY a* b # x"},
		{"history 4 created_by", "COPY a* b", "COPY aaa b # x"},
	}
	table := []Intended{
		{Case: "other", Fact: `config\.Env`, Ours: ".*", Theirs: ".*"},
		{Case: "copy-.*", Fact: "/.* mode", Ours: "0644", Theirs: ".*"},
		{Case: ".*", Fact: `history \d created_by`, Ours: "(.*)", Theirs: "{1} # x"},
	}
	left, used := Split("copy-x", found, table)
	require.Equal(t, []Difference{found[0], found[3]}, left)
	require.Equal(t, []int{1, 2}, used)
}

func TestEveryIntendedDifferenceHasAReason(t *testing.T) {
	for _, i := range intended {
		require.NotEmpty(t, i.Why, i)
		require.NotEqual(t, ".*", i.Fact, i)
	}
}
