package image

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// What the configuration of a base image says is what some stranger wrote.
func TestHostileConfigurationsOfBaseImages(t *testing.T) {
	b := newBench(t).withRunc()
	outside := filepath.Join(t.TempDir(), "outside")
	for name, test := range map[string]struct {
		change func(*v1.Config)
		err    string // empty: the build works
	}{
		"user of three fields":         {func(c *v1.Config) { c.User = "0:0:0" }, "0:0"},
		"user that is a path":          {func(c *v1.Config) { c.User = "../../etc/passwd" }, "is not in the image"},
		"negative user":                {func(c *v1.Config) { c.User = "-1" }, "is not in the image"},
		"user out of range":            {func(c *v1.Config) { c.User = "4294967295" }, "is not in the image"},
		"user with a zero byte":        {func(c *v1.Config) { c.User = "root\x00" }, "zero byte in User"},
		"variable with a zero byte":    {func(c *v1.Config) { c.Env = append(c.Env, "A=\x00") }, "zero byte in Env"},
		"variable without equals sign": {func(c *v1.Config) { c.Env = append(c.Env, "LONELY", "=nameless", "") }, ""},
		"variable of several lines":    {func(c *v1.Config) { c.Env = append(c.Env, "A=b\nLD_PRELOAD=/x") }, ""},
		"working directory that climbs": {func(c *v1.Config) {
			c.WorkingDir = strings.Repeat("../", 20) + outside[1:]
		}, ""},
		"working directory of open files": {func(c *v1.Config) { c.WorkingDir = "/proc/self/fd/7" }, "belongs to the container"},
		"relative working directory":      {func(c *v1.Config) { c.WorkingDir = "here" }, ""},
		"volumes everywhere":              {func(c *v1.Config) { c.Volumes = map[string]struct{}{"/": {}, "../..": {}, "/proc": {}} }, ""},
		"a million words": {func(c *v1.Config) {
			c.Entrypoint = make([]string, 1e6)
		}, "more than"},
		"ONBUILD that mounts the host": {func(c *v1.Config) {
			c.OnBuild = []string{"RUN --mount=type=bind,source=../../../../etc,target=/m ls /m/shadow"}
		}, "is not in the build context"},
		"ONBUILD that is privileged": {func(c *v1.Config) { c.OnBuild = []string{"RUN --security=insecure true"} }, "--security"},
	} {
		t.Run(name, func(t *testing.T) {
			b.busybox(test.change)
			request := b.request(map[string]string{"Dockerfile": "FROM busybox\nRUN echo ran >/ran\n"})
			request.NoCache = true
			_, err := b.builder.Build(context.Background(), request)
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.NoDirExists(t, outside)
		})
	}
}

// bomb is a layer of zeros whose digests are all honest.
func bomb(t *testing.T, size int64) v1.Layer {
	t.Helper()
	var packed bytes.Buffer
	encoder, err := zstd.NewWriter(&packed)
	require.NoError(t, err)
	w := tar.NewWriter(encoder)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: size}))
	_, err = io.Copy(w, io.LimitReader(zeros{}, size))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, encoder.Close())
	made, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil }, tarball.WithMediaType(types.OCILayerZStd))
	require.NoError(t, err)
	return made
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestABaseImageThatIsABombIsFoundOut(t *testing.T) {
	b := newBench(t).withRunc()
	image, err := mutate.AppendLayers(empty.Image, bomb(t, 400<<20))
	require.NoError(t, err)
	file, err := image.ConfigFile()
	require.NoError(t, err)
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", HostPlatform().Architecture
	image, err = mutate.ConfigFile(image, file)
	require.NoError(t, err)
	ref, err := name.ParseReference(b.peer.host() + "/library/bomb:latest")
	require.NoError(t, err)
	require.NoError(t, remote.Write(ref, image))
	for _, instruction := range []string{"COPY Dockerfile /etc/", "RUN true"} {
		_, err = b.builder.Build(context.Background(), b.request(map[string]string{"Dockerfile": "FROM bomb\n" + instruction + "\n"}))
		require.ErrorContains(t, err, "decompression bomb", instruction)
	}
}

// A build that is killed outright while a command reads a secret leaves it
// nowhere; its container and mounts are gone when the next one has begun.
func TestAKilledBuildLeavesNoSecretAndNoMount(t *testing.T) {
	b := newBench(t)
	b.busybox(nil)
	dir, err := os.MkdirTemp("", "tidegate-secret-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	marker := fmt.Sprintf("600.77%d", os.Getpid())
	writeFiles(t, filepath.Join(dir, "context"), map[string]string{
		"Dockerfile": "FROM busybox\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,env=TOKEN test -s /run/secrets/s && test -n \"$TOKEN\" && echo running && sleep " + marker + "\n",
	})
	const canary = "canary-that-is-killed-38c1"
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "TIDEGATE_TEST_BUILD="+dir, "TIDEGATE_TEST_SECRET="+canary, "TIDEGATE_TEST_REGISTRY="+b.peer.host())
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	said := make([]byte, 200)
	n, err := out.Read(said)
	require.NoError(t, err)
	require.Equal(t, "running\n", string(said[:n]))
	require.NoError(t, child.Process.Kill())
	_ = child.Wait()                                                                   // killed
	found, _ := exec.Command("grep", "-rlF", canary, dir, "/dev/shm", "/run").Output() // finding nothing is status 1
	require.Empty(t, string(found))

	builder, err := NewLocal(filepath.Join(dir, "cache"), b.builder.Registry, store.Options{})
	require.NoError(t, err)
	writeFiles(t, filepath.Join(dir, "context"), map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"})
	_, err = builder.Build(context.Background(), Request{Context: filepath.Join(dir, "context")})
	require.NoError(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), dir)
	require.Eventually(t, func() bool {
		return exec.Command("sh", "-c", "! ps -eo args | grep -qx 'sleep "+marker+"'").Run() == nil
	}, 10*time.Second, 20*time.Millisecond)
}

// What decides an image without making a layer decides it all the same: a cached
// build is not the one before.
func TestCachedBuildsForgetNothingOfTheConfiguration(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	seen := map[string]string{}
	for _, last := range []string{
		"", "HEALTHCHECK CMD true", "HEALTHCHECK CMD false", "HEALTHCHECK --interval=5s CMD true", "HEALTHCHECK NONE", "ONBUILD RUN true", "ONBUILD RUN false",
		"STOPSIGNAL 9", "EXPOSE 80", "VOLUME /v", "SHELL [\"/bin/sh\", \"-ec\"]", "USER 5", "LABEL a=b", "ENTRYPOINT [\"a\"]", "CMD [\"a\"]", "ENV A=b",
	} {
		request := b.request(map[string]string{"Dockerfile": "FROM busybox\nRUN echo same >/same\n" + last + "\n"})
		result := b.build(request)
		require.Empty(t, seen[result.Digest.String()], "%q gives what %q gave", last, seen[result.Digest.String()])
		seen[result.Digest.String()] = "without " + last
		request.Codec = "zstd"
		other := b.build(request)
		require.NotEqual(t, result.Digest, other.Digest, "the codec is in the key")
	}
	// The triggers of a base image are its child's steps.
	layers := map[string]bool{}
	for _, trigger := range []string{"RUN echo one >/made", "RUN echo two >/made"} {
		b.busybox(func(c *v1.Config) { c.OnBuild = []string{trigger} })
		b.builder.Registry = b.newBuilder(t.TempDir()).Registry // names are resolved anew
		image := b.pulled(b.build(b.request(map[string]string{"Dockerfile": "FROM busybox\n"})))
		digest, err := image.Digest()
		require.NoError(t, err)
		layers[digest.String()] = true
	}
	require.Len(t, layers, 2)
}
