package cache

import (
	"encoding/csv"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Kind says where a cache is.
type Kind string

// The kinds of cache.
const (
	Registry Kind = "registry" // a reference of its own
	Inline   Kind = "inline"   // in the image's configuration
	Local    Kind = "local"    // an OCI layout on this machine
)

// Mode says how much of a build a cache keeps.
type Mode string

// The modes.
const (
	// Min keeps the layers of the image, and of the other steps only what they
	// gave, so that they need not run when nothing of them changed.
	Min Mode = "min"
	// Max keeps the layers of all steps.
	Max Mode = "max"
)

// Spec is one cache to read or to write.
type Spec struct {
	Kind Kind
	// Ref is the name in a registry, for Registry.
	Ref string
	// Dir is the layout, for Local.
	Dir string
	// Tag names the cache in a layout, for Local.
	Tag string
	// Mode is for writing.
	Mode Mode
	// Mounts says that the content of cache mounts goes along.
	Mounts bool
	// IgnoreError makes a failed write a warning.
	IgnoreError bool
}

// DefaultTag names the cache in a layout.
const DefaultTag = "latest"

// String is the cache for people.
func (s Spec) String() string {
	switch s.Kind {
	case Registry:
		return s.Ref
	case Local:
		return s.Dir
	}
	return string(s.Kind)
}

// ParseFrom reads a cache to read, as --cache-from has it: "type=registry,ref=…",
// "type=local,src=…", or just a name.
func ParseFrom(text string) (Spec, error) { return parse(text, false) }

// ParseTo reads a cache to write, as --cache-to has it.
func ParseTo(text string) (Spec, error) { return parse(text, true) }

func parse(text string, write bool) (Spec, error) {
	s := Spec{Kind: Registry, Mode: Min}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return s, fmt.Errorf("%q: want fields KEY=VALUE between commas: %w", text, err)
	}
	if len(fields) == 1 && !strings.Contains(fields[0], "=") {
		s.Ref = fields[0]
		return s, s.check(write)
	}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			return s, fmt.Errorf("%q: want KEY=VALUE", field)
		}
		if err := s.set(strings.ToLower(strings.TrimSpace(key)), value, write); err != nil {
			return s, err
		}
	}
	return s, s.check(write)
}

func (s *Spec) set(key, value string, write bool) error {
	yes, boolErr := strconv.ParseBool(value)
	switch key {
	case "type":
		s.Kind = Kind(value)
		return nil
	case "ref":
		s.Ref = value
		return nil
	case "tag":
		s.Tag = value
		return nil
	case "mounts":
		s.Mounts = yes
		return boolOf(key, boolErr)
	}
	if !write {
		if key == "src" {
			s.Dir = value
			return nil
		}
		return fmt.Errorf("%q is not known: use type, ref, src, tag and mounts", key)
	}
	switch key {
	case "dest":
		s.Dir = value
	case "mode":
		s.Mode = Mode(value)
	case "ignore-error":
		s.IgnoreError = yes
		return boolOf(key, boolErr)
	case "image-manifest", "oci-mediatypes":
		// What is written is an image manifest with OCI media types.
		if boolErr == nil && !yes {
			return fmt.Errorf("%s=false is not supported: the cache is an OCI image manifest, which every registry takes", key)
		}
		return boolOf(key, boolErr)
	case "compression", "compression-level", "force-compression":
		return fmt.Errorf("%q is not supported here: a cache keeps layers as the build makes them; use --compression for both", key)
	default:
		return fmt.Errorf("%q is not known: use type, ref, dest, tag, mode, mounts and ignore-error", key)
	}
	return nil
}

func boolOf(key string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: want true or false", key)
	}
	return nil
}

func (s *Spec) check(write bool) error {
	if s.Mode != Min && s.Mode != Max {
		return fmt.Errorf("mode=%s: use min or max", s.Mode)
	}
	switch s.Kind {
	case Registry:
		if s.Ref == "" {
			return errors.New("type=registry needs ref=NAME")
		}
	case Local:
		if s.Dir == "" {
			return errors.New("type=local needs dest=DIRECTORY to write and src=DIRECTORY to read")
		}
		if s.Tag == "" {
			s.Tag = DefaultTag
		}
	case Inline:
		if !write {
			return errors.New("type=inline is for --cache-to: read such a cache with type=registry,ref=IMAGE")
		}
		if s.Mode == Max || s.Mounts {
			return errors.New("type=inline keeps the image's own layers only: for mode=max and mounts use type=registry")
		}
	default:
		return fmt.Errorf("type=%s is not supported: use registry, inline or local", s.Kind)
	}
	return nil
}
