package sbom

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	packageurl "github.com/package-url/packageurl-go"
	"github.com/stretchr/testify/require"
)

// entry is a file of a layer; a name that ends with a slash is a directory.
type entry struct {
	name, content string
	mode          int64
}

func layer(t testing.TB, entries ...entry) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644 | e.mode, Size: int64(len(e.content)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(e.name, "/") {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		require.NoError(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write([]byte(e.content))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return &out
}

func scan(t testing.TB, layers ...*bytes.Buffer) Packages {
	t.Helper()
	s := NewScanner()
	for _, l := range layers {
		require.NoError(t, s.Layer(context.Background(), l))
	}
	require.NoError(t, s.Close())
	return s.Packages()
}

func names(p Packages) []string {
	all := []string{}
	for _, one := range p.All {
		all = append(all, one.url(p))
	}
	return all
}

const (
	osRelease = "NAME=\"Debian\"\nID=debian\nVERSION_ID=\"13\"\n"
	status    = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-12\nDescription: a\n Version: 9\n\n" +
		"Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n" +
		"Package: tzdata\nStatus: install ok installed\nArchitecture: all\nVersion: 2025b+dfsg-1\n"
)

func TestPackageManagers(t *testing.T) {
	p := scan(t, layer(t,
		entry{name: "usr/lib/os-release", content: osRelease}, entry{name: "./var/lib/dpkg/status", content: status},
		entry{name: "app/node_modules/left-pad/package.json", content: `{"name":"left-pad","version":"1.3.0","license":"MIT"}`},
		entry{name: "app/node_modules/@octo/lib/package.json", content: `{"name":"@octo/lib","version":"2.0.0"}`},
		entry{name: "app/package.json", content: `{"name":"app","version":"9"}`},
		entry{name: "app/node_modules/broken/package.json", content: `{`},
		entry{name: "usr/lib/python3/dist-packages/Requests_X-2.0.dist-info/METADATA", content: "Metadata-Version: 2.1\nName: Requests_X\nVersion: 2.0\n\nName: no\n"},
	))
	require.Equal(t, []string{
		"pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13", "pkg:deb/debian/tzdata@2025b%2Bdfsg-1?arch=all&distro=debian-13",
		"pkg:npm/left-pad@1.3.0", "pkg:npm/%40octo/lib@2.0.0", "pkg:pypi/requests-x@2.0",
	}, names(p))
	require.Empty(t, p.Unread)

	p = scan(t, layer(t, entry{name: "lib/apk/db/installed", content: "C:Q1x\nP:musl\nV:1.2.5-r9\nA:x86_64\nL:MIT\n\nP:busybox\nV:1.37.0-r12\nA:x86_64\n"}))
	require.Equal(t, []string{"pkg:apk/alpine/busybox@1.37.0-r12?arch=x86_64", "pkg:apk/alpine/musl@1.2.5-r9?arch=x86_64"}, names(p))
}

// This test is itself a Go program.
func TestGoPrograms(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	p := scan(t, layer(t, entry{name: "usr/bin/app", content: string(self), mode: 0o755}, entry{name: "usr/share/app", content: string(self)},
		entry{name: "usr/bin/broken", content: "\x7fELF" + strings.Repeat("\xff Go buildinf:\x08\x02", 8000), mode: 0o755}))
	require.Contains(t, names(p), "pkg:golang/stdlib@"+strings.TrimPrefix(runtime.Version(), "go"))
	found := strings.Join(names(p), "\n")
	require.Contains(t, found, "pkg:golang/github.com/tidegate-ci/tidegate")
	require.NotContains(t, found, "usr/share")
	for _, one := range p.All {
		require.Equal(t, "/usr/bin/app", one.Found)
	}
}

func TestUpperLayersTakeAway(t *testing.T) {
	apk := func(name string) string { return "P:" + name + "\nV:1\n" }
	npm := func(name string) string { return `{"name":"` + name + `","version":"1"}` }
	lower := func() *bytes.Buffer {
		return layer(t, entry{name: "lib/apk/db/installed", content: apk("old")},
			entry{name: "a/node_modules/x/package.json", content: npm("x")}, entry{name: "b/node_modules/y/package.json", content: npm("y")})
	}
	old, x, y := "pkg:apk/alpine/old@1", "pkg:npm/x@1", "pkg:npm/y@1"
	for name, c := range map[string]struct {
		upper []entry
		want  []string
	}{
		"nothing":              {nil, []string{old, x, y}},
		"replaced":             {[]entry{{name: "lib/apk/db/installed", content: apk("new")}}, []string{"pkg:apk/alpine/new@1", x, y}},
		"emptied":              {[]entry{{name: "lib/apk/db/installed"}}, []string{x, y}},
		"whiteout of file":     {[]entry{{name: "lib/apk/db/.wh.installed"}}, []string{x, y}},
		"whiteout of tree":     {[]entry{{name: ".wh.a"}}, []string{old, y}},
		"opaque":               {[]entry{{name: "a/.wh..wh..opq"}}, []string{old, y}},
		"opaque root":          {[]entry{{name: ".wh..wh..opq"}}, []string{}},
		"opaque keeps its own": {[]entry{{name: "a/node_modules/x/package.json", content: npm("z")}, {name: "a/.wh..wh..opq"}}, []string{old, y, "pkg:npm/z@1"}},
		"file over directory":  {[]entry{{name: "a/node_modules"}}, []string{old, y}},
		"directory stays":      {[]entry{{name: "a/node_modules/"}}, []string{old, x, y}},
		"similar name":         {[]entry{{name: ".wh.ab"}, {name: ".wh.b2"}}, []string{old, x, y}},
	} {
		t.Run(name, func(t *testing.T) { require.ElementsMatch(t, c.want, names(scan(t, lower(), layer(t, c.upper...)))) })
	}
}

func TestSPDX(t *testing.T) {
	p := scan(t, layer(t, entry{name: "etc/os-release", content: osRelease}, entry{name: "var/lib/dpkg/status", content: status},
		entry{name: "n/node_modules/m/package.json", content: `{"name":"m","version":"1","license":"SEE LICENSE IN x"}`}))
	digest := strings.Repeat("ab", 32)
	d := SPDX("pkg:docker/shop@1", digest, p, time.Unix(0, 0))
	require.Equal(t, d, SPDX("pkg:docker/shop@1", digest, p, time.Unix(0, 0)))
	raw, err := json.Marshal(d)
	require.NoError(t, err)
	require.Contains(t, string(raw), `"created":"1970-01-01T00:00:00Z"`)
	ids := map[string]bool{}
	for _, one := range d.Packages {
		require.Regexp(t, `^SPDXRef-[A-Za-z0-9.-]+$`, one.ID)
		require.False(t, ids[one.ID], "an identifier twice")
		ids[one.ID] = true
		require.NotContains(t, one.LicenseDeclared, "SEE")
		for _, ref := range one.References {
			_, err := packageurl.FromString(ref.Locator)
			require.NoError(t, err)
		}
	}
	for _, r := range d.Relationships {
		require.True(t, r.Element == d.ID || ids[r.Element])
		require.True(t, ids[r.Related])
	}
}

func TestBounds(t *testing.T) {
	s := NewScanner()
	defer s.Close()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "var/lib/dpkg/status", Mode: 0o644, Size: maxDatabase + 1, Typeflag: tar.TypeReg}))
	require.ErrorContains(t, s.Layer(context.Background(), &out), "larger than")
}

func FuzzLayer(f *testing.F) {
	f.Add(layer(f, entry{name: "var/lib/dpkg/status", content: status}, entry{name: ".wh.x"}).Bytes())
	f.Add(layer(f, entry{name: "../lib/apk/db/installed", content: "P:a\nV:1"}, entry{name: "bin/x", content: "\x7fELF" + strings.Repeat("x", minProgram), mode: 0o755}).Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		s := NewScanner()
		defer s.Close()
		_ = s.Layer(context.Background(), bytes.NewReader(data))
		d := SPDX("x", "00", s.Packages(), time.Time{})
		if _, err := json.Marshal(d); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDatabases(f *testing.F) {
	f.Add([]byte(status))
	f.Add([]byte("P:a\nV:1\n\nP:b"))
	f.Add([]byte(`{"name":"@a/b","version":"1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func([]byte) []Package{debian, alpine, npm, python} {
			for _, p := range parse(data) {
				if p.Name == "" && p.Namespace == "" || p.Version == "" {
					t.Fatalf("%+v", p)
				}
			}
		}
		modules(bytes.NewReader(data))
		release(data)
	})
}
