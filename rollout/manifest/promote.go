package manifest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// ErrAmbiguous says that a name stands for several images.
var ErrAmbiguous = errors.New("ambiguous")

// Promoted gives the images of another release to the names that manifests use
// for them: a repository in full, or the end of its path ("shop" for
// "registry.example.com/team/shop"). Tags are of no matter. It asks no registry.
type Promoted struct {
	from   string
	images []name.Digest
	full   []string // as the release wrote them
}

var _ Resolver = (*Promoted)(nil)

// NewPromoted takes the images of a release, each with its digest; from names
// the release for people.
func NewPromoted(images []string, from string) (*Promoted, error) {
	p := &Promoted{from: from}
	for _, image := range images {
		digest, err := name.NewDigest(image)
		if err != nil {
			return nil, fmt.Errorf("%s runs %q, which carries no digest: it was not released by Tidegate", from, image)
		}
		p.images, p.full = append(p.images, digest), append(p.full, image)
	}
	return p, nil
}

// Resolve implements Resolver. A name that the release does not use, and one
// that stands for several of its images, is an error (the latter ErrAmbiguous).
func (p *Promoted) Resolve(_ context.Context, reference string) (string, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", reference, err)
	}
	written := "/" + strip(reference)
	found := p.matching(func(image name.Digest) bool { return image.Context().Name() == ref.Context().Name() })
	if len(found) == 0 {
		found = p.matching(func(image name.Digest) bool { return strings.HasSuffix("/"+image.Context().Name(), written) })
	}
	switch {
	case len(found) == 0:
		return "", fmt.Errorf("%s runs no image of this name (it runs %s)", p.from, strings.Join(p.full, ", "))
	case slices.ContainsFunc(found, func(i int) bool { return p.images[i].DigestStr() != p.images[found[0]].DigestStr() }):
		var names []string
		for _, i := range found {
			names = append(names, p.full[i])
		}
		return "", fmt.Errorf("%w: %s runs several images of this name: %s; write the one that is meant with its digest", ErrAmbiguous, p.from, strings.Join(names, ", "))
	}
	return p.full[found[0]], nil
}

func (p *Promoted) matching(fits func(name.Digest) bool) []int {
	var found []int
	for i, image := range p.images {
		if fits(image) {
			found = append(found, i)
		}
	}
	return found
}

// Check refuses objects that pin a repository of the release to another digest:
// what is promoted would not be what was proven.
func (p *Promoted) Check(objects []*unstructured.Unstructured) error {
	for _, image := range Images(objects) {
		digest, err := name.NewDigest(image)
		if err != nil {
			return fmt.Errorf("image %q carries no digest", image)
		}
		same := p.matching(func(known name.Digest) bool { return known.Context().Name() == digest.Context().Name() })
		if len(same) > 0 && !slices.ContainsFunc(same, func(i int) bool { return p.images[i].DigestStr() == digest.DigestStr() }) {
			return fmt.Errorf("the manifests pin %s, and %s runs %s: write it without a digest, so that what was proven there is taken", image, p.from, p.full[same[0]])
		}
	}
	return nil
}
