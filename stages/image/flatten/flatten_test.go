package flatten

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// entry is a line such as "d usr/bin", "f etc/hosts content", "l bin usr/bin",
// "h b a" (a hard link b to a), "p pipe".
func layer(t testing.TB, lines ...string) Layer {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, line := range lines {
		fields := strings.SplitN(line, " ", 3)
		header := &tar.Header{Name: fields[1], Mode: 0o644, ModTime: time.Unix(1000, 0)}
		rest := ""
		if len(fields) > 2 {
			rest = fields[2]
		}
		switch fields[0] {
		case "d":
			header.Typeflag, header.Mode = tar.TypeDir, 0o750
		case "f":
			header.Typeflag, header.Size = tar.TypeReg, int64(len(rest))
		case "l":
			header.Typeflag, header.Linkname = tar.TypeSymlink, rest
		case "h":
			header.Typeflag, header.Linkname = tar.TypeLink, rest
		case "p":
			header.Typeflag = tar.TypeFifo
		}
		require.NoError(t, w.WriteHeader(header))
		if fields[0] == "f" {
			_, err := io.WriteString(w, rest)
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	}
}

// list is the tree that a tar stream of the layers shows.
func list(t testing.TB, layers ...Layer) ([]string, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	if err := Write(context.Background(), layers, Archive(w, "")); err != nil {
		return nil, err
	}
	require.NoError(t, w.Close())
	var lines []string
	files := map[string]string{}
	for r := tar.NewReader(&buffer); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		switch header.Typeflag {
		case tar.TypeDir:
			lines = append(lines, fmt.Sprintf("d %s %o", strings.TrimSuffix(header.Name, "/"), header.Mode))
		case tar.TypeReg:
			content, err := io.ReadAll(r)
			require.NoError(t, err)
			files[header.Name] = string(content)
			lines = append(lines, "f "+header.Name+" "+string(content))
		case tar.TypeSymlink:
			lines = append(lines, "l "+header.Name+" "+header.Linkname)
		case tar.TypeLink:
			require.Contains(t, files, header.Linkname, "a link before its file")
			lines = append(lines, "h "+header.Name+" "+header.Linkname)
		default:
			lines = append(lines, string(header.Typeflag)+" "+header.Name)
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func TestWhatLayersShow(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]string
		want   []string
	}{
		"later wins":                   {[][]string{{"f a 1", "f b 1"}, {"f a 2"}}, []string{"f a 2", "f b 1"}},
		"whiteout":                     {[][]string{{"d d", "f d/a 1", "f d/b 1"}, {"f d/.wh.a "}}, []string{"d d 750", "f d/b 1"}},
		"whiteout of a directory":      {[][]string{{"d d", "f d/a 1"}, {"f .wh.d "}}, nil},
		"whiteout before and after":    {[][]string{{"f a 1", "f b 1"}, {"f .wh.a ", "f a 2", "f b 2", "f .wh.b "}}, []string{"f a 2", "f b 2"}},
		"opaque before and after":      {[][]string{{"d d", "f d/a 1", "d d/e", "f d/e/f 1"}, {"d d", "f d/b 2", "f d/.wh..wh..opq ", "f d/c 2"}}, []string{"d d 750", "f d/b 2", "f d/c 2"}},
		"opaque keeps what is new":     {[][]string{{"d d", "d d/e", "f d/e/old 1"}, {"d d", "f d/e/new 2", "f d/.wh..wh..opq "}}, []string{"d d 750", "d d/e 755", "f d/e/new 2"}},
		"removed and made again":       {[][]string{{"d d", "f d/a 1"}, {"f .wh.d ", "f d/b 2"}}, []string{"d d 755", "f d/b 2"}},
		"file over directory":          {[][]string{{"d d", "f d/a 1"}, {"f d 2"}}, []string{"f d 2"}},
		"directory over file":          {[][]string{{"f d 1"}, {"d d", "f d/a 2"}}, []string{"d d 750", "f d/a 2"}},
		"something below a file":       {[][]string{{"f d 1"}, {"f d/a 2"}}, []string{"d d 755", "f d/a 2"}},
		"directory over link":          {[][]string{{"d x", "f x/a 1", "l d x"}, {"d d", "f d/b 2"}}, []string{"d d 750", "d x 750", "f d/b 2", "f x/a 1"}},
		"through a link":               {[][]string{{"d usr", "d usr/bin", "l bin usr/bin"}, {"f bin/a 2"}}, []string{"d usr 750", "d usr/bin 750", "f usr/bin/a 2", "l bin usr/bin"}},
		"whiteout through a link":      {[][]string{{"d usr", "f usr/a 1", "f usr/b 1", "l bin /usr"}, {"f bin/.wh.a "}}, []string{"d usr 750", "f usr/b 1", "l bin /usr"}},
		"a link out of the root":       {[][]string{{"l out ../../../../etc"}, {"f out/passwd 2"}}, []string{"d etc 755", "f etc/passwd 2", "l out ../../../../etc"}},
		"a link named .":               {[][]string{{"l . /etc", "f a 1"}}, []string{"f a 1"}},
		"names that climb":             {[][]string{{"f ../../etc/passwd 1", "f /root/a 1"}}, []string{"d etc 755", "d root 755", "f etc/passwd 1", "f root/a 1"}},
		"whiteout that climbs":         {[][]string{{"f a 1"}, {"f ../.wh.a "}}, nil},
		"whiteout of what is not":      {[][]string{{"f a 1"}, {"f x/.wh.a ", "f .wh.b "}}, []string{"d x 755", "f a 1"}},
		"links of one file":            {[][]string{{"f a 1", "h b a", "h c b"}}, []string{"f a 1", "h b a", "h c a"}},
		"a link whose file has gone":   {[][]string{{"f a 1", "h b a", "h c a"}, {"f .wh.a "}}, []string{"f b 1", "h c b"}},
		"a link whose file is another": {[][]string{{"f a 1", "h b a"}, {"f a 2"}}, []string{"f a 2", "f b 1"}},
		"a link into a lower layer":    {[][]string{{"f a 1"}, {"h b a"}}, []string{"f a 1", "h b a"}},
		"a link through a link":        {[][]string{{"d d", "f d/a 1", "l x d", "h b x/a"}}, []string{"d d 750", "f b 1", "h d/a b", "l x d"}},
		"AUFS leftovers":               {[][]string{{"f .wh..wh.plnk 1", "f a 1"}}, []string{"f a 1"}},
		"pipes":                        {[][]string{{"p a"}}, []string{"6 a"}},
	} {
		t.Run(name, func(t *testing.T) {
			var layers []Layer
			for _, lines := range c.layers {
				layers = append(layers, layer(t, lines...))
			}
			got, err := list(t, layers...)
			require.NoError(t, err)
			slices.Sort(c.want)
			require.Equal(t, c.want, got)
		})
	}
}

func TestLayersThatMakeNoTree(t *testing.T) {
	for name, c := range map[string]struct {
		lines []string
		want  string
	}{
		"links in a circle":      {[]string{"l a b", "l b a", "f a/x 1"}, "too many symbolic links"},
		"a file as a directory":  {[]string{"f a 1", "f a/b 1"}, "no directory"},
		"a link to nothing":      {[]string{"h a b"}, "hard link"},
		"a link to a directory":  {[]string{"d d", "h a d"}, "hard link"},
		"a link out of the root": {[]string{"h a ../../etc/passwd"}, "hard link"},
		"a whiteout of ..":       {[]string{"d d", "f d/.wh... "}, "whiteout"},
		"a name without end":     {[]string{"f " + strings.Repeat("a/", maxName) + "a 1"}, "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := list(t, layer(t, c.lines...))
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestAFolderGetsTheTreeAndNothingElse(t *testing.T) {
	outside := t.TempDir()
	dir := filepath.Join(t.TempDir(), "out")
	layers := []Layer{
		layer(t, "d d", "f d/a 1", "h d/b d/a", "l link d/a", "l out "+outside, "p pipe", "f gone 1"),
		layer(t, "f out/x 2", "f .wh.gone ", "f old new"),
	}
	write := func() error {
		folder, err := NewFolder(dir)
		require.NoError(t, err)
		err = Write(context.Background(), layers, folder)
		require.NoError(t, folder.Close())
		if err == nil {
			require.Equal(t, 1, folder.Skipped)
		}
		return err
	}
	require.NoError(t, os.Mkdir(dir, 0o755))
	victim := filepath.Join(outside, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o600))
	require.NoError(t, os.Symlink(victim, filepath.Join(dir, "old")))
	for range 2 { // again, over what is there
		require.NoError(t, write())
	}
	content, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "mine", string(content), "a link in the folder was written through")
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Len(t, entries, 1, "something was written outside")
	var got []string
	require.NoError(t, filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if name != dir && err == nil {
			info, err := entry.Info()
			require.NoError(t, err)
			got = append(got, strings.TrimPrefix(name, dir+"/")+" "+info.Mode().String())
			if !strings.Contains(name, outside) && info.Mode().IsRegular() {
				require.Equal(t, int64(1000), info.ModTime().Unix())
			}
		}
		return err
	}))
	inside := strings.TrimPrefix(outside, "/")
	want := []string{"d drwxr-x---", "d/a -rw-r--r--", "d/b -rw-r--r--", "link Lrwxrwxrwx", "old -rw-r--r--", "out Lrwxrwxrwx", inside + "/x -rw-r--r--"}
	for at := inside; at != "."; at = filepath.Dir(at) {
		want = append(want, at+" drwxr-xr-x")
	}
	require.ElementsMatch(t, want, got)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, "d")))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "d")))
	require.ErrorContains(t, write(), "remove d")
}

func TestFoldersDropWhatWouldLendRights(t *testing.T) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "su", Mode: 0o6755, Uid: 0}))
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}))
	require.NoError(t, w.Close())
	folder, err := NewFolder(t.TempDir())
	require.NoError(t, err)
	name := folder.root.Name()
	require.NoError(t, Write(context.Background(), []Layer{func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil
	}}, folder))
	require.NoError(t, folder.Close())
	info, err := os.Lstat(filepath.Join(name, "su"))
	require.NoError(t, err)
	require.Equal(t, "-rwxr-xr-x", info.Mode().String())
	require.NoFileExists(t, filepath.Join(name, "null"))
	require.Equal(t, 1, folder.Skipped)
}

func FuzzWrite(f *testing.F) {
	for _, lines := range [][]string{{"f a 1", "h b a"}, {"l a /", "f a/b 1"}, {"d d", "f d/.wh..wh..opq "}, {"l . x"}, {"f ../.wh... "}} {
		stream, err := layer(f, lines...)(context.Background())
		require.NoError(f, err)
		data, err := io.ReadAll(stream)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
		parent := t.TempDir()
		folder, err := NewFolder(filepath.Join(parent, "in"))
		require.NoError(t, err)
		_ = Write(context.Background(), []Layer{open, open}, folder)
		_ = folder.Close()
		entries, err := os.ReadDir(parent)
		require.NoError(t, err)
		require.Len(t, entries, 1)
	})
}
