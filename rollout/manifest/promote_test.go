package manifest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPromotedImages(t *testing.T) {
	one, two := "@sha256:"+strings.Repeat("1", 64), "@sha256:"+strings.Repeat("2", 64)
	p, err := NewPromoted([]string{"r.example.com:5000/team/shop" + one, "redis" + two, "r.example.com:5000/team/tools/migrate" + one, "r.example.com:5000/old/migrate" + two}, "staging")
	require.NoError(t, err)
	for reference, want := range map[string]string{
		"shop":                               "r.example.com:5000/team/shop" + one,
		"shop:v7":                            "r.example.com:5000/team/shop" + one,
		"team/shop":                          "r.example.com:5000/team/shop" + one,
		"r.example.com:5000/team/shop":       "r.example.com:5000/team/shop" + one,
		"r.example.com:5000/team/shop:x":     "r.example.com:5000/team/shop" + one,
		"redis:8":                            "redis" + two,
		"docker.io/library/redis":            "redis" + two,
		"tools/migrate":                      "r.example.com:5000/team/tools/migrate" + one,
		"r.example.com:5000/old/migrate":     "r.example.com:5000/old/migrate" + two,
		"r.example.com:5000/other/shop":      "",
		"hop":                                "",
		"example.com:5000/team/shop":         "",
		"other.example.com:5000/team/shop:1": "",
	} {
		got, err := p.Resolve(t.Context(), reference)
		require.Equal(t, want, got, reference)
		require.Equal(t, want == "", err != nil, "%s: %v", reference, err)
	}
	_, err = p.Resolve(t.Context(), "migrate")
	require.ErrorIs(t, err, ErrAmbiguous)
	require.ErrorContains(t, err, "old/migrate")
	_, err = p.Resolve(t.Context(), "other")
	require.ErrorContains(t, err, "staging runs no image of this name")

	_, err = NewPromoted([]string{"shop:1"}, "staging")
	require.ErrorContains(t, err, "carries no digest")
}

func TestPromotedReleaseHasTheVeryDigests(t *testing.T) {
	one, two := "@sha256:"+strings.Repeat("1", 64), "@sha256:"+strings.Repeat("2", 64)
	p, err := NewPromoted([]string{"r.example.com/shop" + one}, "staging")
	require.NoError(t, err)
	pod := func(image string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: " + image + "}, {name: side, image: r.example.com/side" + two + "}]}\n"
	}
	for image, says := range map[string]string{
		"shop": "", "r.example.com/shop" + one: "", "r.example.com/shop" + two: "the manifests pin r.example.com/shop", "else": "staging runs no image",
	} {
		objects, err := Parse("p.yaml", []byte(pod(image)))
		require.NoError(t, err)
		release, err := New(t.Context(), objects, Options{Namespace: "x", Resolver: p})
		if err == nil {
			err = p.Check(release.Objects)
		}
		if says != "" {
			require.ErrorContains(t, err, says, image)
			continue
		}
		require.NoError(t, err, image)
		require.Equal(t, []string{"r.example.com/shop" + one, "r.example.com/side" + two}, Images(release.Objects))
	}
}
