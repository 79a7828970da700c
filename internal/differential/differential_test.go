//go:build e2e

package differential

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/internal/baseimage"
	"github.com/tidegate-ci/tidegate/internal/buildkitd"
	localregistry "github.com/tidegate-ci/tidegate/internal/registry"
	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// pair builds each case with both builders.
type pair struct {
	daemon  *buildkitd.Daemon
	builder *image.Builder
	// host is the registry's, binaries the directory with what make peers compiles.
	host, binaries string
}

// TestSameAsBuildKit builds the corpus with both builders.
func TestSameAsBuildKit(t *testing.T) {
	cases, err := Corpus(os.DirFS("testdata/corpus"))
	require.NoError(t, err)
	p := newPair(t)
	var mu sync.Mutex
	ran, needed := 0, map[int]bool{}
	t.Run("corpus", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				left, used := Split(c.Name, p.differences(t, c), intended)
				for _, difference := range left {
					t.Error(difference)
				}
				if t.Failed() {
					t.Log(c.About)
				}
				mu.Lock()
				defer mu.Unlock()
				ran++
				for _, row := range used {
					needed[row] = true
				}
			})
		}
	})
	if ran < len(cases) {
		return // only some were asked for
	}
	for row, i := range intended {
		if !needed[row] {
			t.Errorf("no case needs the intended difference of %q in %s any more", i.Fact, i.Case)
		}
	}
}

// binaries is where `make peers` puts what it compiles.
func binaries() string {
	if dir := os.Getenv("TIDEGATE_PEERS"); dir != "" {
		return dir
	}
	return filepath.Join("..", "..", ".bin")
}

func newPair(t *testing.T) *pair {
	t.Helper()
	dir := t.TempDir()
	host := serveRegistry(t, filepath.Join(dir, "registry"))
	pushBases(t, host, filepath.Join(dir, "bases"))
	absolute, err := filepath.Abs(binaries())
	require.NoError(t, err)
	daemon, err := buildkitd.Start(t.Context(), buildkitd.Options{Binaries: absolute, Registry: host})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, daemon.Close()) })
	client := registry.New(registry.Options{Default: host, Mirrors: map[string][]string{"docker.io": {host}}})
	builder, err := image.NewLocal(filepath.Join(dir, "tidegate"), client, store.Options{})
	require.NoError(t, err)
	return &pair{daemon, builder, host, absolute}
}

func serveRegistry(t *testing.T, dir string) string {
	t.Helper()
	r, err := localregistry.New(localregistry.Config{Dir: dir})
	require.NoError(t, err)
	server, err := r.Listen(t.Context(), "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
		require.NoError(t, r.Close())
	})
	return server.Address()
}

// pushBases makes the images that the corpus builds on: busybox, and others
// made of it with a configuration that has more in it.
func pushBases(t *testing.T, host, dir string) {
	t.Helper()
	busybox, err := baseimage.Busybox(t.Context(), dir)
	require.NoError(t, err)
	for repository, config := range map[string]v1.Config{
		"busybox": {},
		"trigger": {OnBuild: []string{"ENV TRIGGERED=yes", "RUN echo built > /onbuild", "COPY . /src/"}},
		"rich": {
			User: "nobody", WorkingDir: "/srv/app", Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{"echo base"},
			Env:          []string{"FROM_BASE=1", "PATH=/opt/bin:/bin:/usr/bin", "EMPTY="},
			Labels:       map[string]string{"base": "rich", "org.example.kept": "yes"},
			Volumes:      map[string]struct{}{"/data": {}},
			ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGINT", Shell: []string{"/bin/sh", "-ec"},
			Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "true"}, Interval: 5e9},
		},
	} {
		made := busybox
		if repository != "busybox" {
			file, err := busybox.ConfigFile()
			require.NoError(t, err)
			file = file.DeepCopy()
			if config.Env == nil {
				config.Env = file.Config.Env
			}
			file.Config = config
			made, err = mutate.ConfigFile(busybox, file)
			require.NoError(t, err)
		}
		ref, err := name.ParseReference(host + "/library/" + repository + ":latest")
		require.NoError(t, err)
		require.NoError(t, remote.Write(ref, made, remote.WithContext(t.Context())))
	}
}

// differences builds a case twice.
func (p *pair) differences(t *testing.T, c *Case) []Difference {
	t.Helper()
	dir := t.TempDir()
	files := filepath.Join(dir, "context")
	require.NoError(t, os.Mkdir(files, 0o755))
	require.NoError(t, c.WriteContext(files))
	ours, ourErr := p.ours(t, c, files, dir)
	theirs, theirErr := p.theirs(t, c, files, dir)
	if c.Fails != "" {
		require.ErrorContains(t, ourErr, c.Fails)
	}
	if ourErr != nil || theirErr != nil {
		outcome := Compare(Description{"outcome": said(ourErr)}, Description{"outcome": said(theirErr)})
		if ourErr != nil && theirErr != nil && c.Fails != "" {
			return nil
		}
		return outcome
	}
	return Compare(ours, theirs)
}

func said(err error) string {
	if err == nil {
		return "an image"
	}
	return err.Error()
}

func (p *pair) ours(t *testing.T, c *Case, files, dir string) (Description, error) {
	t.Helper()
	request := image.Request{
		Context: files, Target: c.Target, Args: c.Args, Labels: c.Labels, Secrets: map[string][]byte{}, Scope: "differential",
	}
	for id, value := range c.Secrets {
		request.Secrets[id] = []byte(value)
	}
	if c.Platform != "" {
		platform, err := plan.ParsePlatform(c.Platform)
		require.NoError(t, err)
		request.Platforms = []ocispec.Platform{platform}
	}
	result, err := p.builder.Build(t.Context(), request)
	if err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "tidegate")
	require.NoError(t, result.WriteLayout(t.Context(), out, nil))
	return describeLayout(t, out), nil
}

// describeLayout describes the only image of an OCI layout.
func describeLayout(t *testing.T, dir string) Description {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	require.NoError(t, err)
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 1)
	built, err := index.Image(manifest.Manifests[0].Digest)
	require.NoError(t, err)
	description, err := Describe(built)
	require.NoError(t, err)
	return description
}

func (p *pair) theirs(t *testing.T, c *Case, files, dir string) (Description, error) {
	t.Helper()
	out := filepath.Join(dir, "buildkit")
	build := buildkitd.Build{
		Context: files, Options: map[string]string{}, Secrets: map[string]string{}, Output: "type=oci,tar=false,dest=" + out,
	}
	if c.Target != "" {
		build.Options["target"] = c.Target
	}
	if c.Platform != "" {
		build.Options["platform"] = c.Platform
	}
	for key, value := range c.Args {
		build.Options["build-arg:"+key] = value
	}
	for key, value := range c.Labels {
		build.Options["label:"+key] = value
	}
	for id, value := range c.Secrets {
		file := filepath.Join(dir, "secret-"+id)
		require.NoError(t, os.WriteFile(file, []byte(value), 0o600))
		build.Secrets[id] = file
	}
	err := p.daemon.Build(t.Context(), build)
	var failed *buildkitd.FailedError
	if errors.As(err, &failed) {
		return nil, failed
	}
	require.NoError(t, err)
	return describeLayout(t, out), nil
}
