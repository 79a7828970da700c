package image

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
)

// AnnotationLevel says what carries an annotation.
type AnnotationLevel string

// The levels, by the names that docker buildx gives them.
const (
	OnManifest           AnnotationLevel = "manifest"
	OnIndex              AnnotationLevel = "index"
	OnManifestDescriptor AnnotationLevel = "manifest-descriptor"
	OnIndexDescriptor    AnnotationLevel = "index-descriptor"
)

// Annotation is a key and value on a manifest, an index or a descriptor.
type Annotation struct {
	Level AnnotationLevel
	// Platform, if not nil, is the only one whose manifest or descriptor gets it.
	Platform   *ocispec.Platform
	Key, Value string
}

// Annotations of a build. A later one of the same key wins.
type Annotations []Annotation

// annotationPattern takes "level[platform],level:" apart from "key=value".
var annotationPattern = lazyregexp.New(`^((?:[a-z-]+(?:\[[A-Za-z0-9_/.-]+\])?)(?:,[a-z-]+(?:\[[A-Za-z0-9_/.-]+\])?)*):([^=]+=.*|[^=]+)$`)

// ParseAnnotation reads "[LEVEL[PLATFORM],…:]KEY=VALUE" as docker buildx has
// it. Without a level the annotation goes on the manifest.
func ParseAnnotation(text string) (Annotations, error) {
	levels, pair := "manifest", text
	if parts := annotationPattern().FindStringSubmatch(text); parts != nil {
		levels, pair = parts[1], parts[2]
	}
	key, value, ok := strings.Cut(pair, "=")
	if !ok || strings.TrimSpace(key) == "" {
		return nil, fmt.Errorf("annotation %q: want [LEVEL:]KEY=VALUE", text)
	}
	var all Annotations
	for _, level := range strings.Split(levels, ",") {
		a := Annotation{Key: key, Value: value}
		name, platform, has := strings.Cut(strings.TrimSuffix(level, "]"), "[")
		switch a.Level = AnnotationLevel(name); a.Level {
		case OnManifest, OnManifestDescriptor:
		case OnIndex, OnIndexDescriptor:
			if has {
				return nil, fmt.Errorf("annotation %q: an index is of all platforms, %s takes none", text, name)
			}
		default:
			return nil, fmt.Errorf("annotation %q: %q is not one of manifest, index, manifest-descriptor and index-descriptor", text, name)
		}
		if has {
			p, err := plan.ParsePlatform(platform)
			if err != nil {
				return nil, fmt.Errorf("annotation %q: %w", text, err)
			}
			a.Platform = &p
		}
		all = append(all, a)
	}
	return all, nil
}

// of gives the annotations of a level; nil when there are none.
func (a Annotations) of(level AnnotationLevel, platform *ocispec.Platform) map[string]string {
	var found map[string]string
	for _, one := range a {
		if one.Level != level {
			continue
		}
		if one.Platform != nil && (platform == nil || plan.FormatPlatform(*one.Platform) != plan.FormatPlatform(*platform)) {
			continue
		}
		if found == nil {
			found = map[string]string{}
		}
		found[one.Key] = one.Value
	}
	return found
}

// refuseIndex finds annotations that need an index, where there is none.
func (a Annotations) refuseIndex() error {
	for _, one := range a {
		if one.Level == OnIndex || one.Level == OnIndexDescriptor {
			return invalid(fmt.Errorf("annotation %s:%s: an image of one platform has no index to carry it: build for several platforms, or annotate the manifest", one.Level, one.Key))
		}
	}
	return nil
}
