package manifest

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Resolver finds the digest a tag names now. Implementations are safe for
// concurrent use.
type Resolver interface {
	// Resolve returns reference with its digest ("host/repo@sha256:…").
	Resolve(ctx context.Context, reference string) (string, error)
}

// Pin replaces every image in objects by a reference with a digest. Images that
// the run built are in built: by the repository as the pipeline file writes it
// ("shop") or in full ("registry.example.com/shop"), to a full reference with
// digest. Images already pinned stay. All others are asked of resolver; nil
// keeps them as they are written only if they carry a digest. fields name
// images that are not in pods.
func Pin(ctx context.Context, objects []*unstructured.Unstructured, built map[string]string, resolver Resolver, fields ...ImageField) error {
	known, err := builtImages(built)
	if err != nil {
		return err
	}
	resolved := map[string]string{}
	pin := func(u *unstructured.Unstructured, holder map[string]any, key string) error {
		image := text(holder, key)
		if image == "" {
			return nil
		}
		pinned, err := pinOne(ctx, image, known, resolved, resolver)
		if err != nil {
			return fmt.Errorf("%s: image %q of %q: %w", RefOf(u), image, text(holder, "name"), err)
		}
		holder[key] = pinned
		return nil
	}
	for _, u := range objects {
		spec, err := podSpec(u)
		if err != nil {
			return err
		}
		if spec == nil {
			continue
		}
		for _, key := range []string{"initContainers", "containers", "ephemeralContainers"} {
			if err := mappings(spec, key, func(container map[string]any) error { return pin(u, container, "image") }); err != nil {
				return err
			}
		}
		if err := mappings(spec, "volumes", func(volume map[string]any) error {
			if image := mapping(volume, "image"); image != nil {
				return pin(u, image, "reference")
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return pinFields(objects, fields, func(u *unstructured.Unstructured, image string) (string, error) {
		pinned, err := pinOne(ctx, image, known, resolved, resolver)
		if err != nil {
			return "", fmt.Errorf("%s: image %q: %w", RefOf(u), image, err)
		}
		return pinned, nil
	})
}

func builtImages(built map[string]string) (map[string]string, error) {
	known := make(map[string]string, 2*len(built))
	for short, full := range built {
		digest, err := name.NewDigest(full)
		if err != nil {
			return nil, fmt.Errorf("image %q built as %q: not a reference with a digest: %w", short, full, err)
		}
		known[strip(short)] = full
		known[digest.Context().Name()] = full
		// As people write it in a manifest: name.Digest spells Docker Hub out.
		known[strip(full)] = full
	}
	return known, nil
}

func pinOne(ctx context.Context, image string, built, resolved map[string]string, resolver Resolver) (string, error) {
	if strings.Contains(image, "@") {
		if _, err := name.NewDigest(image); err != nil {
			return "", fmt.Errorf("not a valid reference: %w", err)
		}
		return image, nil
	}
	if full, ok := built[strip(image)]; ok {
		return full, nil
	}
	reference, err := name.ParseReference(image)
	if err != nil {
		return "", fmt.Errorf("not a valid reference: %w", err)
	}
	if full, ok := built[reference.Context().Name()]; ok {
		return full, nil
	}
	if full, ok := resolved[image]; ok {
		return full, nil
	}
	if resolver == nil {
		return "", fmt.Errorf("neither built by this run nor pinned by digest: build it in a stage this one needs, or write it as %s@sha256:…", strip(image))
	}
	full, err := resolver.Resolve(ctx, image)
	if err != nil {
		return "", fmt.Errorf("not built by this run, and its digest cannot be found: %w; check the name, push the image, or write it with its digest", err)
	}
	if _, err := name.NewDigest(full); err != nil {
		return "", fmt.Errorf("resolved to %q, which carries no digest", full)
	}
	resolved[image] = full
	return full, nil
}

// strip takes tag and digest off a reference without adding defaults.
func strip(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	if i := strings.LastIndexByte(reference, ':'); i > strings.LastIndexByte(reference, '/') {
		return reference[:i]
	}
	return reference
}

// Images lists the images of the pods of a set, each once, in order of appearance.
func Images(objects []*unstructured.Unstructured) []string {
	var images []string
	seen := map[string]bool{}
	for _, u := range objects {
		spec, err := podSpec(u)
		if err != nil || spec == nil {
			continue
		}
		for _, key := range []string{"initContainers", "containers", "ephemeralContainers"} {
			_ = mappings(spec, key, func(container map[string]any) error {
				if image := text(container, "image"); image != "" && !seen[image] {
					seen[image] = true
					images = append(images, image)
				}
				return nil
			})
		}
	}
	return images
}
