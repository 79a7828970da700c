package manifest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const digest = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

type fixed map[string]string

func (f fixed) Resolve(_ context.Context, reference string) (string, error) {
	if full, ok := f[reference]; ok {
		return full, nil
	}
	return "", errors.New("no such image")
}

func parse(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := Parse("k8s.yaml", []byte(text))
	require.NoError(t, err)
	return objects
}

// TestGolden renders testdata/shop.yaml; UPDATE=1 writes the expectation.
func TestGolden(t *testing.T) {
	objects, err := Load("testdata", []string{"shop.yaml"})
	require.NoError(t, err)
	release, err := New(t.Context(), objects, Options{Namespace: "production", Images: map[string]string{"shop": "registry.example.com/team/shop" + digest},
		Resolver: fixed{"busybox:1.37": "index.docker.io/library/busybox" + digest}})
	require.NoError(t, err)
	var parts []string
	for _, u := range release.Objects {
		encoded, err := yaml.Marshal(u.Object)
		require.NoError(t, err)
		parts = append(parts, string(encoded))
	}
	got := strings.Join(parts, "---\n")
	path := filepath.Join("testdata", "shop.golden")
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)

	stored, err := release.Encode()
	require.NoError(t, err)
	back, err := Decode(stored)
	require.NoError(t, err)
	require.Equal(t, release.Digest, back.Digest, "a stored release is the same release")
}

func TestPin(t *testing.T) {
	built := map[string]string{"shop": "127.0.0.1:5000/shop" + digest}
	for image, want := range map[string]string{
		"shop": "127.0.0.1:5000/shop" + digest, "shop:latest": "127.0.0.1:5000/shop" + digest, "127.0.0.1:5000/shop:v1": "127.0.0.1:5000/shop" + digest,
		"other" + digest: "other" + digest, "nginx:1": "index.docker.io/library/nginx" + digest,
	} {
		got, err := pinOne(t.Context(), image, mustBuilt(t, built), map[string]string{}, fixed{"nginx:1": "index.docker.io/library/nginx" + digest})
		require.NoError(t, err, image)
		require.Equal(t, want, got, image)
	}
	_, err := pinOne(t.Context(), "shopper", mustBuilt(t, built), map[string]string{}, nil)
	require.ErrorContains(t, err, "build it in a stage")
	_, err = pinOne(t.Context(), "shopper", mustBuilt(t, built), map[string]string{}, fixed{})
	require.ErrorContains(t, err, "push the image")
	_, err = builtImages(map[string]string{"shop": "shop:latest"})
	require.Error(t, err, "a tag is no digest")
}

func mustBuilt(t *testing.T, built map[string]string) map[string]string {
	t.Helper()
	known, err := builtImages(built)
	require.NoError(t, err)
	return known
}

func TestParseSaysWhereAndWhy(t *testing.T) {
	for text, want := range map[string]string{
		"a: b": "k8s.yaml:1: not a Kubernetes object",
		"---\n# note\n---\nkind: X\napiVersion: v1\n":                    "k8s.yaml:4: X has no metadata",
		"apiVersion: v1\nkind: X\nmetadata: {}\n":                        "has no metadata.name",
		"apiVersion: v1\nkind: X\nmetadata: {generateName: a-}\n":        "fixed names",
		"apiVersion: v1\nkind: X\nkind: Y\nmetadata: {name: a}\n":        "already set",
		"apiVersion: v1\nkind: X\nmetadata: {name: a, labels: {n: 1}}\n": "must be a string",
		"- a\n": "must be a Kubernetes object",
		"a: [":  "not valid YAML",
		"apiVersion: v1\nkind: X\nmetadata: {name: A_b}\n":                                "A_b",
		"apiVersion: v1\nkind: XList\nitems:\n- {apiVersion: v1, kind: YList, items: []}": "a List inside a List",
	} {
		_, err := Parse("k8s.yaml", []byte(text))
		require.ErrorContains(t, err, want, text)
	}
	require.Len(t, parse(t, "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: X, metadata: {name: a}}\n- {apiVersion: v1, kind: X, metadata: {name: b}}\n"), 2)
}

func TestLoadStaysInside(t *testing.T) {
	_, err := Load("testdata", []string{"../manifest.go"})
	require.Error(t, err)
	_, err = Load("testdata", nil)
	require.Error(t, err)
	_, err = Load("testdata", []string{"nowhere"})
	require.Error(t, err)
}

func TestConfigTravelsWithThePods(t *testing.T) {
	text := func(value string) string {
		return `
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {a: ` + value + `}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec: {template: {spec: {containers: [{name: x, image: "x` + digest + `", envFrom: [{configMapRef: {name: c}}]}]}}}
`
	}
	one, err := New(t.Context(), parse(t, text("one")), Options{Namespace: "n"})
	require.NoError(t, err)
	two, err := New(t.Context(), parse(t, text("two")), Options{Namespace: "n"})
	require.NoError(t, err)
	again, err := New(t.Context(), parse(t, text("one")), Options{Namespace: "n"})
	require.NoError(t, err)
	require.NotEqual(t, one.Digest, two.Digest)
	require.Equal(t, one.Digest, again.Digest)
	require.NotEqual(t, one.Objects[0].GetName(), two.Objects[0].GetName())
	_, err = New(t.Context(), parse(t, text("one")+"---"+text("one")), Options{})
	require.ErrorContains(t, err, "twice")
}

func FuzzParse(f *testing.F) {
	content, err := os.ReadFile("testdata/shop.yaml")
	require.NoError(f, err)
	f.Add(content)
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: X, metadata: {name: a}}]"))
	f.Add([]byte("---\n...\n--- {}\n? [a]: &x b\n*x : 1"))
	f.Add([]byte("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {template: {spec: {containers: [1, null, {image: 3}], volumes: {}}}}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		objects, err := Parse("x", content)
		if err != nil {
			return
		}
		release, err := New(context.Background(), objects, Options{Namespace: "n", Resolver: fixed{}})
		if err != nil {
			return
		}
		stored, err := release.Encode()
		if err != nil {
			return
		}
		back, err := Decode(stored)
		if err != nil {
			t.Fatalf("cannot read back what was stored: %v", err)
		}
		if back.Digest != release.Digest {
			t.Fatal("the digest changed by storing")
		}
	})
}
