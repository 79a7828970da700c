//go:build !race

// Packing a Go toolchain under the race detector takes a minute and a half, and
// is one goroutine's work. "make test-unit" runs this without it.

package baseimage

import (
	"context"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/stretchr/testify/require"
)

func TestGolangBuildsAndTests(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	image, err := Golang(ctx, dir, runtime.GOROOT()) //nolint:staticcheck // SA1019: a test runs where it was built
	require.NoError(t, err)
	// The layers are read once, and checked against their digests, when the
	// container's root filesystem is made of them.
	require.NoError(t, validate.Image(image, validate.Fast))
	// Vetting a package without imports proves the tool at no cost; vetting the
	// test too would read the whole of the standard library below "testing" again.
	out := run(t, image, "sh", "-ec", `
mkdir /src && cd /src
printf 'module example.com/m\ngo 1.26\n' >go.mod
printf 'package m\n\nfunc Two() int { return 2 }\n' >m.go
go vet .
printf 'package m\n\nimport "testing"\n\nfunc TestTwo(t *testing.T) { if Two() != 2 { t.Fail() } }\n' >m_test.go
go test -vet=off .
`)
	require.Contains(t, out, "ok  \texample.com/m")
	second, err := Golang(ctx, dir, runtime.GOROOT()) //nolint:staticcheck // SA1019: a test runs where it was built
	require.NoError(t, err)
	a, err := image.Digest()
	require.NoError(t, err)
	b, err := second.Digest()
	require.NoError(t, err)
	require.Equal(t, a, b)
}
