//go:build e2e

package differential

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
)

// TestCraneFindsNothingWrong lets the registry tool of others look at what is
// pushed, in all the shapes it has.
func TestCraneFindsNothingWrong(t *testing.T) {
	p := newPair(t)
	zstd, err := layer.ParseCodec("zstd", nil)
	require.NoError(t, err)
	both, err := plan.ParsePlatforms([]string{"linux/amd64,linux/arm64"})
	require.NoError(t, err)
	for shape, change := range map[string]func(*image.Request){
		"plain":    func(*image.Request) {},
		"attested": func(r *image.Request) { r.Attest = image.Attest{Provenance: attest.Max, SBOM: true} },
		"index":    func(r *image.Request) { r.Platforms, r.Target = both, "anywhere" },
		"zstd":     func(r *image.Request) { r.Codec = zstd },
	} {
		t.Run(shape, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(`FROM scratch AS anywhere
COPY Dockerfile /a/b
COPY --chown=7:8 Dockerfile /c
FROM busybox
COPY --from=anywhere / /
RUN ln /c /d && ln -s a /link && mkdir /empty && rm /bin/sh
`), 0o600))
			at := p.host + "/validated/" + shape
			request := image.Request{Context: dir, Tags: []string{at}, Push: true, Scope: "crane"}
			change(&request)
			result, err := p.builder.Build(t.Context(), request)
			require.NoError(t, err)
			at += "@" + result.Descriptor.Digest.String()
			crane := func(arguments ...string) []byte {
				output, err := exec.CommandContext(t.Context(), filepath.Join(p.binaries, "crane"), arguments...).CombinedOutput()
				require.NoError(t, err, string(output))
				return output
			}
			validate := []string{"validate", "--insecure", "--remote", at}
			if shape == "zstd" {
				validate = append(validate, "--fast") // it reads no layer but gzip's
			}
			require.Contains(t, string(crane(validate...)), "PASS")
			raw := crane("manifest", "--insecure", at)
			var manifest struct {
				Layers    []json.RawMessage
				Manifests []struct{ Annotations map[string]string }
			}
			require.NoError(t, json.Unmarshal(raw, &manifest))
			switch shape {
			case "index":
				require.Len(t, manifest.Manifests, 2)
			case "attested":
				require.Len(t, manifest.Manifests, 2)
				require.Equal(t, "attestation-manifest", manifest.Manifests[1].Annotations["vnd.docker.reference.type"])
			default:
				require.NotEmpty(t, manifest.Layers)
			}
		})
	}
}
