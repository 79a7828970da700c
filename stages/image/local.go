package image

import (
	"context"
	"path/filepath"
	"strings"
	"sync"

	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
	"github.com/tidegate-ci/tidegate/stages/sandbox/oci"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
	"github.com/tidegate-ci/tidegate/stages/sandbox/userns"
)

// NewLocal makes a builder that keeps everything below dir. The OCI runtime is
// looked for, and the store of root filesystems opened, only when a build has
// a RUN.
func NewLocal(dir string, client *registry.Client, options store.Options) (*Builder, error) {
	unpacked := sync.OnceValues(func() (*rootfs.Store, error) { return rootfs.Open(filepath.Join(dir, rootfsName())) })
	if options.Neighbour == nil {
		options.Neighbour = Unpacked(unpacked)
	}
	layers, err := store.Open(filepath.Join(dir, "build"), options)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var runtime *oci.Runtime
	return &Builder{
		Store:    layers,
		Registry: client,
		Rootfs:   unpacked,
		Runner: func(ctx context.Context) (Runner, error) {
			mu.Lock()
			defer mu.Unlock()
			if runtime == nil {
				// Not kept when it fails: the reason may be this build's end.
				found, err := oci.Find(ctx, oci.Options{Dir: filepath.Join(dir, "oci")})
				if err != nil {
					return nil, err
				}
				runtime = found
			}
			return runtime, nil
		},
	}, nil
}

// rootfsName separates layers unpacked with different owners: those of a user
// namespace are of no use outside of it.
func rootfsName() string {
	users := userns.Current()
	if users.Initial {
		return "rootfs"
	}
	return "rootfs-" + strings.ReplaceAll(users.Text, " ", "_")
}
