// Package policy decides which images a build may use: from which registries,
// by tag or only by digest, signed by whom. A policy is a file of rules; the
// first rule that matches an image's name decides.
package policy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/goccy/go-yaml"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

// MaxFile bounds a policy file, in bytes.
const MaxFile = 1 << 20

// Policy is a file, read and checked. A nil Policy allows everything.
type Policy struct {
	// Name is the file's, for messages.
	Name  string
	rules []rule
	// denied is what an image meets that no rule matches; empty allows it.
	denied string
}

// rule is one of the file.
type rule struct {
	position string // file:rule number
	images   []string
	deny     string
	digest   bool
	keys     []*sign.PublicKey
}

// file is the YAML form.
type file struct {
	Version int `yaml:"version"`
	// Default is allow or deny: what becomes of an image that no rule matches.
	Default string     `yaml:"default"`
	Rules   []fileRule `yaml:"rules"`
}

type fileRule struct {
	// Images are globs (doublestar) over the image's repository with its
	// registry, such as docker.io/library/* or registry.example.com/**.
	Images []string `yaml:"images"`
	// Allow lets the image in without further questions.
	Allow bool `yaml:"allow,omitempty"`
	// Deny refuses it; the text says what to use in its place.
	Deny string `yaml:"deny,omitempty"`
	// ByDigest wants the Dockerfile to name the image by its digest.
	ByDigest bool `yaml:"by-digest,omitempty"`
	// SignedBy are public keys, any of which must have signed the image: a file
	// (relative to the policy) or the key itself in PEM.
	SignedBy []string `yaml:"signed-by,omitempty"`
}

// Load reads a policy file and the keys it names.
func Load(path string) (*Policy, error) {
	data, err := read(path, MaxFile)
	if err != nil {
		return nil, fmt.Errorf("image policy: %w", err)
	}
	return Parse(path, data, func(key string) ([]byte, error) {
		if !filepath.IsAbs(key) {
			key = filepath.Join(filepath.Dir(path), key)
		}
		return read(key, sign.MaxKey)
	})
}

func read(path string, most int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return data, nil
}

// Parse reads a policy; readKey gives the content of a key's file.
func Parse(name string, data []byte, readKey func(file string) ([]byte, error)) (*Policy, error) {
	var f file
	if err := yaml.UnmarshalWithOptions(data, &f, yaml.Strict()); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("image policy %s: %s", name, yaml.FormatError(err, false, true))
	}
	fail := func(format string, args ...any) (*Policy, error) {
		return nil, fmt.Errorf("image policy %s: %w", name, fmt.Errorf(format, args...))
	}
	if f.Version != 1 {
		return fail("version is %d: write version: 1", f.Version)
	}
	p := &Policy{Name: name}
	switch f.Default {
	case "deny":
		p.denied = "no rule allows it"
	case "allow":
	default:
		return fail("default is %q: say whether images that no rule matches are allowed: allow or deny", f.Default)
	}
	for i, given := range f.Rules {
		r := rule{position: fmt.Sprintf("%s, rule %d", name, i+1), images: given.Images, deny: given.Deny, digest: given.ByDigest}
		if len(given.Images) == 0 {
			return fail("rule %d: images is empty: say which it is about", i+1)
		}
		for _, pattern := range given.Images {
			if !doublestar.ValidatePattern(pattern) || strings.ContainsAny(pattern, "@ ") {
				return fail("rule %d: %q is no pattern of repositories", i+1, pattern)
			}
			if !strings.Contains(pattern, "/") && pattern != "**" {
				return fail("rule %d: %q matches nothing: write the registry too, such as docker.io/library/%s", i+1, pattern, pattern)
			}
		}
		demands := given.ByDigest || len(given.SignedBy) > 0
		if given.Allow == (given.Deny != "" || demands) || (given.Deny != "" && demands) {
			return fail("rule %d: give it allow: true, or deny, or what is demanded (by-digest, signed-by)", i+1)
		}
		for _, text := range given.SignedBy {
			key, err := loadKey(text, readKey)
			if err != nil {
				return fail("rule %d: signed-by: %w", i+1, err)
			}
			r.keys = append(r.keys, key)
		}
		p.rules = append(p.rules, r)
	}
	return p, nil
}

func loadKey(text string, readKey func(string) ([]byte, error)) (*sign.PublicKey, error) {
	pem := []byte(text)
	if !strings.Contains(text, "-----BEGIN") {
		var err error
		if pem, err = readKey(text); err != nil {
			return nil, err
		}
	}
	return sign.LoadPublicKey(pem)
}

// dockerHub is how the file calls Docker Hub, whatever a Dockerfile writes.
const dockerHub = "docker.io"

// repositoryOf is the name that rules are matched with. A registry that can be
// written in several ways has one name here.
func repositoryOf(ref name.Reference) string {
	host := strings.ToLower(ref.Context().RegistryStr())
	host, port, hasPort := strings.Cut(host, ":")
	host = strings.TrimSuffix(host, ".")
	if hasPort && port != "443" {
		host += ":" + port
	}
	if host == name.DefaultRegistry || host == "registry-1.docker.io" {
		host = dockerHub
	}
	return host + "/" + ref.Context().RepositoryStr()
}

// decide finds the rule for an image; nil means that none matches.
func (p *Policy) decide(ref name.Reference) *rule {
	repository := repositoryOf(ref)
	for i := range p.rules {
		for _, pattern := range p.rules[i].images {
			if ok, err := doublestar.Match(pattern, repository); ok && err == nil {
				return &p.rules[i]
			}
		}
	}
	return nil
}
