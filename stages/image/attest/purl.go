package attest

import (
	"fmt"
	"path"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	packageurl "github.com/package-url/packageurl-go"
)

// ImageURL is the package URL of an image's name, as BuildKit writes it: type
// docker, the tag as version, the platform as a qualifier, Docker Hub's host and
// library left out.
func ImageURL(reference name.Reference, platform ocispec.Platform) string {
	repository := reference.Context()
	at := repository.RepositoryStr()
	if repository.RegistryStr() == name.DefaultRegistry {
		if dir, base := path.Split(at); dir == "library/" {
			at = base
		}
	} else {
		at = repository.RegistryStr() + "/" + at
	}
	var version string
	var qualifiers packageurl.Qualifiers
	switch r := reference.(type) {
	case name.Tag:
		version = r.TagStr()
	case name.Digest:
		qualifiers = append(qualifiers, packageurl.Qualifier{Key: "digest", Value: r.DigestStr()})
	}
	if platform.OS != "" {
		qualifiers = append(qualifiers, packageurl.Qualifier{Key: "platform", Value: platformText(platform)})
	}
	namespace, base := path.Split(at)
	if namespace != "" {
		namespace = namespace[:len(namespace)-1]
	}
	return packageurl.NewPackageURL(packageurl.TypeDocker, namespace, base, version, qualifiers, "").ToString()
}

// GitMaterial is a commit of a Git repository. Commits are named by SHA-1, or by
// SHA-256 where the repository uses that.
func GitMaterial(url, commit string) (Material, error) {
	switch len(commit) {
	case 40:
		return Material{URI: url, Digest: map[string]string{"sha1": commit}}, nil
	case 64:
		return Material{URI: url, Digest: map[string]string{"sha256": commit}}, nil
	}
	return Material{}, fmt.Errorf("%q is no Git commit", short(commit))
}
