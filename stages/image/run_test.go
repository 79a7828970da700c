package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/sandbox/oci"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

// withRunc gives the builder a real runtime and root filesystems.
func (b *bench) withRunc() *bench {
	dir, err := os.MkdirTemp("", "tidegate-image-test-")
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, os.RemoveAll(dir)) })
	b.builder.Rootfs = sync.OnceValues(func() (*rootfs.Store, error) { return rootfs.Open(filepath.Join(dir, "rootfs")) })
	runtime := sync.OnceValues(func() (*oci.Runtime, error) {
		return oci.Find(context.Background(), oci.Options{Dir: filepath.Join(dir, "oci")})
	})
	b.builder.Runner = func(context.Context) (Runner, error) { return runtime() }
	return b
}

func layerOf(t testing.TB, headers []tar.Header, contents map[string][]byte) v1.Layer {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, header := range headers {
		header.Size = int64(len(contents[header.Name]))
		require.NoError(t, w.WriteHeader(&header))
		_, err := w.Write(contents[header.Name])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	made, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buffer.Bytes())), nil })
	require.NoError(t, err)
	return made
}

// busybox pushes a small base image as library/busybox.
func (b *bench) busybox(change func(*v1.Config)) {
	b.Helper()
	path, err := exec.LookPath("busybox")
	require.NoError(b, err, "install busybox-static")
	binary, err := os.ReadFile(path)
	require.NoError(b, err)
	list, err := exec.Command(path, "--list").Output()
	require.NoError(b, err)
	headers := []tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644},
		{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644},
		{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777},
		{Typeflag: tar.TypeDir, Name: "root/", Mode: 0o700},
		{Typeflag: tar.TypeDir, Name: "run/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "var/", Mode: 0o755},
		{Typeflag: tar.TypeSymlink, Name: "var/run", Linkname: "/run"},
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			headers = append(headers, tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"})
		}
	}
	image, err := mutate.AppendLayers(empty.Image, layerOf(b, headers, map[string][]byte{
		"bin/busybox": binary,
		"etc/passwd":  []byte("root:x:0:0:root:/root:/bin/sh\napp:x:123:456:app:/home/app:/bin/sh\n"),
		"etc/group":   []byte("root:x:0:\nstaff:x:50:\napp:x:456:\n"),
	}))
	require.NoError(b, err)
	file, err := image.ConfigFile()
	require.NoError(b, err)
	config := *file.DeepCopy()
	config.OS, config.Architecture = "linux", HostPlatform().Architecture
	config.Config.Env = []string{"PATH=/bin"}
	if change != nil {
		change(&config.Config)
	}
	image, err = mutate.ConfigFile(image, &config)
	require.NoError(b, err)
	ref, err := name.ParseReference(b.peer.host() + "/library/busybox:latest")
	require.NoError(b, err)
	require.NoError(b, remote.Write(ref, image))
}

func (b *bench) logs() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lines []string
	for _, e := range b.events {
		if e.Kind == "log" {
			lines = append(lines, e.Text)
		}
	}
	return strings.Join(lines, "\n")
}

func TestRunMakesALayerOfWhatItChanged(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{
		"Dockerfile": `FROM busybox AS build
ARG VERSION=1
WORKDIR /src
COPY main.txt .
RUN --mount=type=cache,target=/cache echo "v$VERSION" > out && cat main.txt >> out && echo kept >> /cache/log && cat /cache/log
RUN rm main.txt && id -u

FROM scratch
COPY --from=build /src/ /app/
`,
		"main.txt": "content\n",
	})
	request.Args = map[string]string{"VERSION": "2"}
	result := b.build(request)
	require.Equal(t, []string{"app/ 0755 0:0", "app/out 0644 0:0 v2\ncontent\n"}, b.tree(result))
	require.Equal(t, "kept\n0", b.logs())

	again := b.build(request)
	require.Equal(t, result.Digest, again.Digest)
	require.Equal(t, 0, again.Stats.Made, "all steps are cached")

	request.NoCache = true
	b.events = nil
	b.build(request)
	require.Equal(t, "kept\nkept\n0", b.logs(), "the cache mount outlives the build")
}

func TestFailingRunShowsWhereAndWhat(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	request := b.request(map[string]string{"Dockerfile": "FROM busybox\nRUN echo before && \\\n    echo broken >&2 && exit 7\n"})
	_, err := b.builder.Build(context.Background(), request)
	require.Error(t, err)
	require.Equal(t, pipeline.CauseFailed, pipeline.CauseOf(err))
	for _, want := range []string{"Dockerfile:2:1", "exit status 7", ">    2 | RUN echo before", "broken", "before"} {
		require.Contains(t, err.Error(), want)
	}
}
