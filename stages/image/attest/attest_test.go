package attest

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write golden files anew")

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

const canary = "s3cr3t-canary"

func build(mode Mode) Build {
	return Build{
		Mode: mode, Path: "deploy/Dockerfile", Source: []byte("FROM alpine\nARG TOKEN\n"), Target: "app", Platform: amd64,
		Args:      map[string]string{"TOKEN": "argument-value", "HTTP_PROXY": "http://user:" + canary + "@proxy:3128"},
		Labels:    map[string]string{"team": "shop"},
		SecretIDs: []string{"npm", "aws", "npm"}, SSHIDs: []string{"default"},
		Locals: []string{"dockerfile", "context"},
		VCS:    VCS{Source: "https://user:" + canary + "@example.com/octo/shop.git", Revision: "0123456789abcdef0123456789abcdef01234567"},
		Materials: []Material{
			{URI: "pkg:docker/b@1", Digest: map[string]string{"sha256": "bb"}},
			{URI: "pkg:docker/a@1", Digest: map[string]string{"sha256": "aa"}},
			{URI: "pkg:docker/a@1", Digest: map[string]string{"sha256": "aa"}},
		},
	}
}

func golden(t *testing.T, file string, value any) {
	t.Helper()
	raw, err := json.MarshalIndent(value, "", "  ")
	require.NoError(t, err)
	file = filepath.Join("testdata", file)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, append(raw, '\n'), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), string(raw)+"\n")
}

func TestProvenance(t *testing.T) {
	for _, mode := range []Mode{Min, Max} {
		p, err := NewProvenance(build(mode))
		require.NoError(t, err)
		golden(t, "provenance-"+string(mode)+".json", p)
	}
	_, err := NewProvenance(Build{Mode: "full"})
	require.ErrorContains(t, err, "want min or max")
}

func TestProvenanceHoldsNoCredentials(t *testing.T) {
	for _, mode := range []Mode{Min, Max} {
		p, err := NewProvenance(build(mode))
		require.NoError(t, err)
		raw, err := json.Marshal(p)
		require.NoError(t, err)
		require.NotContains(t, string(raw), canary)
		for _, confidential := range []string{"argument-value", "TOKEN", "team", "aws"} {
			if mode == Min {
				require.NotContains(t, string(raw), confidential, "min tells too much")
			}
		}
	}
}

func TestWithoutCredentials(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "",
		"plain":                          "plain",
		"https://example.com/a":          "https://example.com/a",
		"https://u:p@example.com/a?b#c":  "https://example.com/a?b#c",
		"https://token@example.com/a":    "https://example.com/a",
		"git@example.com:octo/shop.git":  "git@example.com:octo/shop.git",
		"ssh://git@example.com/octo/a":   "ssh://example.com/octo/a",
		"http://u:p%zz@example.com/\x7f": "http://example.com/\x7f",
	} {
		require.Equal(t, want, withoutCredentials(text), text)
	}
}

func TestProvenanceIsTimelessUnlessAsked(t *testing.T) {
	first, err := NewProvenance(build(Max))
	require.NoError(t, err)
	require.Nil(t, first.RunDetails.Metadata.StartedOn)
	require.Empty(t, first.RunDetails.Metadata.InvocationID)
	b := build(Max)
	b.Started, b.InvocationID = time.Unix(1, 0), "run 7"
	second, err := NewProvenance(b)
	require.NoError(t, err)
	require.Equal(t, time.Unix(1, 0).UTC(), *second.RunDetails.Metadata.StartedOn)
	require.Equal(t, "run 7", second.RunDetails.Metadata.InvocationID)
}

func TestCompleteness(t *testing.T) {
	p, err := NewProvenance(Build{Mode: Min, Context: &Material{URI: "https://example.com/shop.git", Digest: map[string]string{"sha1": "ab"}}})
	require.NoError(t, err)
	require.True(t, p.RunDetails.Metadata.Hermetic)
	require.Equal(t, Completeness{true, true}, p.RunDetails.Metadata.Completeness)
	require.Equal(t, []ResourceDescriptor{{URI: "https://example.com/shop.git", Digest: map[string]string{"sha1": "ab"}}}, p.BuildDefinition.ResolvedDependencies)
	p, err = NewProvenance(Build{Mode: Min, Network: true})
	require.NoError(t, err)
	require.False(t, p.RunDetails.Metadata.Hermetic)
	require.False(t, p.RunDetails.Metadata.Completeness.ResolvedDependencies, "a command with a network may fetch anything")
}

func TestImageURL(t *testing.T) {
	for text, want := range map[string]string{
		"alpine":                     "pkg:docker/alpine@latest?platform=linux%2Famd64",
		"docker.io/octo/app:1":       "pkg:docker/octo/app@1?platform=linux%2Famd64",
		"localhost:5000/shop/web:v1": "pkg:docker/localhost:5000/shop/web@v1?platform=linux%2Famd64",
		"ghcr.io/octo/app@sha256:" + strings.Repeat("ab", 32): "pkg:docker/ghcr.io/octo/app?digest=sha256:" + strings.Repeat("ab", 32) + "&platform=linux%2Famd64",
	} {
		ref, err := name.ParseReference(text)
		require.NoError(t, err)
		require.Equal(t, want, ImageURL(ref, amd64), text)
	}
}

func TestManifest(t *testing.T) {
	image := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("1", 64)}
	p, err := NewProvenance(build(Min))
	require.NoError(t, err)
	statement, err := NewStatement([]string{"pkg:docker/shop@1"}, image, PredicateProvenance, p)
	require.NoError(t, err)
	require.True(t, statement.About(image))
	require.False(t, statement.About(v1.Hash{}))
	m, err := NewManifest(image, []Statement{statement})
	require.NoError(t, err)
	again, err := NewManifest(image, []Statement{statement})
	require.NoError(t, err)
	require.Equal(t, m, again)
	golden(t, "manifest.json", json.RawMessage(m.Raw))
	golden(t, "descriptor.json", m.Descriptor)
	require.Len(t, m.Blobs, 2)
	read, err := ParseStatement(m.Blobs[0].Data)
	require.NoError(t, err)
	require.Equal(t, statement, read)
	_, err = NewManifest(image, nil)
	require.Error(t, err)
}

func FuzzParseStatement(f *testing.F) {
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"_","digest":{"sha256":"11"}}],"predicate":{}}`))
	f.Add([]byte(`{"_type":7}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseStatement(data)
		if err == nil && s.About(v1.Hash{}) {
			t.Fatal("a statement about nothing is about something")
		}
	})
}
