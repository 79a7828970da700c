package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

var errNoKey = errors.New("no such key")

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	_, public, err := sign.Generate(nil)
	require.NoError(t, err)
	p, err := Parse("policy.yaml", []byte(text), func(file string) ([]byte, error) {
		if file != "cosign.pub" {
			return nil, errNoKey
		}
		return public, nil
	})
	require.NoError(t, err)
	return p
}

const example = `
version: 1
default: deny
rules:
  - images: [docker.io/library/golang]
    signed-by: [cosign.pub]
  - images: [docker.io/library/*]
    by-digest: true
  - images: ["docker.io/**"]
    deny: take it from registry.example.com/mirror
  - images: ["registry.example.com/**"]
    allow: true
`

const digest = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestAdmit(t *testing.T) {
	p := parse(t, example)
	for image, want := range map[string]string{
		"golang":                              "",
		"docker.io/library/golang:1.26":       "",
		"alpine":                              "named by tag",
		"index.docker.io/library/alpine:3":    "named by tag",
		"alpine" + digest:                     "",
		"registry-1.docker.io/octo/app":       "take it from registry.example.com/mirror",
		"index.docker.io:443/octo/app":        "take it from registry.example.com/mirror",
		"octo/app":                            "take it from registry.example.com/mirror",
		"registry.example.com/a/b/c":          "",
		"registry.example.com.evil.test/a":    "no rule allows it",
		"ghcr.io/registry.example.com/a":      "no rule allows it",
		"evil.test/docker.io/library/golang":  "no rule allows it",
		"registry.example.com:5000/a":         "no rule allows it",
		"registry.example.com/a:tag" + digest: "",
	} {
		ref, err := name.ParseReference(image)
		require.NoError(t, err)
		err = p.Admit(ref)
		if want == "" {
			require.NoError(t, err, image)
			continue
		}
		require.ErrorContains(t, err, want, image)
		require.ErrorContains(t, err, "policy.yaml")
		var violation *ViolationError
		require.ErrorAs(t, err, &violation)
		require.NotEmpty(t, violation.Remedy)
	}
	var none *Policy
	ref, err := name.ParseReference("anything")
	require.NoError(t, err)
	require.NoError(t, none.Admit(ref))
}

func TestBadPolicies(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "version: 1",
		"version: 1":                           "allow or deny",
		"version: 2":                           "version is 2",
		"version: 1\ndefault: no":              "allow or deny",
		"version: 1\ndefault: allow\nrule: []": "rule",
		"version: 1\ndefault: allow\nrules: [{allow: true}]":                                                        "images is empty",
		"version: 1\ndefault: allow\nrules: [{images: [golang], allow: true}]":                                      "docker.io/library/golang",
		"version: 1\ndefault: allow\nrules: [{images: ['**']}]":                                                     "give it allow",
		"version: 1\ndefault: allow\nrules: [{images: ['**'], allow: true, by-digest: true}]":                       "give it allow",
		"version: 1\ndefault: allow\nrules: [{images: ['**'], deny: x, by-digest: true}]":                           "give it allow",
		"version: 1\ndefault: allow\nrules: [{images: ['a/[b'], allow: true}]":                                      "no pattern",
		"version: 1\ndefault: allow\nrules: [{images: ['**'], signed-by: [other.pub]}]":                             "no such key",
		"version: 1\ndefault: allow\nrules: [{images: ['**'], signed-by: ['-----BEGIN PUBLIC KEY-----']}]":          "not a public key",
		"version: 1\ndefault: allow\nrules: [{images: ['**'], signed-by: [cosign.pub], allow: true}]":               "give it allow",
		"version: 1\ndefault: allow\nrules: [{images: ['registry.example.com/a@sha256:00'], signed-by: ['x.pub']}]": "no pattern",
	} {
		_, err := Parse("policy.yaml", []byte(text), func(string) ([]byte, error) { return nil, errNoKey })
		require.ErrorContains(t, err, want, text)
	}
}

// With default deny, no name that the rules don't name gets in, however it is written.
func TestDefaultDenyHolds(t *testing.T) {
	p := parse(t, example)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`([a-z]{1,8}(\.[a-z]{2,5}){0,2}(:[0-9]{1,4})?/){0,3}[a-z]{1,8}(:[a-z0-9]{1,5})?`).Draw(t, "image")
		ref, err := name.ParseReference(text)
		if err != nil || ref.Context().RegistryStr() == name.DefaultRegistry || ref.Context().RegistryStr() == "registry.example.com" {
			return
		}
		if p.Admit(ref) == nil {
			t.Fatalf("%s got in", text)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("version: 1\ndefault: allow\nrules: [{images: ['**'], deny: x}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("p", data, func(string) ([]byte, error) { return nil, errNoKey })
		if err != nil {
			return
		}
		ref, err := name.ParseReference("octo/app")
		if err != nil {
			t.Fatal(err)
		}
		_ = p.Admit(ref)
		if strings.Contains(string(data), "default: deny") && len(p.rules) == 0 && !strings.Contains(string(data), "allow") && p.Admit(ref) == nil {
			t.Fatal("a policy that denies all lets one in")
		}
	})
}
