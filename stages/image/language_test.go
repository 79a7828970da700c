package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// headersOf are all tar headers of a result's own layers.
func (b *bench) headersOf(result *Result) map[string]*tar.Header {
	layers, err := b.pulled(result).Layers()
	require.NoError(b, err)
	all := map[string]*tar.Header{}
	for _, l := range layers {
		stream, err := l.Uncompressed()
		require.NoError(b, err)
		reader := tar.NewReader(stream)
		for {
			header, err := reader.Next()
			if err != nil {
				break
			}
			all[header.Name] = header
		}
		require.NoError(b, stream.Close())
	}
	return all
}

func xzOf(t testing.TB, data string, args ...string) string {
	t.Helper()
	command := exec.Command("xz", append([]string{"-c", "-T2"}, args...)...)
	command.Stdin = strings.NewReader(data)
	out, err := command.Output()
	require.NoError(t, err, "install xz-utils")
	return string(out)
}

func TestArchivesKeepWhatTheyHold(t *testing.T) {
	b := newBench(t)
	plain := tarOf(t, []tar.Header{
		{Typeflag: tar.TypeReg, Name: "a", Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.user.note": "n", "SCHILY.xattr.trusted.overlay.redirect": "/etc"}},
		{Typeflag: tar.TypeLink, Name: "b", Linkname: "a"}, {Typeflag: tar.TypeLink, Name: "c", Linkname: "b"},
		{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, {Typeflag: tar.TypeFifo, Name: "p", Mode: 0o600},
		{Typeflag: tar.TypeReg, Name: "twice", Mode: 0o644}, {Typeflag: tar.TypeLink, Name: "old", Linkname: "twice"},
	}, map[string]string{"a": "content", "twice": "first"})
	request := b.request(map[string]string{"Dockerfile": "FROM scratch\nADD x.tar.xz /x/\nADD --unpack=true small.xz /s/\n", "x.tar.xz": xzOf(t, plain), "small.xz": xzOf(t, plain, "--block-size=1024", "-9")})
	found := b.headersOf(b.build(request))
	for _, dir := range []string{"x/", "s/"} {
		require.Equal(t, "n", found[dir+"a"].PAXRecords["SCHILY.xattr.user.note"])
		require.NotContains(t, found[dir+"a"].PAXRecords, "SCHILY.xattr.trusted.overlay.redirect")
		require.Equal(t, dir+"a", found[dir+"b"].Linkname)
		require.Equal(t, dir+"a", found[dir+"c"].Linkname)
		require.Equal(t, dir+"old", found[dir+"twice"].Linkname)
		require.EqualValues(t, 1, found[dir+"null"].Devmajor)
		require.EqualValues(t, 3, found[dir+"null"].Devminor)
		require.Equal(t, byte(tar.TypeFifo), found[dir+"p"].Typeflag)
	}
}

// A small file can ask for a dictionary of 4 GiB, in any of its blocks.
func TestAnXZFileCannotAskForAllMemory(t *testing.T) {
	b := newBench(t)
	plain := tarOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "a", Mode: 0o644}}, map[string]string{"a": "x"})
	huge := xzOf(t, plain, "-T1", "--lzma2=dict=1536MiB")
	several := xzOf(t, plain, "--block-size=512") + huge
	for name, content := range map[string]string{"first": huge, "later": several} {
		request := b.request(map[string]string{"Dockerfile": "FROM scratch\nADD x.xz /x/\n", "x.xz": content})
		result, err := b.builder.Build(context.Background(), request)
		if name == "later" && err == nil {
			// What comes after the archive's end is not read.
			require.NotNil(t, result)
			continue
		}
		if err == nil {
			require.Contains(t, strings.Join(b.tree(result), "\n"), "x/x.xz", "it is copied as it is")
		} else {
			require.ErrorContains(t, err, "dictionary", name)
		}
	}
}

func TestALinkedCopyDependsOnNothingBelow(t *testing.T) {
	b := newBench(t)
	b.busybox(nil)
	files := map[string]string{"Dockerfile": "FROM busybox\nCOPY one /first\nCOPY --link a /var/run/x\n", "a": "1", "one": "1"}
	request := b.request(files)
	tree := strings.Join(b.tree(b.build(request)), "\n")
	require.Contains(t, tree, "var/run/x 0644 0:0 1", "no link of a lower layer is followed")
	writeFiles(t, request.Context, map[string]string{"one": "changed"})
	result := b.build(request)
	require.Equal(t, 1, result.Stats.Made)
	require.Equal(t, 1, result.Stats.Cached, "the layer below changed, the linked one did not")
	// Names need the image's accounts, and so what lies below.
	writeFiles(t, request.Context, map[string]string{"Dockerfile": "FROM busybox\nCOPY --link --chown=app a /x\n"})
	require.Contains(t, strings.Join(b.tree(b.build(request)), "\n"), "x 0644 123:456 1")
}

func TestCopyFromKeepsAttributesAndHardLinks(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	packed := tarOf(t, []tar.Header{
		{Typeflag: tar.TypeReg, Name: "a", Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.user.note": "n", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
		{Typeflag: tar.TypeLink, Name: "b", Linkname: "a"},
	}, map[string]string{"a": "content"})
	request := b.request(map[string]string{"Dockerfile": "FROM busybox AS from\nADD p.tar /d/\nFROM scratch\nCOPY --from=from /d /to\n", "p.tar": packed})
	found := b.headersOf(b.build(request))
	require.Equal(t, "n", found["to/a"].PAXRecords["SCHILY.xattr.user.note"])
	require.NotEmpty(t, found["to/a"].PAXRecords["SCHILY.xattr.security.capability"])
	require.Equal(t, "to/a", found["to/b"].Linkname)
}

func privateKey(t testing.TB) []byte {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(key, "test")
	require.NoError(t, err)
	return pem.EncodeToMemory(block)
}

// sshAdd is a base image with ssh-add and what it needs.
const agentProbe = `test -S "$SSH_AUTH_SOCK" && stat -c '%a %u:%g' "$SSH_AUTH_SOCK" && echo "at $SSH_AUTH_SOCK"`

func TestRunSeesAnAgentThatSigns(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	key := privateKey(t)
	keys, err := KeyAgent(key)
	require.NoError(t, err)
	request := b.request(map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=ssh " + agentProbe + "\n" +
		"RUN --mount=type=ssh,id=other,target=/sock,uid=5,gid=6,mode=0640 " + agentProbe + "\nRUN --mount=type=ssh,id=none test -z \"$SSH_AUTH_SOCK\"\n"})
	request.SSH = Agents{"default": keys, "other": keys}
	result := b.build(request)
	require.Contains(t, b.logs(), "600 0:0\nat /run/buildkit/ssh_agent.0")
	require.Contains(t, b.logs(), "640 5:6\nat /sock")
	for _, line := range b.tree(result) {
		require.NotContains(t, line, "ssh_agent")
		require.NotContains(t, line, "sock ")
	}
	writeFiles(t, request.Context, map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=ssh,id=absent,required x\n"})
	_, err = b.builder.Build(context.Background(), request)
	require.ErrorContains(t, err, "--ssh absent")
}

func TestAForwardedAgentOnlySigns(t *testing.T) {
	keys, err := KeyAgent(privateKey(t))
	require.NoError(t, err)
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	server := &agentServer{keys: signingAgent{keys}, listener: listener, slots: make(chan struct{}, 2), open: map[net.Conn]bool{}}
	server.done.Go(server.serve)
	through := dialledAgent(socket)
	listed, err := through.List()
	require.NoError(t, err)
	require.Len(t, listed, 1)
	public, err := ssh.ParsePublicKey(listed[0].Marshal())
	require.NoError(t, err)
	signature, err := through.Sign(public, []byte("data"))
	require.NoError(t, err)
	require.NoError(t, public.Verify([]byte("data"), signature))
	connection, err := net.Dial("unix", socket)
	require.NoError(t, err)
	client := agent.NewClient(connection)
	require.Error(t, client.RemoveAll())
	require.Error(t, client.Lock([]byte("x")))
	_, other, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	require.Error(t, client.Add(agent.AddedKey{PrivateKey: other}))
	server.close() // with the connection open
	listed, err = keys.List()
	require.NoError(t, err)
	require.Len(t, listed, 1)
}

func TestSSHFlag(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(file, privateKey(t), 0o600))
	id, paths, err := ParseSSH("git=" + file)
	require.NoError(t, err)
	require.Equal(t, "git", id)
	opened, err := OpenAgent(paths, "")
	require.NoError(t, err)
	listed, err := opened.List()
	require.NoError(t, err)
	require.Len(t, listed, 1)
	for _, text := range []string{"", "=x", "a=", "a=x,", "a/b", "a b"} {
		_, _, err := ParseSSH(text)
		require.Error(t, err, text)
	}
	_, err = OpenAgent(nil, "")
	require.ErrorContains(t, err, "SSH_AUTH_SOCK")
	_, err = KeyAgent([]byte("canary"))
	require.ErrorContains(t, err, "not a private key")
	require.NotContains(t, err.Error(), "canary")
}

func FuzzParseSSH(f *testing.F) {
	for _, seed := range []string{"default", "a=b,c", "=", "a=", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, paths, err := ParseSSH(text)
		if err == nil {
			require.NotEmpty(t, id)
			require.NotContains(t, paths, "")
		}
	})
}

func TestCachesMayStartFromSomething(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{
		"Dockerfile": "FROM busybox AS from\nRUN mkdir /warm && echo first > /warm/x && chown 7:8 /warm/x\nFROM busybox\n" +
			"RUN --mount=type=cache,target=/c,from=from,source=/warm cat /c/x && stat -c %u:%g /c/x && echo more > /c/y\nRUN --mount=type=cache,target=/c,from=from,source=/warm cat /c/y\n" +
			"RUN --mount=type=cache,id=n,target=/n,from=tree,source=sub cat /n/f\n",
	})
	request.Contexts = map[string]string{"tree": b.context(map[string]string{"sub/f": "of the context\n"})}
	b.build(request)
	require.Contains(t, b.logs(), "first\n7:8\nmore\nof the context")
}

func TestATmpfsIsInMemoryAndLimited(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	result := b.build(b.request(map[string]string{
		"Dockerfile": "FROM busybox\nRUN --mount=type=tmpfs,target=/t,size=1m mount | grep ' /t ' && ! dd if=/dev/zero of=/t/x bs=64k count=32 2>/dev/null && echo full\n",
	}))
	require.Contains(t, b.logs(), "tmpfs on /t type tmpfs")
	require.Contains(t, b.logs(), "size=1024k")
	require.Contains(t, b.logs(), "full")
	for _, line := range b.tree(result) {
		require.False(t, strings.HasPrefix(line, "t/"), line)
	}
}

func TestTheStageHasContextsSecretsAndKeys(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	kind := &Kind{Builder: b.builder}
	files := map[string]string{
		"Dockerfile": "FROM busybox\nCOPY --from=docs x /\nRUN --mount=type=secret,id=npm cat /run/secrets/npm > /s\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo signed > /k || echo none > /k\n", "docs/x": "doc",
	}
	spec := pipeline.BuildSpec{Push: "x", Contexts: map[string]string{"docs": "docs"}, Secrets: map[string]string{"npm": "NPM_TOKEN"}, SSH: map[string]string{"default": "KEY"}}
	attempt, _ := b.attempt(files, spec)
	attempt.Env = map[string]string{"NPM_TOKEN": "token", "KEY": string(privateKey(t))}
	outputs, err := kind.Run(context.Background(), attempt)
	require.NoError(t, err)
	require.NotEmpty(t, outputs[pipeline.OutputDigest])

	attempt.Event.Trust = event.Fork
	request, err := requestOf(attempt)
	require.NoError(t, err)
	require.Empty(t, request.SSH, "a fork signs with nobody's key")
	require.True(t, request.Isolated)

	for _, location := range []string{"../outside", "/etc", "oci-layout:///var"} {
		spec.Contexts = map[string]string{"docs": location}
		attempt, _ = b.attempt(files, spec)
		_, err = kind.Run(context.Background(), attempt)
		require.Error(t, err, location)
	}
	spec.Contexts, spec.Secrets, spec.SSH = nil, nil, map[string]string{"default": "ABSENT"}
	attempt, _ = b.attempt(files, spec)
	_, err = kind.Run(context.Background(), attempt)
	require.ErrorContains(t, err, "ABSENT")
}

func TestRefusedFlagsNameTheirLine(t *testing.T) {
	b := newBench(t)
	for _, line := range []string{"RUN --security=insecure x", "RUN --device=vendor.com/d=x y"} {
		_, err := b.builder.Build(context.Background(), b.request(map[string]string{"Dockerfile": "FROM scratch\n" + line + "\n"}))
		require.ErrorContains(t, err, "Dockerfile:2:5", line)
	}
}

func FuzzUnpackedContext(f *testing.F) {
	f.Add([]byte(tarOf(f, []tar.Header{{Typeflag: tar.TypeReg, Name: "Dockerfile", Mode: 0o644}, {Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/etc"}, {Typeflag: tar.TypeReg, Name: "l/x"}}, nil)))
	f.Add([]byte("FROM scratch\n"))
	f.Add([]byte{0x1f, 0x8b, 8})
	f.Add([]byte{0xfd, '7', 'z', 'X', 'Z', 0, 0, 4})
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		scratch := filepath.Join(outer, "scratch")
		require.NoError(t, os.Mkdir(scratch, 0o755))
		set := newContextSet(Request{}, scratch)
		tree, _, err := set.stream(context.Background(), bytes.NewReader(data))
		if err == nil {
			require.NoError(t, tree.Close())
		}
		require.NoError(t, set.Close())
		left, err := os.ReadDir(outer)
		require.NoError(t, err)
		require.Len(t, left, 1, "something is outside the context")
	})
}
