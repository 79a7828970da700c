package baseimage

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

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

func TestLayersAreMadeSideBySide(t *testing.T) {
	for range 20 { // they do not meet each time
		dir := t.TempDir()
		var making errgroup.Group
		for range 8 {
			making.Go(func() error {
				_, err := Static(t.Context(), dir, "/bin/busybox", StaticOptions{})
				return err
			})
		}
		require.NoError(t, making.Wait())
		left, err := filepath.Glob(filepath.Join(dir, "making-*"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}
