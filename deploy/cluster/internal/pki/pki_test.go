package pki

import (
	"bytes"
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func server() Identity {
	return Identity{File: "server", Authority: "ca", User: "kube-apiserver", DNS: []string{"localhost"}, IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
}

func node() Identity {
	return Identity{File: "node", Authority: "ca", User: "system:node:n", Group: "system:nodes", Client: true}
}

func ensure(t *testing.T, dir string, at time.Time, ids ...Identity) {
	t.Helper()
	if err := Ensure(dir, []string{"ca", "other"}, ids, at); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestIssuedCertificatesVerify(t *testing.T) {
	dir := t.TempDir()
	ensure(t, dir, now, server(), node())
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(read(t, filepath.Join(dir, "ca.crt")))
	others := x509.NewCertPool()
	others.AppendCertsFromPEM(read(t, filepath.Join(dir, "other.crt")))

	tests := []struct {
		name, file, host string
		roots            *x509.CertPool
		usage            x509.ExtKeyUsage
		ok               bool
	}{
		{"server by name", "server", "localhost", roots, x509.ExtKeyUsageServerAuth, true},
		{"server by address", "server", "127.0.0.1", roots, x509.ExtKeyUsageServerAuth, true},
		{"server elsewhere", "server", "10.0.0.1", roots, x509.ExtKeyUsageServerAuth, false},
		{"server as client", "server", "", roots, x509.ExtKeyUsageClientAuth, false},
		{"client", "node", "", roots, x509.ExtKeyUsageClientAuth, true},
		{"client as server", "node", "", roots, x509.ExtKeyUsageServerAuth, false},
		{"other authority", "node", "", others, x509.ExtKeyUsageClientAuth, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := load(dir, tt.file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.cert.Verify(x509.VerifyOptions{DNSName: tt.host, Roots: tt.roots, KeyUsages: []x509.ExtKeyUsage{tt.usage}, CurrentTime: now})
			if (err == nil) != tt.ok {
				t.Errorf("verify: %v, want ok %v", err, tt.ok)
			}
		})
	}
	p, err := load(dir, "node")
	if err != nil {
		t.Fatal(err)
	}
	if got := p.cert.Subject.String(); got != "CN=system:node:n,O=system:nodes" {
		t.Errorf("subject %s", got)
	}
}

func TestEnsureKeepsWhatIsGoodAndReplacesTheRest(t *testing.T) {
	moved := server()
	moved.IPs = []netip.Addr{netip.MustParseAddr("10.1.0.1")}
	tests := []struct {
		name  string
		at    time.Time
		id    Identity
		spoil func(t *testing.T, dir string)
		kept  bool
	}{
		{"same day", now.Add(time.Hour), server(), nil, true},
		{"about to end", now.Add(identityValidity - renewBefore + time.Hour), server(), nil, false},
		{"clock set back", now.Add(-time.Hour), server(), nil, false},
		{"other address", now, moved, nil, false},
		{"key damaged", now, server(), func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "server.key"), []byte("half a k"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"authority lost", now, server(), func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
				t.Fatal(err)
			}
		}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			ensure(t, dir, now, server())
			before := read(t, filepath.Join(dir, "server.crt"))
			if tt.spoil != nil {
				tt.spoil(t, dir)
			}
			ensure(t, dir, tt.at, tt.id)
			if kept := bytes.Equal(before, read(t, filepath.Join(dir, "server.crt"))); kept != tt.kept {
				t.Errorf("kept %v, want %v", kept, tt.kept)
			}
			if _, err := load(dir, "server"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKeysAreForTheOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	ensure(t, dir, now, server())
	if err := EnsureSigningKey(dir, "sa"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "kubeconfig")
	if err := WriteKubeconfig(path, "c", "https://127.0.0.1:6443", dir, server()); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"ca.key", "server.key", "sa.key", "kubeconfig"} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
	}
	before := read(t, filepath.Join(dir, "sa.key"))
	if err := EnsureSigningKey(dir, "sa"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, read(t, filepath.Join(dir, "sa.key"))) {
		t.Error("the signing key changed: every service account token would become invalid")
	}
}

func TestUnknownAuthority(t *testing.T) {
	id := node()
	id.Authority = "nobody"
	if err := Ensure(t.TempDir(), []string{"ca"}, []Identity{id}, now); err == nil {
		t.Error("no error")
	}
}
