// Package baseimage makes base images out of what this machine has, for where
// no registry can be reached: busybox, the Go toolchain, one static program.
package baseimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// busyboxPlaces are where distributions put a busybox.
var busyboxPlaces = []string{"/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"}

const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Busybox makes an image with a shell and the usual small tools, from this
// machine's static busybox. Its layer is kept in dir.
func Busybox(ctx context.Context, dir string) (v1.Image, error) {
	layer, err := busyboxLayer(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("make a busybox image: %w", err)
	}
	return assemble(v1.Config{Env: []string{"PATH=" + systemPath}, Cmd: []string{"sh"}}, layer)
}

func busyboxLayer(ctx context.Context, dir string) (v1.Layer, error) {
	program := ""
	for _, place := range busyboxPlaces {
		if isStatic(place) == nil {
			program = place
			break
		}
	}
	if program == "" {
		return nil, fmt.Errorf("no static busybox at %s: install one (Debian: apt-get install busybox-static)", strings.Join(busyboxPlaces, ", "))
	}
	digest, err := fileDigest(program)
	if err != nil {
		return nil, err
	}
	list := exec.CommandContext(ctx, program, "--list")
	list.Env = []string{}
	names, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the tools of %s: %w", program, err)
	}
	return cachedLayer(ctx, dir, "busybox-1-"+digest, func(a *archive) error {
		return fillBusybox(a, program, strings.Fields(string(names)))
	})
}

// accounts are the files of /etc that a base image is expected to have.
var accounts = []struct{ name, content string }{
	{"etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"},
	{"etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"},
	{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"},
}

func fillBusybox(a *archive, program string, tools []string) error {
	for _, directory := range []struct {
		name string
		mode int64
	}{
		{"bin", 0o755}, {"etc", 0o755}, {"home", 0o755}, {"root", 0o700}, {"tmp", 0o1777}, {"usr", 0o755}, {"usr/bin", 0o755},
		{"usr/local", 0o755}, {"usr/local/bin", 0o755}, {"var", 0o755}, {"var/tmp", 0o1777},
	} {
		if err := a.directory(directory.name, directory.mode); err != nil {
			return err
		}
	}
	if err := a.file("bin/busybox", program, 0o755); err != nil {
		return err
	}
	slices.Sort(tools)
	for _, tool := range slices.Compact(tools) {
		if tool == "busybox" || tool != path.Base(tool) {
			continue
		}
		if err := a.symlink("bin/"+tool, "busybox"); err != nil {
			return err
		}
	}
	if err := a.symlink("usr/bin/env", "../../bin/busybox"); err != nil {
		return err
	}
	return writeAccounts(a)
}

func writeAccounts(a *archive) error {
	for _, account := range accounts {
		header := regular(account.name, 0o644, int64(len(account.content)))
		if err := a.write(header, strings.NewReader(account.content)); err != nil {
			return err
		}
	}
	return nil
}

// StaticOptions shape the image of one program.
type StaticOptions struct {
	// Target is where the program lies in the image; empty means "/" and its own name.
	Target string
	// User as in a Dockerfile; empty means root.
	User string
	Env  []string
	// Args follow the program in the entrypoint.
	Args []string
}

// Static makes an image of one statically linked program, which is its
// entrypoint. Its layer is kept in dir.
func Static(ctx context.Context, dir, program string, options StaticOptions) (v1.Image, error) {
	if err := isStatic(program); err != nil {
		return nil, fmt.Errorf("make an image of %s: %w", program, err)
	}
	digest, err := fileDigest(program)
	if err != nil {
		return nil, fmt.Errorf("make an image of %s: %w", program, err)
	}
	target := options.Target
	if target == "" {
		target = path.Base(program)
	}
	target = strings.TrimPrefix(path.Clean("/"+target), "/")
	named := sha256.Sum256([]byte(target))
	layer, err := cachedLayer(ctx, dir, "static-1-"+hex.EncodeToString(named[:8])+"-"+digest, func(a *archive) error {
		return fillStatic(a, program, target)
	})
	if err != nil {
		return nil, fmt.Errorf("make an image of %s: %w", program, err)
	}
	return assemble(v1.Config{
		Env: append([]string{"PATH=" + systemPath}, options.Env...), User: options.User,
		Entrypoint: append([]string{"/" + target}, options.Args...),
	}, layer)
}

func fillStatic(a *archive, program, target string) error {
	var parents []string
	for parent := path.Dir(target); parent != "."; parent = path.Dir(parent) {
		parents = append(parents, parent)
	}
	for _, parent := range slices.Backward(parents) {
		if parent == "etc" || parent == "tmp" {
			continue
		}
		if err := a.directory(parent, 0o755); err != nil {
			return err
		}
	}
	if err := errors.Join(a.directory("etc", 0o755), a.directory("tmp", 0o1777)); err != nil {
		return err
	}
	if err := writeAccounts(a); err != nil {
		return err
	}
	return a.file(target, program, 0o755)
}

// assemble makes an OCI image for this machine's platform.
func assemble(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	image, err := mutate.AppendLayers(image, layers...)
	if err != nil {
		return nil, fmt.Errorf("assemble an image: %w", err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("assemble an image: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return nil, fmt.Errorf("assemble an image: %w", err)
	}
	return image, nil
}

// isStatic returns an error unless program is an ELF executable that needs no
// dynamic loader: an image of one program has none.
func isStatic(program string) error {
	file, err := elf.Open(program)
	if err != nil {
		return err
	}
	defer file.Close()
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			loader, _ := io.ReadAll(io.LimitReader(segment.Open(), 256))
			return fmt.Errorf("it needs the dynamic loader %s: link it statically (Go: CGO_ENABLED=0)", bytes.TrimRight(loader, "\x00"))
		}
	}
	return nil
}

func fileDigest(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(digest.Sum(nil)), nil
}
