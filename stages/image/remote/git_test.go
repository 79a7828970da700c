package remote

import (
	"context"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/stretchr/testify/require"
)

// forge serves repositories with git's own server.
type forge struct {
	t         *testing.T
	dir, home string
	url       string
	// authorization is what the last request carried.
	authorization string
}

func newForge(t *testing.T) *forge {
	t.Helper()
	f := &forge{t: t, dir: t.TempDir(), home: t.TempDir()}
	path, err := exec.Command("git", "--exec-path").Output()
	require.NoError(t, err, "git is needed")
	f.url = serve(t, func(w http.ResponseWriter, r *http.Request) {
		f.authorization = r.Header.Get("Authorization")
		backend := &cgi.Handler{
			Path:   filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
			Stderr: io.Discard, Env: []string{"GIT_PROJECT_ROOT=" + f.dir, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + f.home},
		}
		backend.ServeHTTP(w, r)
	})
	return f
}

func (f *forge) git(dir string, args ...string) string {
	f.t.Helper()
	command := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"}, args...)...)
	command.Dir = dir
	command.Env = append(os.Environ(), "HOME="+f.home, "GIT_CONFIG_NOSYSTEM=1")
	out, err := command.CombinedOutput()
	require.NoError(f.t, err, "git %v: %s", args, out)
	return strings.TrimSpace(string(out))
}

// repository makes NAME.git with a commit of the files and returns the commit.
func (f *forge) repository(name string, files map[string]string) string {
	dir := filepath.Join(f.dir, name+".git")
	require.NoError(f.t, os.MkdirAll(dir, 0o755))
	f.git(dir, "init")
	return f.commit(name, files)
}

func (f *forge) commit(name string, files map[string]string) string {
	dir := filepath.Join(f.dir, name+".git")
	for file, content := range files {
		at := filepath.Join(dir, file)
		require.NoError(f.t, os.MkdirAll(filepath.Dir(at), 0o755))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			require.NoError(f.t, os.Symlink(target, at))
			continue
		}
		require.NoError(f.t, os.WriteFile(at, []byte(content), 0o644))
	}
	f.git(dir, "add", ".")
	f.git(dir, "commit", "-m", "x")
	return f.git(dir, "rev-parse", "HEAD")
}

func (f *forge) checkout(c *Client, location string) (map[string]string, string, error) {
	f.t.Helper()
	g, is, err := ParseGit(location)
	require.NoError(f.t, err)
	require.True(f.t, is)
	commit, err := c.Resolve(context.Background(), g)
	if err != nil {
		return nil, "", err
	}
	dir := f.t.TempDir()
	if err := c.Checkout(context.Background(), g, commit, dir, f.t.TempDir()); err != nil {
		return nil, "", err
	}
	files := map[string]string{}
	require.NoError(f.t, filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		relative, _ := filepath.Rel(dir, name)
		switch {
		case err != nil:
			return err
		case entry.Name() == gitDir:
			files[relative] = "kept"
			return filepath.SkipDir
		case entry.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(name)
			files[relative] = "-> " + target
			return err
		case entry.Type().IsRegular():
			content, err := os.ReadFile(name)
			files[relative] = string(content)
			return err
		}
		return nil
	}))
	return files, dir, nil
}

func TestATreeIsCheckedOut(t *testing.T) {
	f := newForge(t)
	first := f.repository("shop", map[string]string{"a": "1", "dir/b": "2", "dir/link": "-> ../../../etc/passwd"})
	f.git(filepath.Join(f.dir, "shop.git"), "tag", "-a", "v1", "-m", "v1")
	f.git(filepath.Join(f.dir, "shop.git"), "branch", "old")
	second := f.commit("shop", map[string]string{"a": "changed", "new": "3"})
	c := New(Options{})
	defer c.Close()
	base := f.url + "/shop.git"
	for location, want := range map[string]map[string]string{
		base:               {"a": "changed", "new": "3", "dir/b": "2", "dir/link": "-> ../../../etc/passwd"},
		base + "#old":      {"a": "1", "dir/b": "2", "dir/link": "-> ../../../etc/passwd"},
		base + "#v1:dir":   {"b": "2", "link": "-> ../../../etc/passwd"},
		base + "?tag=v1":   {"a": "1", "dir/b": "2", "dir/link": "-> ../../../etc/passwd"},
		base + "#" + first: {"a": "1", "dir/b": "2", "dir/link": "-> ../../../etc/passwd"},
		base + "?branch=main&subdir=dir&checksum=" + second[:10]:                  {"b": "2", "link": "-> ../../../etc/passwd"},
		base + "?fetch-by-commit=true&checksum=" + first + "&subdir=./dir/../dir": {"b": "2", "link": "-> ../../../etc/passwd"},
	} {
		files, _, err := f.checkout(c, location)
		require.NoError(t, err, location)
		require.Equal(t, want, files, location)
	}
	for location, message := range map[string]string{
		base + "#none": "no branch", base + "#:nowhere": "no directory", base + "?checksum=" + first: "the checksum says", f.url + "/none.git": "no such repository",
		base + "#" + strings.Repeat("a", 40): "",
		base + "#:dir/link":                  "no directory", // a link is not followed
	} {
		_, _, err := f.checkout(c, location)
		require.ErrorContains(t, err, message, location)
		require.Error(t, err, location)
	}
	files, dir, err := f.checkout(c, base+"?keep-git-dir=1")
	require.NoError(t, err)
	require.Equal(t, "kept", files[gitDir])
	require.Equal(t, second, f.git(dir, "rev-parse", "HEAD"))
	require.Empty(t, f.git(dir, "status", "--porcelain"))
}

func TestGitTokensStayWithTheirHost(t *testing.T) {
	f := newForge(t)
	f.repository("shop", map[string]string{"a": "1"})
	host := "127.0.0.1"
	c := New(Options{Secret: func(id string) ([]byte, bool) { return []byte("canary"), id == "GIT_AUTH_TOKEN."+host }})
	_, _, err := f.checkout(c, f.url+"/shop.git")
	require.NoError(t, err)
	require.NotEmpty(t, f.authorization)
	host = "other.example"
	_, _, err = f.checkout(c, f.url+"/shop.git")
	require.NoError(t, err)
	require.Empty(t, f.authorization)
}

func TestSubmodulesAreBroughtAlong(t *testing.T) {
	f := newForge(t)
	f.repository("part", map[string]string{"p": "part"})
	f.repository("shop", map[string]string{"a": "1"})
	shop := filepath.Join(f.dir, "shop.git")
	f.git(shop, "submodule", "add", f.url+"/part.git", "sub/part")
	f.git(shop, "config", "-f", ".gitmodules", "submodule.sub/part.url", "../part.git")
	f.git(shop, "commit", "-am", "submodule")
	c := New(Options{})
	files, _, err := f.checkout(c, f.url+"/shop.git")
	require.NoError(t, err)
	require.Equal(t, "part", files["sub/part/p"])
	files, _, err = f.checkout(c, f.url+"/shop.git?submodules=false")
	require.NoError(t, err)
	require.NotContains(t, files, "sub/part/p")
	for _, location := range []string{"file:///" + f.dir + "/part.git", "ext::sh -c x", "--upload-pack=x", "/" + f.dir} {
		f.git(shop, "config", "-f", ".gitmodules", "submodule.sub/part.url", location)
		f.git(shop, "commit", "-am", "hostile")
		_, _, err = f.checkout(c, f.url+"/shop.git")
		require.Error(t, err, location)
	}
}

// A tree can hold names that git would not add; they must lead nowhere.
func TestHostileTreesAreRefused(t *testing.T) {
	f := newForge(t)
	f.repository("evil", map[string]string{"a": "1"})
	dir := filepath.Join(f.dir, "evil.git", gitDir)
	storage := filesystem.NewStorage(osfs.New(dir), nil)
	blob := plumbing.NewHash(f.git(filepath.Dir(dir), "rev-parse", "HEAD:a"))
	store := func(o interface {
		Encode(plumbing.EncodedObject) error
	}) plumbing.Hash {
		encoded := storage.NewEncodedObject()
		require.NoError(t, o.Encode(encoded))
		hash, err := storage.SetEncodedObject(encoded)
		require.NoError(t, err)
		return hash
	}
	link := storage.NewEncodedObject()
	link.SetType(plumbing.BlobObject)
	w, err := link.Writer()
	require.NoError(t, err)
	_, err = w.Write([]byte("/tmp"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	linkHash, err := storage.SetEncodedObject(link)
	require.NoError(t, err)
	for name, entries := range map[string][]object.TreeEntry{
		"dots":          {{Name: "..", Mode: filemode.Regular, Hash: blob}},
		"slash":         {{Name: "../x", Mode: filemode.Regular, Hash: blob}},
		"absolute":      {{Name: "/tmp/x", Mode: filemode.Regular, Hash: blob}},
		"git directory": {{Name: ".GIT", Mode: filemode.Regular, Hash: blob}},
		"through a link": {
			{Name: "l", Mode: filemode.Symlink, Hash: linkHash},
			{Name: "l", Mode: filemode.Dir, Hash: store(&object.Tree{Entries: []object.TreeEntry{{Name: "x", Mode: filemode.Regular, Hash: blob}}})},
		},
	} {
		tree := store(&raw{entries})
		commit := store(&object.Commit{TreeHash: tree, Message: "x"})
		f.git(filepath.Dir(dir), "update-ref", "refs/heads/evil", commit.String())
		_, _, err := f.checkout(New(Options{}), f.url+"/evil.git#evil")
		require.Error(t, err, name)
	}
}

// raw is a tree that is written without the checks of object.Tree.
type raw struct{ entries []object.TreeEntry }

func (r *raw) Encode(o plumbing.EncodedObject) error {
	o.SetType(plumbing.TreeObject)
	w, err := o.Writer()
	if err != nil {
		return err
	}
	for _, e := range r.entries {
		mode := strings.TrimLeft(e.Mode.String(), "0")
		if _, err := w.Write(append([]byte(mode+" "+e.Name+"\x00"), e.Hash[:]...)); err != nil {
			return err
		}
	}
	return w.Close()
}

func TestAPackThatIsTooLargeIsCut(t *testing.T) {
	f := newForge(t)
	f.repository("big", map[string]string{"a": strings.Repeat("0123456789abcdef", 1<<16)})
	dir := filepath.Join(f.dir, "big.git")
	random := make([]byte, 1<<20)
	file, err := os.Open("/dev/urandom")
	require.NoError(t, err)
	defer file.Close()
	_, err = file.Read(random)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "r"), random, 0o644))
	f.git(dir, "add", ".")
	f.git(dir, "commit", "-m", "r")
	_, _, err = f.checkout(New(Options{MaxBytes: 64 << 10}), f.url+"/big.git")
	require.ErrorContains(t, err, "more than 65536 bytes")
}
