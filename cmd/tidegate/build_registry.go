package main

import (
	"os"
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
	authorities        []string
	certificates       []string
	realms             []string
	cacheBytes         byteSize
}

func (f *buildRegistryFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.registry, "registry", os.Getenv("TIDEGATE_REGISTRY"), "registry host for names that have none (TIDEGATE_REGISTRY)")
	flags.StringArrayVar(&f.mirrors, "mirror", listFrom("TIDEGATE_MIRRORS"), "try a mirror before a registry, REGISTRY=HOST; may be repeated (TIDEGATE_MIRRORS, separated by commas)")
	flags.StringArrayVar(&f.insecure, "insecure-registry", listFrom("TIDEGATE_INSECURE_REGISTRIES"), "registry host to reach without TLS; loopback needs none; may be repeated")
	flags.StringArrayVar(&f.authorities, "registry-ca", nil, "authority that vouches for a registry, HOST=FILE with PEM certificates; may be repeated")
	flags.StringArrayVar(&f.certificates, "registry-certs", defaultCertificates(), "directory with HOST/*.crt for authorities and HOST/*.cert, *.key for this machine; may be repeated")
	flags.StringArrayVar(&f.realms, "registry-realm", nil, "host outside a registry's domain that its login may be sent to, REGISTRY=HOST; may be repeated")
	flags.StringVar(&f.cacheDir, "cache-dir", os.Getenv("TIDEGATE_CACHE"), "where layers are kept (TIDEGATE_CACHE; default the user's cache directory)")
	f.cacheBytes = store.DefaultMaxBytes
	flags.Var(&f.cacheBytes, "cache-size", "cap on all that builds keep, at every moment, such as 20GiB")
}

// defaultCertificates are where Docker and podman look.
func defaultCertificates() []string {
	return []string{"/etc/docker/certs.d", "/etc/containers/certs.d"}
}

// byHost reads REGISTRY=VALUE pairs.
func byHost(flag string, pairs []string, example string) (map[string][]string, error) {
	all := map[string][]string{}
	for _, text := range pairs {
		of, value, ok := strings.Cut(text, "=")
		if !ok || of == "" || value == "" {
			return nil, usageErrorf("%s %q: want HOST=VALUE, such as %s", flag, text, example)
		}
		all[of] = append(all[of], value)
	}
	return all, nil
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
	mirrors, err := byHost("--mirror", f.mirrors, "docker.io=127.0.0.1:5000")
	if err != nil {
		return nil, err
	}
	authorities, err := byHost("--registry-ca", f.authorities, "registry.example.com=ca.pem")
	if err != nil {
		return nil, err
	}
	realms, err := byHost("--registry-realm", f.realms, "registry.example.com=sso.example.org")
	if err != nil {
		return nil, err
	}
	dir, err := cacheDirectory(f.cacheDir)
	if err != nil {
		return nil, err
	}
	client := registry.New(registry.Options{
		Default: f.registry, Mirrors: mirrors, Insecure: f.insecure, Realms: realms,
		Certificates: registry.Certificates{Authorities: authorities, Directories: f.certificates},
	})
	return image.NewLocal(dir, client, store.Options{MaxBytes: int64(f.cacheBytes)})
}
