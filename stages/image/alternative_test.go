package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/buildkit"
	"github.com/tidegate-ci/tidegate/stages/image/sign"
	"github.com/tidegate-ci/tidegate/stages/run"
)

func (b *bench) kind() *Kind {
	return &Kind{Builder: b.builder, Scripts: run.New(run.Options{HostEnv: map[string]string{"PATH": os.Getenv("PATH")}})}
}

func TestACommandBuilds(t *testing.T) {
	b := newBench(t)
	there := b.base("team/app:1", "x")
	at := b.peer.host() + "/team/app"
	absent := "sha256:" + strings.Repeat("0", 64)
	private, public, err := sign.Generate([]byte("p"))
	require.NoError(t, err)
	signed := `test -z "$KEY$PASSWORD" && echo "digest=` + there.Digest.String() + `" >> "$TIDEGATE_OUTPUT"`
	for script, want := range map[string]string{
		`echo "digest=` + there.Digest.String() + `" >> "$TIDEGATE_OUTPUT"`:                                                            "",
		`echo "image=` + at + "@" + there.Digest.String() + `" >> "$TIDEGATE_OUTPUT"`:                                                  "",
		`test "$TIDEGATE_IMAGE" = ` + at + `:` + commit[:12] + ` && echo "digest=` + there.Digest.String() + `" >> "$TIDEGATE_OUTPUT"`: "",
		signed:   "",
		`true`:   "left no digest",
		`exit 3`: "exit status 3",
		`echo "digest=latest" >> "$TIDEGATE_OUTPUT"`:                                          "is no digest",
		`echo "digest=sha512:` + strings.Repeat("0", 128) + `" >> "$TIDEGATE_OUTPUT"`:         "is no digest",
		`echo "digest=` + absent + `" >> "$TIDEGATE_OUTPUT"`:                                  "has no such image",
		`echo "image=evil.example.com/x@` + there.Digest.String() + `" >> "$TIDEGATE_OUTPUT"`: "build.push says",
	} {
		spec := pipeline.BuildSpec{Push: at, With: &pipeline.WithSpec{Command: script}}
		if script == signed { // alone, since opening a key is slow on purpose
			spec.Sign = &pipeline.SignSpec{Key: "KEY", Password: "PASSWORD"}
		}
		attempt, _ := b.attempt(nil, spec)
		attempt.Env = map[string]string{"KEY": string(private), "PASSWORD": "p"}
		outputs, err := b.kind().Run(context.Background(), attempt)
		if want != "" {
			require.ErrorContains(t, err, want, script)
			require.Equal(t, pipeline.CauseFailed, pipeline.CauseOf(err), script)
			continue
		}
		require.NoError(t, err, script)
		require.Equal(t, at+"@"+there.Digest.String(), outputs[pipeline.OutputImage])
		if script != signed {
			continue
		}
		ref, err := name.NewDigest(outputs[pipeline.OutputImage])
		require.NoError(t, err)
		key, err := sign.LoadPublicKey(public)
		require.NoError(t, err)
		_, err = sign.Verify(context.Background(), b.builder.Registry, ref, []*sign.PublicKey{key})
		require.NoError(t, err, "what a command built is signed")
	}
}

func TestOtherBuildersAreRefusedWhereTheyCouldDoHarm(t *testing.T) {
	b := newBench(t)
	marker := filepath.Join(t.TempDir(), "ran")
	for _, spec := range []pipeline.BuildSpec{
		{Push: "x", With: &pipeline.WithSpec{Command: "touch " + marker}},
		{Push: "x", With: &pipeline.WithSpec{Builder: "buildkit"}, BuildKit: &pipeline.BuildKitSpec{Address: "unix:///run/buildkit/buildkitd.sock"}},
	} {
		attempt, _ := b.attempt(map[string]string{"Dockerfile": "FROM scratch\n"}, spec)
		attempt.Event.Trust = event.Fork
		_, err := b.kind().Run(context.Background(), attempt)
		require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err))
		attempt.Event.Trust = event.Own
		kind := b.kind()
		builder := *b.builder
		builder.Policy = b.policy("version: 1\ndefault: deny\n", nil)
		kind.Builder = &builder
		_, err = kind.Run(context.Background(), attempt)
		require.Equal(t, pipeline.CauseRefused, pipeline.CauseOf(err), "a policy that is not held")
		require.NoFileExists(t, marker)
	}
}

func TestWithoutBuildctlTheErrorSaysSo(t *testing.T) {
	b := newBench(t)
	t.Setenv("PATH", t.TempDir())
	attempt, _ := b.attempt(map[string]string{"Dockerfile": "FROM scratch\n"}, pipeline.BuildSpec{
		Push: "x", With: &pipeline.WithSpec{Builder: "buildkit"}, BuildKit: &pipeline.BuildKitSpec{Address: "tcp://127.0.0.1:1"},
	})
	_, err := b.kind().Run(context.Background(), attempt)
	require.ErrorIs(t, err, buildkit.ErrNoClient)
}

func TestTheStageSignsAndAttests(t *testing.T) {
	b := newBench(t)
	private, public, err := sign.Generate(nil)
	require.NoError(t, err)
	spec := pipeline.BuildSpec{Push: "shop", Provenance: "max", SBOM: true, Sign: &pipeline.SignSpec{Key: "KEY"}}
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}
	attempt, out := b.attempt(files, spec)
	attempt.Env = map[string]string{"KEY": string(private)}
	outputs, err := b.kind().Run(context.Background(), attempt)
	require.NoError(t, err)
	ref, err := name.NewDigest(outputs[pipeline.OutputImage])
	require.NoError(t, err)
	key, err := sign.LoadPublicKey(public)
	require.NoError(t, err)
	for _, predicate := range []string{attest.PredicateProvenance, attest.PredicateSPDX} {
		statements, err := sign.VerifyAttestations(context.Background(), b.builder.Registry, ref, []*sign.PublicKey{key}, predicate)
		require.NoError(t, err)
		require.Len(t, statements, 1)
	}
	require.NotContains(t, out.String(), "PRIVATE KEY")

	// No RUN can mount the key.
	request, err := requestOf(attempt)
	require.NoError(t, err)
	require.NotContains(t, request.Secrets, "KEY")

	attempt.Env = nil
	_, err = b.kind().Run(context.Background(), attempt)
	require.ErrorContains(t, err, "there is no secret KEY")

	// A fork has no secrets, pushes nothing and signs nothing, and still builds.
	attempt, _ = b.attempt(files, spec)
	attempt.Event.Trust = event.Fork
	outputs, err = b.kind().Run(context.Background(), attempt)
	require.NoError(t, err)
	require.Empty(t, outputs[pipeline.OutputImage])
}
