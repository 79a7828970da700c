package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/pipeline"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
)

func archiveOf(t testing.TB, headers []tar.Header, contents map[string]string) string {
	t.Helper()
	var buffer bytes.Buffer
	packed := gzip.NewWriter(&buffer)
	w := tar.NewWriter(packed)
	for _, header := range headers {
		header.Size = int64(len(contents[header.Name]))
		require.NoError(t, w.WriteHeader(&header))
		_, err := w.Write([]byte(contents[header.Name]))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, packed.Close())
	return buffer.String()
}

// Each case copies onto a base with /bin, /etc, /tmp (1777), /root (0700) and
// /var/run -> /run.
func TestCopyPutsFilesWhereDockerDoes(t *testing.T) {
	files := map[string]string{
		"a.txt": "A", "b.txt": "B", "dir/c.txt": "C", "dir/deep/d.txt": "D", "link": "-> a.txt", "dirlink": "-> dir",
		"dir/inner": "-> ../a.txt", "[odd]": "odd",
		"tree.tar.gz": archiveOf(t, []tar.Header{
			{Typeflag: tar.TypeReg, Name: "x/z", Mode: 0o600, Uid: 7, Gid: 8},
			{Typeflag: tar.TypeReg, Name: "x/a", Mode: 0o644},
			{Typeflag: tar.TypeSymlink, Name: "x/s", Linkname: "../../out"},
			{Typeflag: tar.TypeLink, Name: "x/h", Linkname: "x/z"},
		}, map[string]string{"x/z": "zz", "x/a": "aa"}),
	}
	cases := []struct {
		name, instructions string
		want               []string
	}{
		{"file to a new name", "COPY a.txt /new", []string{"new 0644 0:0 A"}},
		{"file into a directory of the base", "COPY a.txt /etc", []string{"etc/ 0755 0:0", "etc/a.txt 0644 0:0 A"}},
		{"directories keep their permissions", "COPY a.txt /root/x/", []string{"root/ 0700 0:0", "root/x/ 0755 0:0", "root/x/a.txt 0644 0:0 A"}},
		{"sticky directory", "COPY a.txt /tmp/", []string{"tmp/ 1777 0:0", "tmp/a.txt 0644 0:0 A"}},
		{"through a link of the base", "COPY a.txt /var/run/app/", []string{"run/ 0755 0:0", "run/app/ 0755 0:0", "run/app/a.txt 0644 0:0 A"}},
		{"a link is followed", "COPY link /l", []string{"l 0644 0:0 A"}},
		{"a linked directory's content", "COPY dirlink /d/", []string{"d/ 0755 0:0", "d/c.txt 0644 0:0 C", "d/deep/ 0755 0:0", "d/deep/d.txt 0644 0:0 D", "d/inner 0777 0:0 -> ../a.txt"}},
		{"wildcards", "COPY *.txt /w/", []string{"w/ 0755 0:0", "w/a.txt 0644 0:0 A", "w/b.txt 0644 0:0 B"}},
		{"escaped wildcards", `COPY [[]odd] /w/`, []string{"w/ 0755 0:0", "w/[odd] 0644 0:0 odd"}},
		{"wildcards in directories", "COPY d*/*/d.txt /w/", []string{"w/ 0755 0:0", "w/d.txt 0644 0:0 D"}},
		{"wildcards match nothing", "COPY *.none /w/", nil},
		{"numbers own", "COPY --chown=12:34 a.txt /n/", []string{"n/ 0755 12:34", "n/a.txt 0644 12:34 A"}},
		{"names own", "COPY --chown=app:staff a.txt /n/", []string{"n/ 0755 123:50", "n/a.txt 0644 123:50 A"}},
		{"a user's own group", "COPY --chown=app a.txt /n/", []string{"n/ 0755 123:456", "n/a.txt 0644 123:456 A"}},
		{"a number alone is the group too", "COPY --chown=12 a.txt /n", []string{"n 0644 12:12 A"}},
		{"octal mode", "COPY --chmod=4750 a.txt /m", []string{"m 4750 0:0 A"}},
		{"symbolic mode", "COPY --chmod=u=rwX,go=rX dir /m", []string{"m/ 0755 0:0", "m/c.txt 0644 0:0 C", "m/deep/ 0755 0:0", "m/deep/d.txt 0644 0:0 D", "m/inner 0777 0:0 -> ../a.txt"}},
		{"exclude", "COPY --exclude=*.txt --exclude=deep dir /e/", []string{"e/ 0755 0:0", "e/inner 0777 0:0 -> ../a.txt"}},
		{"parents", "COPY --parents dir/deep/d.txt /p/", []string{"p/ 0755 0:0", "p/dir/ 0755 0:0", "p/dir/deep/ 0755 0:0", "p/dir/deep/d.txt 0644 0:0 D"}},
		{"parents from a pivot", "COPY --parents dir/./deep/d.txt /p/", []string{"p/ 0755 0:0", "p/deep/ 0755 0:0", "p/deep/d.txt 0644 0:0 D"}},
		{"relative to the working directory", "WORKDIR /work\nCOPY a.txt .", []string{"work/ 0755 0:0", "work/a.txt 0644 0:0 A"}},
		{"working directory of a user", "USER app\nWORKDIR /work", []string{"work/ 0755 123:456"}},
		{"heredocs", "COPY <<one <<\"two\" /h/\n1 $HOME_X\none\n2 $HOME_X\ntwo\n", []string{"h/ 0755 0:0", "h/one 0644 0:0 1 \n", "h/two 0644 0:0 2 $HOME_X\n"}},
		{"several sources", "COPY a.txt dir /several", []string{"several/ 0755 0:0", "several/a.txt 0644 0:0 A", "several/c.txt 0644 0:0 C", "several/deep/ 0755 0:0", "several/deep/d.txt 0644 0:0 D", "several/inner 0777 0:0 -> ../a.txt"}},
		{"archives are unpacked", "ADD tree.tar.gz /u/", []string{"u/ 0755 0:0", "u/x/ 0755 0:0", "u/x/a 0644 0:0 aa", "u/x/h 0600 7:8 zz", "u/x/s 0777 0:0 -> ../../out", "u/x/z 0600 7:8 -> u/x/h"}},
		{"or are not", "ADD --unpack=false tree.tar.gz /u/\nCOPY a.txt /only", []string{"only 0644 0:0 A", "u/ 0755 0:0"}},
		{"the whole context", "COPY --exclude=*.gz --exclude=Dockerfile --exclude=dir --exclude=*link . /all/", []string{"all/ 0755 0:0", "all/[odd] 0644 0:0 odd", "all/a.txt 0644 0:0 A", "all/b.txt 0644 0:0 B"}},
	}
	b := newBench(t)
	b.busybox(nil)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := &bench{TB: t, peer: b.peer, builder: b.builder}
			all := map[string]string{"Dockerfile": "FROM busybox\n" + c.instructions + "\n"}
			for name, content := range files {
				all[name] = content
			}
			result := b.build(b.request(all))
			base := map[string]bool{}
			var made []string
			for _, line := range b.ownLayers(result, 1) {
				if !base[line] && !bytes.HasPrefix([]byte(line), []byte("u/tree.tar.gz")) {
					made = append(made, line)
				}
			}
			require.Equal(t, c.want, made)
		})
	}
}

func TestCopyErrorsSayWhereAndWhatToDo(t *testing.T) {
	b := newBench(t)
	b.busybox(nil)
	outside := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(outside, []byte("secret"), 0o600))
	evil := archiveOf(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "../../etc/passwd", Mode: 0o644}}, map[string]string{"../../etc/passwd": "x"})
	cases := []struct{ name, instructions, want string }{
		{"not there", "COPY nothing /", `"nothing" is not in the build context`},
		{"ignored", "COPY ignored.txt /", `left out of the build context by .dockerignore`},
		{"link out of the context", "COPY escape /", `"escape" is not in the build context`},
		{"relative link out of the context", "COPY up /", `is not in the build context`},
		{"through a linked directory", "COPY root/etc/hostname /", `is not in the build context`},
		{"dots", "COPY ../../../../etc/hostname /", `is not in the build context`},
		{"unknown user", "COPY --chown=nobody a.txt /", `user "nobody" is not in the image's /etc/passwd`},
		{"file as directory", "COPY a.txt /bin/busybox/", `/bin/busybox is not a directory`},
		{"below a file", "COPY a.txt /bin/busybox/x/y", `/bin/busybox is not a directory in the image`},
		{"whiteout", "COPY .wh.x /", `can't hold a file whose name starts with ".wh."`},
		{"archive that climbs", "ADD evil.tar.gz /", `leads out of the archive`},
		{"mode", "COPY --chmod=99 a.txt /", `want an octal number`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := &bench{TB: t, peer: b.peer, builder: b.builder}
			request := b.request(map[string]string{
				"Dockerfile": "FROM busybox\n" + c.instructions + "\n", "a.txt": "A", "ignored.txt": "x", ".dockerignore": "ignored.txt\n",
				"escape": "-> " + outside, "up": "-> ../../../../../../etc/hostname", "root": "-> /", ".wh.x": "x", "evil.tar.gz": evil,
			})
			_, err := b.builder.Build(context.Background(), request)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "Dockerfile:2:")
			require.Contains(t, []pipeline.Cause{pipeline.CauseFailed, pipeline.CauseInvalid}, pipeline.CauseOf(err))
		})
	}
}

// ownLayers is tree without the base image's layers.
func (b *bench) ownLayers(result *Result, base int) []string {
	b.Helper()
	image := b.pulled(result)
	layers, err := image.Layers()
	require.NoError(b, err)
	return b.files(layers[base:])
}

func TestSameFilesSameDigestElsewhere(t *testing.T) {
	b := newBench(t)
	files := map[string]string{"Dockerfile": "FROM scratch\nCOPY . /app\nWORKDIR /x\n", "a": "1", "d/b": "2", "d/l": "-> b"}
	first := b.request(files)
	second := b.request(files)
	past := time.Now().Add(-400 * 24 * time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(second.Context, "a"), past, past))
	require.NoError(t, os.Chown(filepath.Join(second.Context, "a"), 1234, 1234))
	one := b.build(first)
	b.builder = b.newBuilder(t.TempDir())
	two := b.build(second)
	require.Equal(t, one.Digest, two.Digest)
	require.Positive(t, two.Stats.Made)

	second.Epoch = time.Unix(1700000000, 0)
	dated := b.build(second)
	require.NotEqual(t, one.Digest, dated.Digest)
	config, err := b.pulled(dated).ConfigFile()
	require.NoError(t, err)
	require.Equal(t, second.Epoch.UTC(), config.Created.UTC())
}

func TestEveryPartOfTheConfigurationIsInTheDigest(t *testing.T) {
	b := newBench(t)
	digests := map[v1.Hash]string{}
	for _, line := range []string{
		"", "HEALTHCHECK CMD true", "HEALTHCHECK --interval=3s CMD true", "HEALTHCHECK --start-interval=3s CMD true", "ONBUILD RUN x",
		"STOPSIGNAL 9", "VOLUME /v", "SHELL [\"/x\"]", "EXPOSE 1", "USER 1", "LABEL a=b", "ENV a=b", "CMD x", "ENTRYPOINT x", "MAINTAINER me",
	} {
		result := b.build(b.request(map[string]string{"Dockerfile": "FROM scratch\nCOPY f /\n" + line + "\n", "f": "f"}))
		require.NotContains(t, digests, result.Digest, line)
		digests[result.Digest] = line
	}
	zstd := b.request(map[string]string{"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "f"})
	zstd.Codec = "zstd"
	result := b.build(zstd)
	require.NotContains(t, digests, result.Digest)
	require.Equal(t, 1, result.Stats.Made, "a layer of another codec is another layer")
}

func TestBaseLayersThatNothingNeedsAreNotFetched(t *testing.T) {
	b := newBench(t)
	b.busybox(nil)
	b.peer.forget()
	request := b.request(map[string]string{"Dockerfile": "FROM busybox\nENV A=b\nCMD [\"sh\"]\n"})
	result := b.build(request)
	image := b.pulled(result)
	manifest, err := image.Manifest()
	require.NoError(t, err)
	b.peer.forget()
	b.builder = b.newBuilder(t.TempDir())
	b.build(request)
	require.Empty(t, b.peer.asked("GET", manifest.Layers[0].Digest.String()))
}

func TestOneChangedFileMakesOneLayer(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\nCOPY b /b\n", "a": "1", "b": "2"})
	b.build(request)
	writeFiles(t, request.Context, map[string]string{"b": "3"})
	b.peer.forget()
	again := b.build(request)
	require.Equal(t, 1, again.Stats.Made)
	require.Equal(t, 1, again.Stats.Cached)
	require.EqualValues(t, 2, again.Stats.BlobsUploaded, "the layer and the configuration")
	require.Contains(t, b.tree(again), "b 0644 0:0 3")
}

func TestOnbuildOfTheBaseRunsFirst(t *testing.T) {
	b := newBench(t)
	b.busybox(func(c *v1.Config) { c.OnBuild = []string{"COPY a /from-base", "ENV SET=yes"} })
	result := b.build(b.request(map[string]string{"Dockerfile": "FROM busybox\nLABEL set=$SET\n", "a": "1"}))
	require.Equal(t, []string{"from-base 0644 0:0 1"}, b.ownLayers(result, 1))
	config, err := b.pulled(result).ConfigFile()
	require.NoError(t, err)
	require.Equal(t, "yes", config.Config.Labels["set"])
	require.Empty(t, config.Config.OnBuild)
}

func TestWarningsAreEvents(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{"Dockerfile": "FROM scratch as x\nWORKDIR rel\nCMD foo\n"})
	result := b.build(request)
	var rules []string
	for _, w := range result.Warnings {
		rules = append(rules, w.Rule)
	}
	require.Contains(t, rules, "FromAsCasing")
	require.Contains(t, rules, "WorkdirRelativePath")
	require.Contains(t, rules, "JSONArgsRecommended")
	var seen int
	for _, e := range b.events {
		if e.Kind == progress.Warning {
			seen++
		}
	}
	require.Equal(t, len(result.Warnings), seen)
}
