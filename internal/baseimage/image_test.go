package baseimage

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
	"github.com/tidegate-ci/tidegate/stages/sandbox/oci"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

type oneImage struct{ image v1.Image }

func (o oneImage) Image(context.Context, string) (v1.Image, error) { return o.image, nil }

func run(t *testing.T, image v1.Image, args ...string) string {
	t.Helper()
	ctx := context.Background()
	r, err := oci.Find(ctx, oci.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	store, err := rootfs.Open(t.TempDir())
	require.NoError(t, err)
	var out bytes.Buffer
	box := &oci.Sandbox{Runtime: r, Store: store, Images: oneImage{image}, Reference: "test"}
	err = box.Run(ctx, sandbox.Command{Args: args, Stdout: &out, Stderr: &out})
	require.NoError(t, err, out.String())
	return out.String()
}

func TestBusyboxRuns(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	image, err := Busybox(ctx, dir)
	require.NoError(t, err)
	require.NoError(t, validate.Image(image))
	require.Equal(t, "65534\n", run(t, image, "sh", "-c", "id -u nobody && test -w /tmp && /usr/bin/env true"))

	first, err := image.Digest()
	require.NoError(t, err)
	again, err := Busybox(ctx, t.TempDir())
	require.NoError(t, err)
	second, err := again.Digest()
	require.NoError(t, err)
	require.Equal(t, first, second, "the same tools are the same image")
}

func TestADamagedCacheIsMadeAgain(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	_, err := Busybox(ctx, dir)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.NoError(t, os.Truncate(files[0], 10))
	image, err := Busybox(ctx, dir)
	require.NoError(t, err)
	require.NoError(t, validate.Image(image))
}

func TestStatic(t *testing.T) {
	ctx := context.Background()
	image, err := Static(ctx, t.TempDir(), "/bin/busybox", StaticOptions{Target: "/opt/tools/busybox", User: "nobody"})
	require.NoError(t, err)
	require.NoError(t, validate.Image(image))
	require.Equal(t, "65534\n", run(t, image, "/opt/tools/busybox", "id", "-u"))
	_, err = Static(ctx, t.TempDir(), "/bin/bash", StaticOptions{})
	require.ErrorContains(t, err, "dynamic loader")
}

func TestGolangBuildsAndTests(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	image, err := Golang(ctx, dir, runtime.GOROOT()) //nolint:staticcheck // SA1019: a test runs where it was built
	require.NoError(t, err)
	// The layers are read once, and checked against their digests, when the
	// container's root filesystem is made of them.
	require.NoError(t, validate.Image(image, validate.Fast))
	// Vetting a package without imports proves the tool at no cost; vetting the
	// test too would read the whole of the standard library below "testing" again.
	out := run(t, image, "sh", "-ec", `
mkdir /src && cd /src
printf 'module example.com/m\ngo 1.26\n' >go.mod
printf 'package m\n\nfunc Two() int { return 2 }\n' >m.go
go vet .
printf 'package m\n\nimport "testing"\n\nfunc TestTwo(t *testing.T) { if Two() != 2 { t.Fail() } }\n' >m_test.go
go test -vet=off .
`)
	require.Contains(t, out, "ok  \texample.com/m")
	second, err := Golang(ctx, dir, runtime.GOROOT()) //nolint:staticcheck // SA1019: a test runs where it was built
	require.NoError(t, err)
	a, err := image.Digest()
	require.NoError(t, err)
	b, err := second.Digest()
	require.NoError(t, err)
	require.Equal(t, a, b)
}
