package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// buildRegistryFlags say which registries and caches a build uses.
type buildRegistryFlags struct {
	registry, cacheDir string
	mirrors, insecure  []string
	cacheBytes         int64
}

func (f *buildRegistryFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.registry, "registry", os.Getenv("TIDEGATE_REGISTRY"), "registry host for names that have none (TIDEGATE_REGISTRY)")
	flags.StringArrayVar(&f.mirrors, "mirror", listFrom("TIDEGATE_MIRRORS"), "try a mirror before a registry, REGISTRY=HOST; may be repeated (TIDEGATE_MIRRORS, separated by commas)")
	flags.StringArrayVar(&f.insecure, "insecure-registry", listFrom("TIDEGATE_INSECURE_REGISTRIES"), "registry host to reach without TLS; loopback needs none; may be repeated")
	flags.StringVar(&f.cacheDir, "cache-dir", os.Getenv("TIDEGATE_CACHE"), "where layers are kept (TIDEGATE_CACHE; default the user's cache directory)")
	flags.Int64Var(&f.cacheBytes, "cache-size", store.DefaultMaxBytes, "cap on kept layers, in bytes")
}

func listFrom(variable string) []string {
	var list []string
	for _, item := range strings.Split(os.Getenv(variable), ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

func (f *buildRegistryFlags) builder() (*image.Builder, error) {
	mirrors := map[string][]string{}
	for _, text := range f.mirrors {
		of, host, ok := strings.Cut(text, "=")
		if !ok || of == "" || host == "" {
			return nil, usageErrorf("--mirror %q: want REGISTRY=HOST, such as docker.io=127.0.0.1:5000", text)
		}
		mirrors[of] = append(mirrors[of], host)
	}
	dir := f.cacheDir
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, usageErrorf("no place to keep layers: %w; set --cache-dir", err)
		}
		dir = filepath.Join(base, "tidegate")
	}
	client := registry.New(registry.Options{Default: f.registry, Mirrors: mirrors, Insecure: f.insecure})
	return image.NewLocal(dir, client, store.Options{MaxBytes: f.cacheBytes})
}
