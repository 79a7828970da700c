package image

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/sign"
)

// attested reads the statements of a pushed index as others find them: by the
// annotations of the index and of the attestation manifests.
func (b *bench) attested(result *Result) map[v1.Hash][]attest.Statement {
	b.Helper()
	ref := b.digest(result)
	index, err := remote.Index(ref)
	require.NoError(b, err)
	require.NoError(b, validate.Index(index))
	manifest, err := index.IndexManifest()
	require.NoError(b, err)
	found := map[v1.Hash][]attest.Statement{}
	for _, d := range manifest.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
			continue
		}
		require.Equal(b, &v1.Platform{OS: "unknown", Architecture: "unknown"}, d.Platform)
		about, err := v1.NewHash(d.Annotations["vnd.docker.reference.digest"])
		require.NoError(b, err)
		image, err := index.Image(d.Digest)
		require.NoError(b, err)
		raw, err := image.Manifest()
		require.NoError(b, err)
		for _, l := range raw.Layers {
			require.Equal(b, types.MediaType("application/vnd.in-toto+json"), l.MediaType)
			layer, err := remote.Layer(ref.Context().Digest(l.Digest.String()))
			require.NoError(b, err)
			content, err := layer.Compressed()
			require.NoError(b, err)
			data, err := io.ReadAll(content)
			require.NoError(b, err)
			s, err := attest.ParseStatement(data)
			require.NoError(b, err)
			require.Equal(b, s.PredicateType, l.Annotations["in-toto.io/predicate-type"])
			require.True(b, s.About(about))
			found[about] = append(found[about], s)
		}
	}
	return found
}

func TestProvenanceIsAttached(t *testing.T) {
	b := newBench(t)
	base := b.base("team/base:1", "b")
	at := b.peer.host() + "/team/base:1"
	request := b.request(map[string]string{"Dockerfile": "ARG V\nFROM " + at + " AS build\nFROM scratch\nLABEL v=$V\nCOPY f /f\nFROM build\nCOPY f /g\n", "f": "1"})
	request.Attest = Attest{Provenance: attest.Max, VCS: attest.VCS{Revision: "abc"}}
	request.Args = map[string]string{"V": "value"}
	request.Platforms = []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}
	first := b.build(request)
	require.NotNil(t, first.Index)
	require.Equal(t, types.OCIImageIndex, first.Descriptor.MediaType)
	b.pulled(first)
	statements := b.attested(first)[first.Images[0].Digest]
	require.Len(t, statements, 1)
	require.Equal(t, "pkg:docker/"+b.peer.host()+"/test/app@v1?platform=linux%2Famd64", statements[0].Subject[0].Name)
	var p attest.Provenance
	require.NoError(t, json.Unmarshal(statements[0].Predicate, &p))
	require.Equal(t, []attest.ResourceDescriptor{{
		URI: "pkg:docker/" + b.peer.host() + "/team/base@1?platform=linux%2Famd64", Digest: map[string]string{"sha256": base.Digest.Hex},
	}}, p.BuildDefinition.ResolvedDependencies)
	require.Equal(t, "Dockerfile", p.BuildDefinition.ExternalParameters.ConfigSource.Path)
	require.Equal(t, "value", p.BuildDefinition.ExternalParameters.Request.Args["build-arg:V"])
	require.Equal(t, "abc", p.RunDetails.Metadata.BuildKit.VCS["revision"])

	// Elsewhere and later, the same.
	b.builder = b.newBuilder(t.TempDir())
	b.builder.Now = func() time.Time { return time.Unix(2_000_000_000, 0) }
	request.Context = b.context(map[string]string{"Dockerfile": "ARG V\nFROM " + at + " AS build\nFROM scratch\nLABEL v=$V\nCOPY f /f\nFROM build\nCOPY f /g\n", "f": "1"})
	require.Equal(t, first.Digest, b.build(request).Digest)
	request.Attest.Timestamps = true
	require.NotEqual(t, first.Digest, b.build(request).Digest)
}

func TestEveryPlatformIsAttested(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "1"})
	request.Platforms = []ocispec.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}
	request.Attest.Provenance = attest.Min
	result := b.build(request)
	found := b.attested(result)
	require.Len(t, found, 2)
	for _, image := range result.Images {
		require.Len(t, found[image.Digest], 1)
	}
}

func TestPackagesAreListed(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{
		"Dockerfile": "FROM scratch\nCOPY status /var/lib/dpkg/status\nCOPY m /app/node_modules/m\n",
		"status":     "Package: libc6\nVersion: 2.41\nArchitecture: amd64\n", "m/package.json": `{"name":"m","version":"1"}`,
	})
	request.Attest.SBOM = true
	first := b.build(request)
	again := b.build(request)
	require.Equal(t, first.Digest, again.Digest)
	statement := b.attested(first)[first.Images[0].Digest][0]
	require.Equal(t, attest.PredicateSPDX, statement.PredicateType)
	for _, want := range []string{"pkg:deb/debian/libc6@2.41?arch=amd64", "pkg:npm/m@1", `"spdxVersion":"SPDX-2.3"`} {
		require.Contains(t, string(statement.Predicate), want)
	}
	said, err := json.Marshal(b.events)
	require.NoError(t, err)
	require.Contains(t, string(said), `"event":"cached","step":"sbom linux/`, "what was found is kept")
}

// Nothing asked for, nothing changed: one image is a manifest and no index.
func TestNoAttestationsNoIndex(t *testing.T) {
	b := newBench(t)
	result := b.build(b.request(map[string]string{"Dockerfile": "FROM scratch\nCOPY f /f\n", "f": "1"}))
	require.Nil(t, result.Index)
}

func TestWhatIsPushedIsSigned(t *testing.T) {
	b := newBench(t)
	private, _, err := sign.Generate([]byte("password-canary"))
	require.NoError(t, err)
	key, err := sign.LoadKey(private, []byte("password-canary"))
	require.NoError(t, err)
	request := b.request(map[string]string{"Dockerfile": "FROM scratch\nARG TOKEN\nCOPY f /f\n", "f": "1"})
	request.Tags = []string{"test/app:v1", "other/app:v1", "other/app:v2"}
	request.Sign, request.Attest.Provenance = key, attest.Max
	request.Secrets = map[string][]byte{"token": []byte("secret-canary\n")}
	request.Args = map[string]string{"TOKEN": "x secret-canary y"}
	result := b.build(request)
	again := b.build(request)
	require.Equal(t, result.Digest, again.Digest)
	require.Len(t, result.Pushed, 2)
	for _, pushed := range result.Pushed {
		ref, err := name.NewDigest(pushed)
		require.NoError(t, err)
		_, err = sign.Verify(context.Background(), b.builder.Registry, ref, []*sign.PublicKey{key.Public()})
		require.NoError(t, err)
		statements, err := sign.VerifyAttestations(context.Background(), b.builder.Registry, ref, []*sign.PublicKey{key.Public()}, attest.PredicateProvenance)
		require.NoError(t, err)
		require.Len(t, statements, 1)
		require.NotContains(t, string(statements[0].Predicate), "canary")
	}
	said, err := json.Marshal(b.events)
	require.NoError(t, err)
	require.Contains(t, string(said), "sign "+b.peer.host()+"/test/app")
	for _, hidden := range []string{"canary", string(bytes.TrimSpace(private[50:90]))} {
		require.NotContains(t, string(said), hidden)
		require.NotContains(t, string(result.Index), hidden)
	}
}

func TestUsedByFollowsOnlyWhatTheTargetNeeds(t *testing.T) {
	b := newBench(t)
	b.base("team/base:1", "b")
	at := b.peer.host() + "/team/base:1"
	request := b.request(map[string]string{"Dockerfile": "FROM " + at + " AS other\nFROM scratch AS app\nCOPY <<EOF /f\nx\nEOF\n"})
	request.Target = "app"
	request.Attest.Provenance = attest.Min
	result := b.build(request)
	var p attest.Provenance
	require.NoError(t, json.Unmarshal(b.attested(result)[result.Images[0].Digest][0].Predicate, &p))
	require.Empty(t, p.BuildDefinition.ResolvedDependencies)
	require.Equal(t, []attest.Name{{Name: "dockerfile"}}, p.BuildDefinition.ExternalParameters.Request.Locals)
}
