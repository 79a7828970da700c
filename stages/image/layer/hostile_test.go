package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// tarOf makes a tar stream of headers, whose content is x, Size times.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		require.NoError(t, w.WriteHeader(&h))
		_, err := w.Write(bytes.Repeat([]byte("x"), int(h.Size)))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return out.Bytes()
}

func regular(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1} }
func directory(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}
}
func link(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
}
func hardLink(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}

// A table of contents has to tell what unpacking gives: where they differ, a
// later COPY goes to another place than the image shows.
func TestTablesKeepHostileNamesInside(t *testing.T) {
	for name, test := range map[string]struct {
		headers []tar.Header
		want    map[string]byte // type by name, 0 for nothing there
		err     string
	}{
		"dot dot":                    {headers: []tar.Header{regular("../up"), regular("a/../../b")}, want: map[string]byte{"up": '0', "b": '0'}},
		"absolute":                   {headers: []tar.Header{regular("/etc/x")}, want: map[string]byte{"etc/x": '0', "etc": '5'}},
		"link named dot":             {headers: []tar.Header{link(".", ".."), regular("x")}, err: "can only be a directory"},
		"through a link":             {headers: []tar.Header{directory("usr"), directory("usr/bin"), link("bin", "usr/bin"), regular("bin/x")}, want: map[string]byte{"usr/bin/x": '0', "bin": '2'}},
		"through a link that climbs": {headers: []tar.Header{link("out", "../../../etc"), regular("out/x")}, want: map[string]byte{"etc/x": '0', "etc": '5'}},
		"through an absolute link":   {headers: []tar.Header{link("out", "/etc"), regular("out/x")}, want: map[string]byte{"etc/x": '0'}},
		"through a loop":             {headers: []tar.Header{link("a", "b"), link("b", "a"), regular("a/x")}, err: "too many symbolic links"},
		"whiteout through a link":    {headers: []tar.Header{directory("usr"), link("l", "usr"), regular("l/.wh.x")}, want: map[string]byte{"usr/lower": 0, "usr/other": '0'}},
		"opaque through a link":      {headers: []tar.Header{directory("usr"), link("l", "usr"), regular("l/.wh..wh..opq")}, want: map[string]byte{"usr/lower": 0, "usr/other": 0}},
		"whiteout of dot dot":        {headers: []tar.Header{regular("usr/sub/.wh...")}, err: "hides no name"},
		"whiteout of dot":            {headers: []tar.Header{regular("usr/.wh..")}, err: "hides no name"},
		"whiteout of nothing":        {headers: []tar.Header{regular("usr/.wh.")}, err: "hides no name"},
		"hard link through a link":   {headers: []tar.Header{directory("usr"), regular("usr/x"), link("l", "usr"), hardLink("h", "l/x")}, want: map[string]byte{"h": '0'}},
		"file over directory":        {headers: []tar.Header{directory("d"), regular("d/x"), regular("d")}, want: map[string]byte{"d": '0', "d/x": 0}},
		"long name":                  {headers: []tar.Header{regular(strings.Repeat("n/", 2100) + "f")}, err: "more than 4095 bytes"},
		"long link":                  {headers: []tar.Header{link("l", strings.Repeat("n/", 2100))}, err: "more than 4095 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "whiteout through a link" {
				test.headers[2].Name = "l/.wh.lower"
			}
			upper, err := ReadTable(bytes.NewReader(tarOf(t, test.headers...)))
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			lower, err := ReadTable(bytes.NewReader(tarOf(t, directory("usr"), regular("usr/lower"), regular("usr/other"))))
			require.NoError(t, err)
			for path, want := range test.want {
				node, ok := View{lower, upper}.Lookup(path)
				require.Equal(t, want != 0, ok, path)
				if ok {
					require.Equal(t, string(rune(want)), string(rune(node.Type)), path)
				}
			}
		})
	}
}

func archiveTree(t *testing.T, content []byte) *Tree {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.tar"), content, 0o600))
	tree, err := OpenTree(dir, false)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tree.Close()) })
	return tree
}

// What ADD unpacks stays below its destination, or within the image where the
// archive's own links lead.
func TestAddedArchivesStayInside(t *testing.T) {
	for name, test := range map[string]struct {
		headers []tar.Header
		want    []string
		err     string
	}{
		"dot dot":              {headers: []tar.Header{regular("../up")}, err: "leads out of the archive"},
		"dot dot within":       {headers: []tar.Header{regular("a/../b")}, err: "leads out of the archive"},
		"absolute":             {headers: []tar.Header{regular("/etc/x")}, want: []string{"dest", "dest/etc", "dest/etc/x"}},
		"link named dot":       {headers: []tar.Header{link(".", "/etc"), regular("x")}, want: []string{"dest", "dest/x"}},
		"through a link":       {headers: []tar.Header{link("l", "/etc"), regular("l/x")}, want: []string{"dest", "dest/l", "etc", "etc/x"}},
		"through a climbing":   {headers: []tar.Header{link("l", "../../../.."), regular("l/x")}, want: []string{"dest", "dest/l", "x"}},
		"through a loop":       {headers: []tar.Header{link("a", "b"), link("b", "a"), regular("a/x")}, err: "too many symbolic links"},
		"hard link out":        {headers: []tar.Header{hardLink("h", "../x")}, err: "leads out of the archive"},
		"hard link to nothing": {headers: []tar.Header{hardLink("h", "/etc/shadow")}, err: "no file to link to"},
		"file over directory":  {headers: []tar.Header{directory("d"), regular("d")}, err: "would replace a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Placement{}
			defer p.Close()
			ok, err := p.Archive(Destination{Path: "/dest"}, archiveTree(t, tarOf(t, test.headers...)), "a.tar")
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.True(t, ok)
			var names []string
			for _, e := range p.Entries() {
				names = append(names, e.Name)
			}
			require.ElementsMatch(t, test.want, names)
		})
	}
}

// zeros packs that many zero bytes, as the content of a file in a tar stream.
func zeros(t *testing.T, n int64) []byte {
	t.Helper()
	var packed bytes.Buffer
	encoder, err := zstd.NewWriter(&packed)
	require.NoError(t, err)
	w := tar.NewWriter(encoder)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: n}))
	_, err = io.Copy(w, io.LimitReader(zeroReader{}, n))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, encoder.Close())
	return packed.Bytes()
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// sparse is an archive of one file that says it has n bytes and holds one, as GNU
// tar --sparse writes it (PAX format 0.1).
func sparse(t *testing.T, n int64) []byte {
	t.Helper()
	record := func(key, value string) string {
		text := " " + key + "=" + value + "\n"
		size := len(text) + len(fmt.Sprint(len(text)))
		if len(fmt.Sprint(size))+len(text) != size {
			size++
		}
		return fmt.Sprint(size) + text
	}
	records := record("GNU.sparse.size", fmt.Sprint(n)) + record("GNU.sparse.numblocks", "1") + record("GNU.sparse.map", "0,1") + record("GNU.sparse.name", "holes")
	block := func(name string, flag byte, size int) []byte {
		b := make([]byte, 512)
		copy(b, name)
		copy(b[100:], "0000644\x000000000\x000000000\x00")
		copy(b[124:], fmt.Sprintf("%011o\x00%011o\x00", size, 0))
		b[156] = flag
		copy(b[257:], "ustar\x0000")
		copy(b[148:], "        ")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	pad := func(b []byte) []byte { return append(b, make([]byte, (512-len(b)%512)%512)...) }
	out := append(block("PaxHeaders/x", 'x', len(records)), pad([]byte(records))...)
	out = append(out, block("holes", '0', 1)...)
	out = append(out, pad([]byte("x"))...)
	return append(out, make([]byte, 1024)...)
}

func TestBombsAreFoundOut(t *testing.T) {
	header, err := tar.NewReader(bytes.NewReader(sparse(t, 60<<30))).Next()
	require.NoError(t, err)
	require.Equal(t, int64(60<<30), header.Size, "the archive is what this test is about")
	for name, content := range map[string][]byte{"packed": zeros(t, ratioFrom+1<<20), "sparse": sparse(t, 60<<30), "larger than any": sparse(t, maxUnpacked+1)} {
		t.Run(name, func(t *testing.T) {
			p := &Placement{}
			defer p.Close()
			_, err := p.Archive(Destination{Path: "/dest"}, archiveTree(t, content), "a.tar")
			require.ErrorContains(t, err, "it unpacks to")
		})
	}
	p := &Placement{}
	defer p.Close()
	ok, err := p.Archive(Destination{Path: "/dest"}, archiveTree(t, sparse(t, 1<<20)), "a.tar")
	require.NoError(t, err, "a sparse file as such is fine")
	require.True(t, ok)
}

func FuzzReadTable(f *testing.F) {
	f.Add(tarOf(f, directory("d"), link("l", "../d"), regular("l/x"), hardLink("h", "l/x"), regular("d/.wh.y"), regular(".wh..wh..opq")))
	f.Add(sparse(&testing.T{}, 1<<40))
	f.Fuzz(func(t *testing.T, stream []byte) {
		table, err := ReadTable(bytes.NewReader(stream))
		if err != nil {
			return
		}
		for name := range table.Nodes {
			require.Equal(t, name, cleanName(name))
			resolved, err := View{table}.Resolve(name)
			if err == nil {
				require.Equal(t, resolved, cleanName(resolved))
				node, ok := View{table}.Lookup(resolved)
				require.False(t, ok && node.Type == tar.TypeSymlink, "%q is resolved to the link %q", name, resolved)
			}
		}
	})
}

func FuzzAddArchive(f *testing.F) {
	f.Add(tarOf(f, directory("d"), link("l", "../d"), regular("l/x"), hardLink("h", "l/x")))
	f.Add(sparse(&testing.T{}, 1<<40))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00"))
	f.Add([]byte("BZh91AY&SY"))
	f.Fuzz(func(t *testing.T, content []byte) {
		p := &Placement{}
		defer p.Close()
		if ok, err := p.Archive(Destination{Path: "/dest"}, archiveTree(t, content), "a.tar"); !ok || err != nil {
			return
		}
		for _, e := range p.Entries() {
			require.Equal(t, e.Name, cleanName(e.Name))
			require.NotContains(t, strings.Split(e.Name, "/"), "..")
			require.LessOrEqual(t, e.Size, int64(maxUnpacked))
		}
	})
}
