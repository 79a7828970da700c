package sbom

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const fedora = "ID=fedora\nVERSION_ID=42\n"

// harbour returns a database that RPM 4.18 made with two packages: rpm --dbpath D
// --justdb -i, of packages that rpmbuild made of specs with nothing but a name, a
// version and a file.
func harbour(t testing.TB) string {
	t.Helper()
	packed, err := os.Open("testdata/rpmdb.sqlite.gz")
	require.NoError(t, err)
	defer packed.Close()
	content, err := gzip.NewReader(packed)
	require.NoError(t, err)
	data, err := io.ReadAll(content)
	require.NoError(t, err)
	return string(data)
}

func TestRPM(t *testing.T) {
	p := scan(t, layer(t, entry{name: "etc/os-release", content: fedora}, entry{name: "var/lib/rpm/rpmdb.sqlite", content: harbour(t)}))
	require.Empty(t, p.Unread)
	require.Equal(t, []string{
		"pkg:rpm/fedora/buoy@0.9~rc1-1.fc42?arch=noarch&distro=fedora-42",
		"pkg:rpm/fedora/harbour@1.4-3.fc42?arch=noarch&distro=fedora-42&epoch=2",
	}, names(p))
	require.Equal(t, "MIT", p.All[1].License)
	require.Equal(t, "/var/lib/rpm/rpmdb.sqlite", p.All[1].Found)
}

// The older formats, of which nothing here makes one, come from the library's own
// tests: an image of SUSE has its own format, one of CentOS 5 Berkeley DB.
func TestRPMOfOlderFormats(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/anchore/go-rpmdb").Output()
	require.NoError(t, err)
	examples := filepath.Join(strings.TrimSpace(string(out)), "pkg", "testdata")
	for _, c := range []struct{ example, path, want string }{
		{"sle15-bci/Packages.db", "usr/lib/sysimage/rpm/Packages.db", "pkg:rpm/bash@"},
		{"centos5-plain/Packages", "var/lib/rpm/Packages", "pkg:rpm/bash@"},
	} {
		t.Run(c.example, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(filepath.Join(examples, c.example))
			require.NoError(t, err)
			p := scan(t, layer(t, entry{name: c.path, content: string(data)}))
			require.Empty(t, p.Unread)
			require.Contains(t, strings.Join(names(p), "\n"), c.want)
			require.NotContains(t, strings.Join(names(p), "\n"), "gpg-pubkey")
		})
	}
}

// A database that is broken, or means harm, costs its own packages and no more.
func TestRPMThatIsBroken(t *testing.T) {
	whole := harbour(t)
	torn := []byte(whole)
	for i := 4096; i < len(torn); i += 64 {
		torn[i] ^= 0xff
	}
	// NDB's header, one page of slots, and a package that says it has 4 GB.
	hostile := make([]byte, 8192)
	copy(hostile, "RpmP")
	hostile[12] = 1
	for at := 32; at < 4096; at += 16 {
		copy(hostile[at:], "Slot")
	}
	hostile[32+4], hostile[32+8] = 1, 1
	copy(hostile[16:], "BlbS\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff")
	for name, content := range map[string]string{
		"empty": "", "no database": "x", "cut": whole[:len(whole)/2], "torn": string(torn), "4 GB": string(hostile),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := scan(t, layer(t, entry{name: "lib/apk/db/installed", content: "P:musl\nV:1\n"}, entry{name: "var/lib/rpm/rpmdb.sqlite", content: content}))
			require.Len(t, p.Unread, 1)
			require.Contains(t, p.Unread[0], "rpm (/var/lib/rpm/rpmdb.sqlite: ")
			require.Equal(t, []string{"pkg:apk/alpine/musl@1"}, names(p))
		})
	}
}

func TestRPMEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := rpm(ctx, "var/lib/rpm/rpmdb.sqlite", bytes.NewReader([]byte(harbour(t))))
	require.ErrorIs(t, err, context.Canceled)
}
