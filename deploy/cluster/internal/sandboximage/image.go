// Package sandboximage holds the image that a pod's sandbox is made of. It is
// built with this binary and embedded, since no registry can be counted on.
package sandboximage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
)

// The build command puts the pause program here before it compiles this package.
//
//go:embed all:built
var built embed.FS

const program = "pause"

// Archive writes the image to w as a docker archive, which containerd imports,
// under the name given. The bytes depend on the program and the name only.
func Archive(w io.Writer, name string) error {
	pause, err := built.ReadFile("built/" + program)
	if err != nil {
		return errors.New("this tidegate-cluster was built without its sandbox image: build it with `go run ./build` in deploy/cluster")
	}
	return archive(w, name, pause)
}

type file struct {
	name string
	mode int64
	data []byte
}

func archive(w io.Writer, name string, pause []byte) error {
	var layer bytes.Buffer
	if err := writeTar(&layer, file{program, 0o755, pause}); err != nil {
		return fmt.Errorf("sandbox image: %w", err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{"/" + program}, "User": "65535:65535"},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer.Bytes()))}},
	})
	if err != nil {
		return fmt.Errorf("sandbox image: %w", err)
	}
	manifest, err := json.Marshal([]map[string]any{{
		"Config":   "config.json",
		"RepoTags": []string{name},
		"Layers":   []string{"layer.tar"},
	}})
	if err != nil {
		return fmt.Errorf("sandbox image: %w", err)
	}
	err = writeTar(w, file{"layer.tar", 0o644, layer.Bytes()}, file{"config.json", 0o644, config}, file{"manifest.json", 0o644, manifest})
	if err != nil {
		return fmt.Errorf("sandbox image: %w", err)
	}
	return nil
}

func writeTar(w io.Writer, files ...file) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		if err := tw.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	return tw.Close()
}
