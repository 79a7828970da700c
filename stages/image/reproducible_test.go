package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// node is a file of a random tree.
type node struct {
	name    string
	content []byte
	link    string
	mode    os.FileMode
	at      int64
}

func drawTree(t *rapid.T) []node {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-dA-D0-2._ü-]{1,6}`), 1, 12, rapid.ID[string]).Draw(t, "names")
	names = slices.DeleteFunc(names, func(n string) bool { return strings.Trim(n, ".") == "" || strings.HasPrefix(n, ".wh.") })
	var all []node
	dirs := []string{""}
	for _, name := range names {
		at := filepath.Join(rapid.SampledFrom(dirs).Draw(t, "directory"), name)
		n := node{name: at, mode: rapid.SampledFrom([]os.FileMode{0o600, 0o644, 0o755, 0o700, 0o664}).Draw(t, "mode")}
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			dirs = append(dirs, at)
			n.mode |= os.ModeDir | 0o700
		case 1:
			n.link = rapid.SampledFrom([]string{"a", "../b", "/etc/x", "."}).Draw(t, "link")
		case 2:
			// Larger than the unit of parallel compression.
			n.content = bytes.Repeat([]byte(at), 1+rapid.IntRange(1<<20, 3<<20).Draw(t, "size")/len(at))
		default:
			n.content = []byte(rapid.StringN(0, 200, -1).Draw(t, "content"))
		}
		n.at = rapid.Int64Range(1, 2_000_000_000).Draw(t, "time")
		all = append(all, n)
	}
	return all
}

// plant makes a tree, in an order and with times of its own.
func plant(t require.TestingT, dir string, nodes []node, seed uint64) {
	require.NoError(t, os.MkdirAll(dir, 0o755)) // the tree may be empty
	random := rand.New(rand.NewPCG(seed, 2))
	nodes = slices.Clone(nodes)
	random.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	for _, n := range nodes {
		at := filepath.Join(dir, n.name)
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
		switch {
		case n.mode.IsDir():
			require.NoError(t, os.MkdirAll(at, 0o755))
		case n.link != "":
			require.NoError(t, os.Symlink(n.link, at))
		default:
			require.NoError(t, os.WriteFile(at, n.content, 0o600))
		}
	}
	// Modes are input, times are not.
	for _, n := range nodes {
		if n.link != "" {
			continue
		}
		at := filepath.Join(dir, n.name)
		require.NoError(t, os.Chmod(at, n.mode.Perm()))
		when := time.Unix(n.at+random.Int64N(1_000_000), random.Int64N(1e9))
		require.NoError(t, os.Chtimes(at, when, when))
	}
}

func TestTheSameFilesGiveTheSameDigest(t *testing.T) {
	cores := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(cores)
	client := registry.New(registry.Options{})
	rapid.Check(t, func(t *rapid.T) {
		nodes := drawTree(t)
		codec := rapid.SampledFrom([]layer.Codec{layer.Gzip, layer.Zstd}).Draw(t, "codec")
		digests := map[string]bool{}
		for i, procs := range []int{1, 8} {
			dir, err := os.MkdirTemp("", strings.Repeat("x", 1+i*10))
			require.NoError(t, err)
			plant(t, filepath.Join(dir, "context"), nodes, uint64(i))
			kept, err := store.Open(filepath.Join(dir, "store"), store.Options{})
			require.NoError(t, err)
			runtime.GOMAXPROCS(procs)
			result, err := (&Builder{Store: kept, Registry: client}).Build(context.Background(), Request{
				Context: filepath.Join(dir, "context"), Dockerfile: filepath.Join(dir, "Dockerfile"), Codec: codec,
				DockerfileData: []byte("FROM scratch\nCOPY . /all/\nWORKDIR /made/by/workdir\nCOPY . .\n"),
			})
			require.NoError(t, errors.Join(err, os.RemoveAll(dir)))
			digests[result.Digest.String()] = true
		}
		if len(digests) != 1 {
			t.Fatalf("several digests of one tree: %v", digests)
		}
	})
}

// buildElsewhere builds in a process of its own and prints the digest.
func buildElsewhere(dir string) int {
	mask, err := strconv.ParseInt(os.Getenv("TIDEGATE_TEST_UMASK"), 8, 32)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	unix.Umask(int(mask))
	client := registry.New(registry.Options{Mirrors: map[string][]string{"docker.io": {os.Getenv("TIDEGATE_TEST_REGISTRY")}}})
	builder, err := NewLocal(filepath.Join(dir, "cache"), client, store.Options{})
	var result *Result
	if err == nil {
		request := Request{Context: filepath.Join(dir, "context")}
		if epoch := os.Getenv("TIDEGATE_TEST_EPOCH"); epoch != "" {
			seconds, _ := strconv.ParseInt(epoch, 10, 64)
			request.Epoch = time.Unix(seconds, 0)
		}
		result, err = builder.Build(context.Background(), request)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(result.Digest)
	return 0
}

func TestAnyMachineGivesTheSameDigest(t *testing.T) {
	b := newBench(t)
	b.busybox(nil)
	files := []node{
		{name: "Dockerfile", mode: 0o644, content: []byte(`FROM busybox
COPY . /src/
WORKDIR /work
RUN mkdir -p z/y a; for f in z/y/3 a/1 b 2; do date > $f; done; rm a/1; ln -s b c; chown 12:34 2; \
    sed -i s/.*/same/ z/y/3 2 b && ln b d && chmod 4755 b && touch -d @981158400 z/y/old && rm -r /root && env > e && hostname >> e && umask >> e
RUN true
`)},
		{name: "b/file", mode: 0o640, content: []byte("content")}, {name: "a", mode: 0o755, content: []byte("x")}, {name: "l", link: "a"},
	}
	root, err := os.MkdirTemp("", "tidegate-reproduced-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	build := func(name string, env ...string) string {
		dir := filepath.Join(root, name)
		plant(t, filepath.Join(dir, "context"), files, uint64(len(name)))
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), append([]string{"TIDEGATE_TEST_ELSEWHERE=" + dir, "TIDEGATE_TEST_REGISTRY=" + b.peer.host()}, env...)...)
		child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := child.CombinedOutput()
		require.NoError(t, err, string(out))
		require.True(t, strings.HasPrefix(string(out), "sha256:"), string(out))
		return string(out)
	}
	first := build("one", "TIDEGATE_TEST_UMASK=022", "GOMAXPROCS=1", "TZ=UTC", "LANG=C")
	second := build("another/path/that/is/longer", "TIDEGATE_TEST_UMASK=077", "GOMAXPROCS=8", "TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8", "LC_ALL=tr_TR.UTF-8", "HOME=/nowhere", "USER=somebody")
	require.Equal(t, first, second)
	third := build("later", "TIDEGATE_TEST_UMASK=027", "TIDEGATE_TEST_EPOCH=1700000000")
	require.NotEqual(t, first, third)
	require.Equal(t, third, build("later again", "TIDEGATE_TEST_UMASK=000", "TIDEGATE_TEST_EPOCH=1700000000", "GOMAXPROCS=3"))
}

func TestNothingOfTheSandboxIsInALayer(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	result := b.build(b.request(map[string]string{"Dockerfile": "FROM busybox\nRUN cat /etc/hosts /etc/resolv.conf && ls /proc /sys /dev >/dev/null\nRUN --mount=type=cache,target=/made/up --mount=type=tmpfs,target=/other true\n"}))
	image := b.pulled(result)
	layers, err := image.Layers()
	require.NoError(t, err)
	require.Len(t, layers, 1, "steps that change nothing make no layer")
}

// headers are the entries of the image's last layer.
func (b *bench) headers(result *Result) (all []*tar.Header) {
	layers, err := b.pulled(result).Layers()
	require.NoError(b, err)
	stream, err := layers[len(layers)-1].Uncompressed()
	require.NoError(b, err)
	defer stream.Close()
	reader := tar.NewReader(stream)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(b, err)
		all = append(all, header)
	}
}

func TestTimesOfARunAreClamped(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{"Dockerfile": "FROM busybox\nRUN touch /now && touch -d @1600000000 /old\n"})
	request.Epoch = time.Unix(1_700_000_000, 0)
	times := map[string]int64{}
	for _, header := range b.headers(b.build(request)) {
		times[header.Name] = header.ModTime.Unix()
	}
	require.Equal(t, int64(1_700_000_000), times["now"])
	require.Equal(t, int64(1_600_000_000), times["old"], "what is older than the epoch keeps its time")
}
