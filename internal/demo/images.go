package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/tidegate-ci/tidegate/internal/baseimage"
)

// PushGolang makes golang:1.26 from this machine's Go toolchain and pushes it
// to a registry that is set as a mirror of Docker Hub: the example's Dockerfile
// is the one that pulls the public image where there is a network.
func PushGolang(ctx context.Context, registry string) error {
	output, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("find this machine's Go: %w", err)
	}
	image, err := baseimage.Golang(ctx, imageCache(), strings.TrimSpace(string(output)))
	if err != nil {
		return fmt.Errorf("make the image golang:1.26: %w", err)
	}
	return pushBase(ctx, registry, "golang:1.26", image)
}

// PushBusybox does the same for busybox.
func PushBusybox(ctx context.Context, registry string) error {
	image, err := baseimage.Busybox(ctx, imageCache())
	if err != nil {
		return fmt.Errorf("make the image busybox: %w", err)
	}
	return pushBase(ctx, registry, "busybox:latest", image)
}

func pushBase(ctx context.Context, registry, nameAndTag string, image v1.Image) error {
	reference, err := name.ParseReference(registry + "/library/" + nameAndTag)
	if err != nil {
		return err
	}
	if err := remote.Write(reference, image, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push %s: %w", reference, err)
	}
	return nil
}

// imageCache is kept between demos and tests: making the Go image takes seconds.
func imageCache() string {
	if dir, err := os.UserCacheDir(); err == nil {
		return filepath.Join(dir, "tidegate", "baseimages")
	}
	return filepath.Join(os.TempDir(), "tidegate-baseimages")
}
