package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/image/layer"
)

func TestParseOutput(t *testing.T) {
	yes, no := true, false
	for text, want := range map[string]Output{
		"out":                                    {Kind: OutputLocal, Dest: "out"},
		"-":                                      {Kind: OutputTar, Dest: "-"},
		"type=oci,dest=a.tar":                    {Kind: OutputOCI, Dest: "a.tar"},
		"type=oci,dest=a,tar=false":              {Kind: OutputOCI, Dest: "a", Archive: &no},
		"type=oci,dest=-,tar=true":               {Kind: OutputOCI, Dest: "-", Archive: &yes},
		"type=docker,dest=-":                     {Kind: OutputDocker, Dest: "-"},
		"type=docker":                            {Kind: OutputLoad},
		"type=tar,dest=a":                        {Kind: OutputTar, Dest: "a"},
		`type=local,"dest=a,b"`:                  {Kind: OutputLocal, Dest: "a,b"},
		"type=local,dest=a,platform-split=false": {Kind: OutputLocal, Dest: "a", Split: &no},
		"type=registry,name=h/a":                 {Kind: OutputImage, Push: true, Names: []string{"h/a"}},
		"type=image,push=true,name=h/a,push-by-digest=true": {Kind: OutputImage, Push: true, ByDigest: true, Names: []string{"h/a"}},
		`type=image,push=true,"name=h/a,h/b:1"`:             {Kind: OutputImage, Push: true, Names: []string{"h/a", "h/b:1"}},
		"type=image":                                        {Kind: OutputImage},
		"type=image,compression=zstd,compression-level=3,force-compression=true,oci-mediatypes=true": {Kind: OutputImage, Codec: "zstd-3", ForceCodec: true},
		"type=image,annotation.a=b":         {Kind: OutputImage, Annotations: Annotations{{Level: OnManifest, Key: "a", Value: "b"}}},
		"type=image,annotation-index.a.b=c": {Kind: OutputImage, Annotations: Annotations{{Level: OnIndex, Key: "a.b", Value: "c"}}},
	} {
		got, err := ParseOutput(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	got, err := ParseOutput("type=oci,dest=x,annotation-manifest[linux/arm64].a.b=c")
	require.NoError(t, err)
	require.Equal(t, "a.b", got.Annotations[0].Key)
	require.Equal(t, "arm64", got.Annotations[0].Platform.Architecture)
	for text, want := range map[string]string{
		"type=oci":                       "needs dest=",
		"type=local":                     "needs dest=",
		"dest=x":                         "no type",
		"type=zip,dest=x":                "type=zip is not one of",
		"type=docker,dest=x,tar=false":   "use type=oci,tar=false",
		"type=oci,dest=x,tar=maybe":      "true or false",
		"type=image,compression=estargz": "use gzip, zstd or uncompressed",
		"type=image,compression=zstd,compression-level=40": "1 to 22",
		"type=image,oci-mediatypes=false":                  "always true",
		"type=oci,dest=x,unknown=1":                        `"unknown" is not one of`,
		"type=oci,dest":                                    "no key=value",
		"type=local,dest=-":                                "a directory can't go",
		"type=registry,push=false":                         "type=registry pushes",
		`type=oci,"dest`:                                   "key=value pairs",
	} {
		_, err := ParseOutput(text)
		require.ErrorContains(t, err, want, text)
	}
}

func FuzzParseOutput(f *testing.F) {
	for _, text := range []string{"-", "a", "type=oci,dest=x", `"type=local",dest=`, "type=image,annotation-index[].=", "annotation].[=", "type=image,annotation[a/b].c=d"} {
		f.Add(text)
	}
	f.Fuzz(func(_ *testing.T, text string) { _, _ = ParseOutput(text) })
}

func TestParseAnnotation(t *testing.T) {
	arm := platformsOf(t, "linux/arm64")[0]
	for text, want := range map[string]Annotations{
		"a=b":                                 {{Level: OnManifest, Key: "a", Value: "b"}},
		"index:a=b":                           {{Level: OnIndex, Key: "a", Value: "b"}},
		"index,manifest:a=b":                  {{Level: OnIndex, Key: "a", Value: "b"}, {Level: OnManifest, Key: "a", Value: "b"}},
		"manifest[linux/arm64]:a=b":           {{Level: OnManifest, Platform: &arm, Key: "a", Value: "b"}},
		"manifest-descriptor[linux/arm64]:a=": {{Level: OnManifestDescriptor, Platform: &arm, Key: "a"}},
		"a=http://x:1":                        {{Level: OnManifest, Key: "a", Value: "http://x:1"}},
		"org.opencontainers.image.url=x=y":    {{Level: OnManifest, Key: "org.opencontainers.image.url", Value: "x=y"}},
	} {
		got, err := ParseAnnotation(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, want := range map[string]string{
		"a": "KEY=VALUE", "=b": "KEY=VALUE", "layer:a=b": `"layer" is not one of`, "index[linux/amd64]:a=b": "takes none",
		"manifest[a/b/c/d]:a=b": "platform",
	} {
		_, err := ParseAnnotation(text)
		require.ErrorContains(t, err, want, text)
	}
}

// outputs builds without a registry into the outputs.
func (b *bench) outputs(request Request, outputs ...string) *Result {
	b.Helper()
	request.Push = false
	for _, text := range outputs {
		o, err := ParseOutput(text)
		require.NoError(b, err)
		request.Outputs = append(request.Outputs, o)
	}
	return b.build(request)
}

var outputFiles = map[string]string{
	"Dockerfile": "FROM scratch\nARG TARGETARCH\nCOPY a b /d/\nCOPY c /d/b\nLABEL for=$TARGETARCH\n", "a": "1", "b": "2", "c": "3",
}

func TestOutputsOfOnePlatform(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	var stdout bytes.Buffer
	request := b.request(outputFiles)
	request.OutputStream = &stdout
	request.Tags = []string{"test/app:v1", "test/app:v2"}
	result := b.outputs(request,
		"type=oci,dest="+at("layout.tar"), "type=oci,tar=false,dest="+at("layout"), "type=docker,dest="+at("docker.tar"),
		"type=tar,dest=-", at("files"), "type=local,platform-split=true,dest="+at("split"),
	)
	require.Empty(t, b.peer.asked("PUT"))

	path, err := layout.FromPath(at("layout"))
	require.NoError(t, err)
	image, err := path.Image(result.Digest)
	require.NoError(t, err)
	b.conforms(image)
	index, err := path.ImageIndex()
	require.NoError(t, err)
	manifest, err := index.IndexManifest()
	require.NoError(t, err)
	require.Len(t, manifest.Manifests, 2, "one for each tag")

	for _, tag := range []string{"docker.io/test/app:v1", "docker.io/test/app:v2"} {
		loaded, err := tarball.ImageFromPath(at("docker.tar"), mustTag(t, tag))
		require.NoError(t, err)
		b.conforms(loaded)
		config, err := loaded.ConfigFile()
		require.NoError(t, err)
		require.Equal(t, HostPlatform().Architecture, config.Config.Labels["for"])
	}
	require.Contains(t, names(t, at("layout.tar")), blobPath(result.Digest))
	require.Equal(t, "oci-layout", names(t, at("layout.tar"))[len(names(t, at("layout.tar")))-1])

	require.Equal(t, []string{"d/", "d/a", "d/b"}, tarNames(t, &stdout))
	for _, folder := range []string{at("files"), filepath.Join(at("split"), platformFolder(HostPlatform()))} {
		content, err := os.ReadFile(filepath.Join(folder, "d", "b"))
		require.NoError(t, err)
		require.Equal(t, "3", string(content))
	}
	again, err := os.ReadFile(at("docker.tar"))
	require.NoError(t, err)
	b.outputs(request, "type=docker,dest="+at("docker.tar"))
	same, err := os.ReadFile(at("docker.tar"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(again, same), "the same result, the same bytes")
}

func TestOutputsOfSeveralPlatforms(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	request := b.request(outputFiles)
	request.Platforms = platformsOf(t, "linux/amd64", "linux/arm/v7")
	result := b.outputs(request, "type=oci,tar=false,dest="+dir+"/layout", "type=tar,dest="+dir+"/files.tar", dir+"/files")
	path, err := layout.FromPath(filepath.Join(dir, "layout"))
	require.NoError(t, err)
	index, err := path.ImageIndex()
	require.NoError(t, err)
	b.indexConforms(index)
	inner, err := index.ImageIndex(result.Digest)
	require.NoError(t, err)
	b.indexConforms(inner)
	require.FileExists(t, filepath.Join(dir, "files", "linux_arm_v7", "d", "b"))
	require.FileExists(t, filepath.Join(dir, "files", "linux_amd64", "d", "b"))
	require.Contains(t, names(t, filepath.Join(dir, "files.tar")), "linux_arm_v7/d/b")

	for output, want := range map[string]string{
		"type=docker,dest=" + dir + "/x.tar":                 "use type=oci",
		"type=local,platform-split=false,dest=" + dir + "/x": "overwrite each other",
	} {
		o, err := ParseOutput(output)
		require.NoError(t, err)
		request.Outputs, request.Push = []Output{o}, false
		_, err = b.builder.Build(context.Background(), request)
		require.ErrorContains(t, err, want)
		require.Equal(t, pipeline.CauseInvalid, pipeline.CauseOf(err))
	}
	require.NoFileExists(t, filepath.Join(dir, "x.tar"), "half an archive is none")
}

func TestOutputsPush(t *testing.T) {
	b := newBench(t)
	request := b.request(outputFiles)
	request.Tags = nil
	result := b.outputs(request, "type=registry,name=team/a:1", "type=image,push=true,name=team/b")
	require.Len(t, result.Pushed, 2)
	require.NotEmpty(t, b.peer.asked("PUT", "/team/a/manifests/1"))
	b.pulled(result)
	b.peer.forget()
	request = b.request(outputFiles)
	request.Tags = nil
	result = b.outputs(request, "type=image,push=true,push-by-digest=true,name=team/c")
	require.Equal(t, []string{"PUT /v2/team/c/manifests/" + result.Digest.String()}, b.peer.asked("PUT", "/manifests/"))
}

func TestLoadingIntoDocker(t *testing.T) {
	// No Docker engine runs where these tests do: this is a small server in its place.
	b := newBench(t)
	socket := filepath.Join(t.TempDir(), "docker.sock")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	var got bytes.Buffer
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(&got, r.Body)
		_, _ = io.WriteString(w, "{\"stream\":\"Loaded image: test/app:v1\\n\"}\n")
	})}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close(); <-ended })
	t.Setenv("DOCKER_HOST", "unix://"+socket)
	b.outputs(b.request(outputFiles), "type=docker")
	image, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(got.Bytes())), nil }, nil)
	require.NoError(t, err)
	b.conforms(image)

	t.Setenv("DOCKER_HOST", "unix://"+socket+".none")
	request := b.request(outputFiles)
	request.Push, request.Outputs = false, []Output{{Kind: OutputLoad}}
	_, err = b.builder.Build(context.Background(), request)
	require.ErrorContains(t, err, socket+".none")
}

func TestAnnotations(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	request := b.request(outputFiles)
	request.Platforms = platformsOf(t, "linux/amd64", "linux/arm64")
	for _, text := range []string{"a=all", "manifest[linux/arm64]:a=arm", "index:i=1", "manifest-descriptor[linux/amd64]:d=2", "index-descriptor:x=3"} {
		all, err := ParseAnnotation(text)
		require.NoError(t, err)
		request.Annotations = append(request.Annotations, all...)
	}
	result := b.outputs(request, "type=oci,tar=false,dest="+dir)
	var index v1.IndexManifest
	require.NoError(t, json.Unmarshal(result.Index, &index))
	require.Equal(t, map[string]string{"i": "1"}, index.Annotations)
	require.Equal(t, map[string]string{"d": "2"}, index.Manifests[0].Annotations)
	require.Empty(t, index.Manifests[1].Annotations)
	for i, want := range []string{"all", "arm"} {
		var manifest v1.Manifest
		require.NoError(t, json.Unmarshal(result.Images[i].Raw, &manifest))
		require.Equal(t, map[string]string{"a": want}, manifest.Annotations)
	}
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &index))
	require.Equal(t, "3", index.Manifests[0].Annotations["x"])

	request.Platforms, request.Push = nil, false
	_, err = b.builder.Build(context.Background(), request)
	require.ErrorContains(t, err, "has no index")
}

func TestCompressions(t *testing.T) {
	b := newBench(t).withRunc()
	b.busybox(nil)
	for _, c := range []struct {
		codec string
		media types.MediaType
	}{{"gzip", types.OCILayer}, {"gzip-9", types.OCILayer}, {"zstd", types.OCILayerZStd}, {"zstd-19", types.OCILayerZStd}, {"uncompressed", types.OCIUncompressedLayer}} {
		for _, force := range []bool{false, true} {
			request := b.request(map[string]string{"Dockerfile": "FROM busybox\nCOPY a /a\nRUN echo 1 > /b\n", "a": strings.Repeat("text ", 1000)})
			request.Codec, request.ForceCodec = layer.Codec(c.codec), force
			result := b.build(request)
			image := b.pulled(result)
			layers, err := image.Layers()
			require.NoError(t, err)
			var got []types.MediaType
			for _, l := range layers {
				media, err := l.MediaType()
				require.NoError(t, err)
				got = append(got, media)
			}
			base := types.OCILayer
			if force {
				base = c.media
			}
			require.Equal(t, []types.MediaType{base, c.media, c.media}, got, c.codec)
			again := b.build(request)
			require.Equal(t, result.Digest, again.Digest)
			require.Zero(t, again.Stats.Made)
		}
	}
}

func mustTag(t testing.TB, text string) *name.Tag {
	tag, err := name.NewTag(text)
	require.NoError(t, err)
	return &tag
}

func names(t testing.TB, file string) []string {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	return tarNames(t, f)
}

func tarNames(t testing.TB, from io.Reader) []string {
	var all []string
	for r := tar.NewReader(from); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return slices.Clip(all)
		}
		require.NoError(t, err)
		all = append(all, header.Name)
	}
}
