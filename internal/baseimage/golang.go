package baseimage

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// goTarget is where the image has the toolchain: the place its own installer
// uses, and the official image too.
const goTarget = "usr/local/go"

// Golang makes an image that builds and tests Go programs without cgo, from the
// toolchain at goroot, on top of the busybox image. Layers are kept in dir by Go
// version, so that making it again is instant.
func Golang(ctx context.Context, dir, goroot string) (v1.Image, error) {
	base, err := busyboxLayer(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("make a Go image: %w", err)
	}
	version, err := readVersion(goroot)
	if err != nil {
		return nil, fmt.Errorf("make a Go image: %s is no Go toolchain: %w", goroot, err)
	}
	digest := sha256.Sum256(append([]byte(goroot+"\x00"+runtime.GOARCH+"\x00"), version...))
	tools, err := cachedLayer(ctx, dir, "golang-1-"+hex.EncodeToString(digest[:]), func(a *archive) error {
		return fillGo(a, goroot)
	})
	if err != nil {
		return nil, fmt.Errorf("make a Go image: %w", err)
	}
	return assemble(v1.Config{
		Env: []string{
			"PATH=/go/bin:/" + goTarget + "/bin:" + systemPath,
			"GOPATH=/go", "GOTOOLCHAIN=local", "CGO_ENABLED=0",
			// The image has no git to ask for a revision.
			"GOFLAGS=-buildvcs=false",
		},
		WorkingDir: "/go", Cmd: []string{"sh"},
	}, base, tools)
}

func readVersion(goroot string) ([]byte, error) {
	file, err := os.Open(filepath.Join(goroot, "VERSION"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, 4096))
}

func fillGo(a *archive, goroot string) error {
	for _, directory := range []string{"go", "go/bin", "go/src"} {
		if err := a.directory(directory, 0o777); err != nil {
			return err
		}
	}
	return filepath.WalkDir(goroot, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(goroot, file)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if !wantedGo(name, entry.IsDir()) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		target := path.Join(goTarget, name)
		switch {
		case entry.IsDir():
			return a.directory(target, 0o755)
		case entry.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(file)
			if err != nil {
				return err
			}
			return a.symlink(target, link)
		case !entry.Type().IsRegular():
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if info.Mode()&0o111 != 0 {
			mode = 0o755
		}
		err = a.file(target, file, mode)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the toolchain changed while it was read: %w", err)
		}
		return err
	})
}

// wantedGo tells which parts of a toolchain it takes to build and test programs:
// the commands, the compiler's tools and the standard library's sources.
func wantedGo(name string, dir bool) bool {
	top, rest, _ := strings.Cut(name, "/")
	base := path.Base(name)
	switch top {
	case ".", "bin", "VERSION", "go.env":
		return true
	case "lib":
		return name == "lib" || strings.HasPrefix(rest, "time")
	case "pkg":
		if name == "pkg" || rest == "tool" || rest == "include" || strings.HasPrefix(rest, "include/") {
			return true
		}
		own := "tool/linux_" + runtime.GOARCH
		return rest == own || strings.HasPrefix(rest, own+"/")
	case "src":
		if dir {
			return base != "testdata" && rest != "cmd"
		}
		return !strings.HasSuffix(base, "_test.go") && !strings.HasSuffix(base, ".bash") && !strings.HasSuffix(base, ".bat") && !strings.HasSuffix(base, ".rc")
	}
	return false
}

func regular(name string, mode, size int64) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size}
}
