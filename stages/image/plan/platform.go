package plan

import (
	"fmt"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ParsePlatform reads "os/architecture[/variant]" and gives it its usual
// spelling; an architecture alone means linux, "local" the machine's own.
func ParsePlatform(text string) (ocispec.Platform, error) {
	text = strings.TrimSpace(text)
	if text == "local" {
		return platforms.Normalize(platforms.DefaultSpec()), nil
	}
	if text != "" && text != "linux" && !strings.Contains(text, "/") {
		text = "linux/" + text
	}
	p, err := platforms.Parse(text)
	if err != nil {
		return ocispec.Platform{}, fmt.Errorf("platform %q: want os/architecture[/variant], such as linux/amd64 or linux/arm/v7: %w", text, err)
	}
	return platforms.Normalize(p), nil
}

// ParsePlatforms reads lists of platforms separated by commas. One that is
// named twice counts once.
func ParsePlatforms(texts []string) ([]ocispec.Platform, error) {
	var all []ocispec.Platform
	seen := map[string]bool{}
	for _, text := range texts {
		for _, one := range strings.Split(text, ",") {
			p, err := ParsePlatform(one)
			if err != nil {
				return nil, err
			}
			if name := FormatPlatform(p); !seen[name] {
				seen[name] = true
				all = append(all, p)
			}
		}
	}
	return all, nil
}

// FormatPlatform is the inverse of ParsePlatform.
func FormatPlatform(p ocispec.Platform) string { return platforms.Format(p) }

// platformArgs are the automatic arguments.
func platformArgs(build, target ocispec.Platform, stage string) [][2]string {
	if stage == "" {
		stage = "default"
	}
	return [][2]string{
		{"BUILDPLATFORM", FormatPlatform(build)},
		{"BUILDOS", build.OS},
		{"BUILDOSVERSION", build.OSVersion},
		{"BUILDARCH", build.Architecture},
		{"BUILDVARIANT", build.Variant},
		{"TARGETPLATFORM", FormatPlatform(target)},
		{"TARGETOS", target.OS},
		{"TARGETOSVERSION", target.OSVersion},
		{"TARGETARCH", target.Architecture},
		{"TARGETVARIANT", target.Variant},
		{"TARGETSTAGE", stage},
	}
}
