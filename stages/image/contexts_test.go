package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// served serves content by path; an asked path is counted.
type served struct {
	*httptest.Server
	content map[string]string
	sent    map[string]int
}

func serveFiles(t testing.TB, content map[string]string) *served {
	s := &served{content: content, sent: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := s.content[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		tag := `"` + sha(text) + `"`
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		s.sent[r.URL.Path]++
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(s.Close)
	return s
}

func sha(text string) string { digest, _ := sha256Of([]byte(text)); return digest.Hex }

// gitServer serves a repository r.git with the files.
func gitServer(t testing.TB, files map[string]string) (location, commit string) {
	dir, home := t.TempDir(), t.TempDir()
	run := func(args ...string) string {
		command := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"}, args...)...)
		command.Dir, command.Env = filepath.Join(dir, "r.git"), append(os.Environ(), "HOME="+home, "GIT_CONFIG_NOSYSTEM=1")
		out, err := command.CombinedOutput()
		require.NoError(t, err, string(out))
		return strings.TrimSpace(string(out))
	}
	writeFiles(t, filepath.Join(dir, "r.git"), files)
	run("init")
	run("add", ".")
	run("commit", "-m", "x")
	path, err := exec.Command("git", "--exec-path").Output()
	require.NoError(t, err)
	server := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"), Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + home},
	})
	t.Cleanup(server.Close)
	return server.URL + "/r.git", run("rev-parse", "HEAD")
}

func tarOf(t testing.TB, headers []tar.Header, contents map[string]string) string {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, header := range headers {
		header.Size = int64(len(contents[header.Name]))
		require.NoError(t, w.WriteHeader(&header))
		_, err := io.WriteString(w, contents[header.Name])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buffer.String()
}

func TestAddFetchesFilesByHTTP(t *testing.T) {
	b := newBench(t)
	archive := archiveOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "in", Mode: 0o644}}, map[string]string{"in": "side"})
	s := serveFiles(t, map[string]string{"/dir/file": "content", "/a.tgz": archive})
	dockerfile := "FROM scratch\nADD " + s.URL + "/dir/file?x=1 /d/\nADD --checksum=sha256:" + sha("content") + " --chmod=755 --chown=1:2 " + s.URL + "/dir/file /named\n" +
		"ADD " + s.URL + "/a.tgz /packed/\nADD --unpack=true " + s.URL + "/a.tgz /open/\n"
	request := b.request(map[string]string{"Dockerfile": dockerfile})
	tree := b.tree(b.build(request))
	require.Contains(t, tree, "d/file 0600 0:0 content")
	require.Contains(t, tree, "named 0755 1:2 content")
	require.Contains(t, tree, "open/in 0644 0:0 side")
	require.Contains(t, strings.Join(tree, "\n"), "packed/a.tgz 0600")
	sent := s.sent["/a.tgz"]
	result := b.build(request)
	require.Equal(t, 0, result.Stats.Made)
	require.Equal(t, sent, s.sent["/a.tgz"], "what the server vouches for is not fetched again")
	s.content["/dir/file"] = "changed"
	_, err := b.builder.Build(context.Background(), request)
	require.NoError(t, err, "the checksum's content is still here")
	request.NoCache = true
	_, err = b.builder.Build(context.Background(), request)
	require.ErrorContains(t, err, "another checksum")
	require.ErrorContains(t, err, "Dockerfile:3")
}

func TestAddTakesGitTrees(t *testing.T) {
	b := newBench(t)
	location, commit := gitServer(t, map[string]string{"a": "1", "sub/b": "2", "sub/c.md": "3"})
	request := b.request(map[string]string{"Dockerfile": "FROM scratch\nADD " + location + "#main:sub /s\nADD --keep-git-dir=true --checksum=" + commit + " --exclude=sub " + location + " /all\nADD --exclude=*.md " + location + "?subdir=sub /e/\n"})
	tree := strings.Join(b.tree(b.build(request)), "\n")
	for _, want := range []string{"s/b 0644 0:0 2", "s/c.md 0644 0:0 3", "all/a 0644 0:0 1", "all/.git/HEAD 0644 0:0 " + commit, "e/b 0644 0:0 2"} {
		require.Contains(t, tree, want)
	}
	require.NotContains(t, tree, "e/c.md")
	require.NotContains(t, tree, "all/sub")
	require.Equal(t, 0, b.build(request).Stats.Made)
	request = b.request(map[string]string{"Dockerfile": "FROM scratch\nADD --checksum=" + strings.Repeat("0", 40) + " " + location + " /\n"})
	_, err := b.builder.Build(context.Background(), request)
	require.ErrorContains(t, err, "the checksum says")
}

// Whose code it is may not reach what only this machine reaches.
func TestForksFetchNothingInside(t *testing.T) {
	b := newBench(t)
	s := serveFiles(t, map[string]string{"/x": "inside"})
	for _, line := range []string{"ADD " + s.URL + "/x /", "ADD " + s.URL + "/x.git /", "ADD git@localhost:x.git /", "ADD " + strings.Replace(s.URL, "127.0.0.1", "localhost", 1) + "/x /"} {
		request := b.request(map[string]string{"Dockerfile": "FROM scratch\n" + line + "\n"})
		request.Isolated = true
		_, err := b.builder.Build(context.Background(), request)
		require.ErrorContains(t, err, "Dockerfile:2", line)
	}
	request := b.request(map[string]string{"Dockerfile": "FROM scratch\nCOPY --from=n . /\n"})
	request.Isolated, request.Contexts = true, map[string]string{"n": s.URL + "/x"}
	_, err := b.builder.Build(context.Background(), request)
	require.ErrorContains(t, err, "a private network, which may not be reached")
	require.Empty(t, s.sent)
}

func TestContextsComeFromElsewhere(t *testing.T) {
	b := newBench(t)
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n", "a": "1", "hidden": "x", ".dockerignore": "hidden\nDockerfile\n.dockerignore\n"}
	location, _ := gitServer(t, map[string]string{"deep/Dockerfile": files["Dockerfile"], "deep/a": "1", "deep/hidden": "x", "deep/.dockerignore": files[".dockerignore"]})
	var headers []tar.Header
	for _, name := range []string{"Dockerfile", "a", "hidden", ".dockerignore"} {
		headers = append(headers, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644})
	}
	plainTar, packed := tarOf(t, headers, files), archiveOf(t, headers, files)
	s := serveFiles(t, map[string]string{"/c.tgz": packed, "/Dockerfile": "FROM scratch\nCOPY <<E /e\nx\nE\n"})
	for name, change := range map[string]func(*Request){
		"git":                     func(r *Request) { r.Context = location + "#main:deep" },
		"archive by HTTP":         func(r *Request) { r.Context = s.URL + "/c.tgz" },
		"archive on stdin":        func(r *Request) { r.Context, r.Input = StandardInput, strings.NewReader(plainTar) },
		"packed archive on stdin": func(r *Request) { r.Context, r.Input = StandardInput, strings.NewReader(packed) },
	} {
		request := b.request(nil)
		change(&request)
		require.Equal(t, []string{"a 0644 0:0 1"}, b.tree(b.build(request)), name)
	}
	for _, change := range []func(*Request){
		func(r *Request) { r.Context = s.URL + "/Dockerfile" },
		func(r *Request) { r.Context, r.Input = StandardInput, strings.NewReader(s.content["/Dockerfile"]) },
	} {
		request := b.request(nil)
		change(&request)
		require.Equal(t, []string{"e 0644 0:0 x\n"}, b.tree(b.build(request)))
	}
	request := b.request(nil)
	request.Context, request.Input = StandardInput, strings.NewReader("")
	_, err := b.builder.Build(context.Background(), request)
	require.ErrorContains(t, err, "empty")
}

func TestNamedContextsAreUsed(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	image, err := mutate.AppendLayers(empty.Image, layerOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "fromlayout", Mode: 0o644}}, nil))
	require.NoError(t, err)
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	require.NoError(t, err)
	require.NoError(t, path.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"})))
	digest, err := image.Digest()
	require.NoError(t, err)
	request := b.request(map[string]string{
		"Dockerfile": "FROM never:1 AS replaced\nRUN never\nFROM tree\nCOPY --from=replaced /etc/group /g\nCOPY --from=kept / /l/\nCOPY --from=pinned fromlayout /p\nCOPY own /\nCOPY --from=tree sub/x /y\n",
		"own":        "own",
	})
	request.Contexts = map[string]string{
		"tree":     b.context(map[string]string{"sub/x": "x", "out": "no", ".dockerignore": "out\n.dockerignore\n"}),
		"replaced": "docker-image://busybox", "kept": "oci-layout://" + dir + ":v1", "pinned": "oci-layout://" + dir + "@" + digest.String(),
	}
	tree := b.tree(b.build(request))
	require.Equal(t, []string{
		"g 0644 0:0 root:x:0:\nstaff:x:50:\napp:x:456:\n", "l/ 0755 0:0", "l/fromlayout 0644 0:0 ", "own 0644 0:0 own", "p 0644 0:0 ", "sub/ 0755 0:0", "sub/x 0644 0:0 x", "y 0644 0:0 x",
	}, tree)
	request.Contexts["kept"] = "oci-layout://" + dir + ":none"
	_, err = b.builder.Build(context.Background(), request)
	require.ErrorContains(t, err, "has no none")
}

func TestHostileContextArchivesStayInside(t *testing.T) {
	outside := t.TempDir()
	writeFiles(t, outside, map[string]string{"secret": "secret", "dir/": ""})
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	for name, headers := range map[string][]tar.Header{
		"dots":                  {file("../x")},
		"dots inside":           {file("a/../../x")},
		"through a link":        {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: outside}, file("l/x")},
		"through a linked dir":  {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../../.."}, file("l/tmp/x")},
		"link named dot":        {{Typeflag: tar.TypeSymlink, Name: ".", Linkname: outside}, file("./x")},
		"hard link outside":     {{Typeflag: tar.TypeLink, Name: "h", Linkname: "../../../etc/passwd"}},
		"hard link by a link":   {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: outside}, {Typeflag: tar.TypeLink, Name: "h", Linkname: "l/secret"}},
		"directory over a link": {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: filepath.Join(outside, "dir")}, {Typeflag: tar.TypeDir, Name: "l", Mode: 0o777}, file("l/x")},
		"absolute":              {file(outside + "/x")},
		"device":                {{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
	} {
		b := newBench(t)
		headers = append([]tar.Header{file("Dockerfile")}, headers...)
		request := b.request(nil)
		request.Context = StandardInput
		request.Input = strings.NewReader(tarOf(t, headers, map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"}))
		result, err := b.builder.Build(context.Background(), request)
		if err == nil {
			require.NotContains(t, strings.Join(b.tree(result), "\n"), "secret", name)
		}
		entries, err := os.ReadDir(outside)
		require.NoError(t, err)
		require.Len(t, entries, 2, name)
		entries, err = os.ReadDir(filepath.Join(outside, "dir"))
		require.NoError(t, err)
		require.Empty(t, entries, name)
	}
}

func TestABombAsContextIsCut(t *testing.T) {
	b := newBench(t)
	request := b.request(nil)
	request.Context, request.Input = StandardInput, contextBomb(t)
	_, err := b.builder.Build(context.Background(), request)
	require.ErrorContains(t, err, "far more than its size")
}

// contextBomb is a small archive of very many zeros.
func contextBomb(t testing.TB) io.Reader {
	var packed bytes.Buffer
	encoder, err := zstd.NewWriter(&packed)
	require.NoError(t, err)
	w := tar.NewWriter(encoder)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: 320 << 20}))
	zeros := make([]byte, 1<<20)
	for range 320 {
		_, err := w.Write(zeros)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, encoder.Close())
	return &packed
}
