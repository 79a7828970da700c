package image

import (
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/image/policy"
	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

// base builds and pushes an image with one file.
func (b *bench) base(tag, content string) *Result {
	b.Helper()
	request := b.request(map[string]string{"Dockerfile": "FROM scratch\nCOPY f /base\n", "f": content})
	request.Tags = []string{tag}
	return b.build(request)
}

func (b *bench) signed(result *Result) *sign.PublicKey {
	b.Helper()
	private, _, err := sign.Generate(nil)
	require.NoError(b, err)
	key, err := sign.LoadKey(private, nil)
	require.NoError(b, err)
	_, err = sign.Sign(context.Background(), b.builder.Registry, b.digest(result), key, nil)
	require.NoError(b, err)
	return key.Public()
}

func (b *bench) digest(result *Result) name.Digest {
	b.Helper()
	ref, err := name.NewDigest(result.Pushed[0])
	require.NoError(b, err)
	return ref
}

func (b *bench) policy(text string, key *sign.PublicKey) *policy.Policy {
	b.Helper()
	p, err := policy.Parse("images.yaml", []byte(text), func(string) ([]byte, error) {
		if key == nil {
			return nil, os.ErrNotExist
		}
		return key.PEM(), nil
	})
	require.NoError(b, err)
	return p
}

const mustBeSigned = "version: 1\ndefault: deny\nrules: [{images: ['**'], signed-by: [cosign.pub]}]\n"

func TestImagesMustSatisfyThePolicy(t *testing.T) {
	b := newBench(t)
	good, bad := b.base("team/good:1", "good"), b.base("team/bad:1", "bad")
	p := b.policy(mustBeSigned, b.signed(good))
	at := b.peer.host() + "/team/"
	_ = bad
	for name, c := range map[string]struct {
		dockerfile, line string
	}{
		"good":            {"FROM " + at + "good:1\n", ""},
		"good by digest":  {"FROM " + good.Pushed[0] + "\nWORKDIR /w\n", ""},
		"from":            {"# x\nFROM " + at + "bad:1\nCOPY f /\n", "Dockerfile:2"},
		"stage not used":  {"FROM " + at + "bad:1 AS other\nFROM " + at + "good:1\n", ""},
		"copy":            {"FROM scratch\nCOPY f /\nCOPY --from=" + at + "bad:1 /base /\n", "Dockerfile:3"},
		"mount":           {"FROM scratch\nRUN --mount=type=bind,from=" + at + "bad:1,target=/x true\n", "Dockerfile:2"},
		"behind argument": {"ARG TAG=bad\nFROM " + at + "${TAG}:1\n", "Dockerfile:2"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, where := range []string{"builder", "request"} {
				request := b.request(map[string]string{"Dockerfile": c.dockerfile, "f": "1"})
				builder := *b.builder
				if where == "builder" {
					builder.Policy = p
				} else {
					request.Policy = p
				}
				_, err := builder.Build(context.Background(), request)
				if c.line == "" {
					require.NoError(t, err)
					continue
				}
				require.ErrorContains(t, err, c.line)
				require.ErrorContains(t, err, "refuses "+at+"bad:1")
				require.ErrorContains(t, err, "images.yaml, rule 1")
				require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err))
			}
		})
	}
}

func TestNamesAreJudgedBeforeAnyRegistryIsAsked(t *testing.T) {
	b := newBench(t)
	b.builder.Policy = b.policy("version: 1\ndefault: allow\nrules: [{images: ['docker.io/library/*'], deny: use ours}]\n", nil)
	_, err := b.builder.Build(context.Background(), b.request(map[string]string{"Dockerfile": "FROM golang:1\n"}))
	require.ErrorContains(t, err, "Dockerfile:1")
	require.ErrorContains(t, err, "use ours")
	require.Empty(t, b.peer.asked("golang"))
}

// A tag that moves after the check must not bring another image in.
func TestWhatIsVerifiedIsWhatIsUsed(t *testing.T) {
	b := newBench(t)
	good := b.base("team/app:1", "good")
	b.base("team/evil:1", "evil")
	request := b.request(map[string]string{"Dockerfile": "FROM " + b.peer.host() + "/team/app:1\nWORKDIR /w\n"})
	request.Tags = []string{"team/result:1"}
	request.Policy = b.policy(mustBeSigned, b.signed(good))
	verified := false
	b.peer.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, ".sig") {
			verified = true
		}
		if !verified || r.URL.Path != "/v2/team/app/manifests/1" {
			return false
		}
		answer, err := http.Get(b.peer.URL + "/v2/team/evil/manifests/1")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		w.Header().Set("Content-Type", answer.Header.Get("Content-Type"))
		w.Header().Set("Docker-Content-Digest", answer.Header.Get("Docker-Content-Digest"))
		_, _ = io.Copy(w, answer.Body)
		return true
	}
	b.builder = b.newBuilder(t.TempDir()) // nothing known
	result := b.build(request)
	require.True(t, verified)
	require.Contains(t, b.tree(result), "base 0644 0:0 good")
}

// A mirror is no way around: its image must be signed too.
func TestMirrorsAreVerified(t *testing.T) {
	b := newBench(t)
	good := b.base("library/app:1", "good")
	key := b.signed(good)
	b.builder.Policy = b.policy(mustBeSigned, key)
	b.build(b.request(map[string]string{"Dockerfile": "FROM app:1\n"}))
	b.base("library/app:1", "evil")
	_, err := b.builder.Build(context.Background(), b.request(map[string]string{"Dockerfile": "FROM app:1\n"}))
	require.ErrorContains(t, err, "refuses app:1")
}

// A registry that can't be asked fails the build, and is told from a refusal.
func TestSignaturesThatCannotBeReadFailTheBuild(t *testing.T) {
	b := newBench(t)
	good := b.base("team/app:1", "good")
	b.builder.Policy = b.policy(mustBeSigned, b.signed(good))
	b.peer.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, ".sig") {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	_, err := b.builder.Build(context.Background(), b.request(map[string]string{"Dockerfile": "FROM " + b.peer.host() + "/team/app:1\n"}))
	require.ErrorContains(t, err, "look for the signature")
	require.NotEqual(t, pipeline.CauseRefused, pipeline.CauseOf(err))
}
