package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

// internet is a set of hosts, reached by name, with TLS where the port is 443.
type internet struct {
	mu    sync.Mutex
	hosts map[string]http.HandlerFunc
	// seen are the credentials each host got.
	seen   map[string][]string
	secure *httptest.Server
	plain  *httptest.Server
}

func newInternet(t testing.TB, hosts map[string]http.HandlerFunc) *internet {
	n := &internet{hosts: hosts, seen: map[string][]string{}}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		if a := r.Header.Get("Authorization"); a != "" {
			n.seen[r.Host] = append(n.seen[r.Host], a)
		}
		if r.Method == http.MethodPost && strings.Contains(r.Header.Get("Content-Type"), "form") {
			body, _ := io.ReadAll(r.Body)
			n.seen[r.Host] = append(n.seen[r.Host], string(body))
		}
		handle := n.hosts[r.Host]
		n.mu.Unlock()
		if handle == nil {
			http.NotFound(w, r)
			return
		}
		handle(w, r)
	})
	n.secure, n.plain = httptest.NewTLSServer(handler), httptest.NewServer(handler)
	t.Cleanup(n.secure.Close)
	t.Cleanup(n.plain.Close)
	return n
}

func (n *internet) client(options Options) *Client {
	carrier := newTransport()
	carrier.Proxy = nil
	carrier.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // names are the test's
	carrier.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		to := n.secure
		if strings.HasSuffix(address, ":80") {
			to = n.plain
		}
		return (&net.Dialer{}).DialContext(ctx, network, strings.TrimPrefix(strings.TrimPrefix(to.URL, "https://"), "http://"))
	}
	options.Transport, options.Retry = carrier, (&clock{now: time.Unix(0, 0)}).retry()
	return New(options)
}

// login is a keychain with one login for one registry.
type login struct {
	registry string
	config   authn.AuthConfig
}

func (l login) Resolve(resource authn.Resource) (authn.Authenticator, error) {
	if resource.RegistryStr() == l.registry {
		return authn.FromConfig(l.config), nil
	}
	return authn.Anonymous, nil
}

func challenge(realm string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer the-token" {
			w.WriteHeader(http.StatusOK)
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry"`, realm))
		w.WriteHeader(http.StatusUnauthorized)
	}
}

func token(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"the-token"}`) }

const registryHost = "registry.example.com"

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusTemporaryRedirect) }
}

func TestLoginsGoToTheRealmThatTheRegistryVouchesForAlone(t *testing.T) {
	password := authn.AuthConfig{Username: "user", Password: "canary"}
	identity := authn.AuthConfig{IdentityToken: "canary"}
	for _, c := range []struct {
		name   string
		login  authn.AuthConfig
		hosts  map[string]http.HandlerFunc
		realms map[string][]string
		// to is who may see the login; empty means nobody.
		to, says string
	}{
		{name: "the registry itself", login: password, hosts: map[string]http.HandlerFunc{registryHost: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				token(w, r)
				return
			}
			challenge("https://registry.example.com/token")(w, r)
		}}, to: registryHost},
		{name: "its domain", login: password, hosts: map[string]http.HandlerFunc{
			registryHost: challenge("https://auth.example.com/token"), "auth.example.com": token,
		}, to: "auth.example.com"},
		{name: "its domain, identity token", login: identity, hosts: map[string]http.HandlerFunc{
			registryHost: challenge("https://auth.example.com/token"), "auth.example.com": token,
		}, to: "auth.example.com"},
		{name: "another domain", login: password, hosts: map[string]http.HandlerFunc{
			registryHost: challenge("https://evil.test/token"), "evil.test": token,
		}, says: "--registry-realm registry.example.com=evil.test"},
		{name: "another domain, identity token", login: identity, hosts: map[string]http.HandlerFunc{
			registryHost: challenge("https://evil.test/token"), "evil.test": token,
		}, says: "--registry-realm registry.example.com=evil.test"},
		{name: "another domain that is allowed", login: password, hosts: map[string]http.HandlerFunc{
			registryHost: challenge("https://sso.test/token"), "sso.test": token,
		}, realms: map[string][]string{registryHost: {"sso.test"}}, to: "sso.test"},
		{name: "its domain on another port", login: password, hosts: map[string]http.HandlerFunc{
			registryHost: challenge("https://auth.example.com:8443/token"), "auth.example.com:8443": token,
		}, says: "--registry-realm"},
		{name: "without TLS", login: password, hosts: map[string]http.HandlerFunc{
			registryHost: challenge("http://registry.example.com/token"),
		}, says: "realm"},
		{name: "a redirect's realm", login: password, hosts: map[string]http.HandlerFunc{
			registryHost: redirect("https://evil.test/v2/"), "evil.test": func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					token(w, r)
					return
				}
				challenge("https://evil.test/token")(w, r)
			},
		}, says: "--registry-realm"},
		{name: "a realm of its domain that a redirect names", login: password, hosts: map[string]http.HandlerFunc{
			registryHost: redirect("https://evil.test/v2/"), "evil.test": challenge("https://taken-over.example.com/token"), "taken-over.example.com": token,
		}, says: "--registry-realm"},
		{name: "a realm that redirects", login: password, hosts: map[string]http.HandlerFunc{
			registryHost: challenge("https://auth.example.com/token"), "auth.example.com": redirect("https://evil.test/token?scope=x"), "evil.test": token,
		}, to: "auth.example.com"},
		{name: "a realm that redirects to a host below it", login: password, hosts: map[string]http.HandlerFunc{
			registryHost: challenge("https://auth.example.com/token"), "auth.example.com": redirect("https://evil.auth.example.com/token"), "evil.auth.example.com": token,
		}, to: "auth.example.com"},
		{name: "Basic at the other end of a redirect", login: password, hosts: map[string]http.HandlerFunc{
			registryHost: redirect("https://evil.test/v2/"), "evil.test": func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			},
		}, to: registryHost},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newInternet(t, c.hosts)
			client := n.client(Options{Keychain: login{registryHost, c.login}, Realms: c.realms})
			_, err := client.Resolve(context.Background(), registryHost+"/app:v1", v1.Platform{OS: "linux", Architecture: "amd64"}, nil)
			require.Error(t, err, "no host has the image")
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "canary")
			n.mu.Lock()
			defer n.mu.Unlock()
			saw := false
			for host, all := range n.seen {
				for _, text := range all {
					if text == "Bearer the-token" {
						require.Equal(t, registryHost, host, "a token went to another host")
						continue
					}
					require.Equal(t, c.to, host, "the login went to another host: %s", text)
					saw = true
				}
			}
			require.Equal(t, c.to != "", saw)
		})
	}
}

func TestRedirectedContentGetsNoToken(t *testing.T) {
	content := uploadOf([]byte("content"))
	for _, host := range []string{"cdn.test", "cdn.registry.example.com", "cdn.example.com"} {
		t.Run(host, func(t *testing.T) {
			n := newInternet(t, map[string]http.HandlerFunc{
				registryHost: func(w http.ResponseWriter, r *http.Request) {
					switch {
					case r.URL.Path == "/token":
						token(w, r)
					case strings.Contains(r.URL.Path, "/blobs/"):
						redirect("https://"+host+"/blob")(w, r)
					default:
						challenge("https://registry.example.com/token")(w, r)
					}
				},
				host: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "content") },
			})
			client := n.client(Options{Keychain: login{registryHost, authn.AuthConfig{Username: "user", Password: "canary"}}})
			ref, err := client.Source(registryHost + "/app")
			require.NoError(t, err)
			reader, err := client.Blob(context.Background(), ref.Context(), content.Descriptor, 0)
			require.NoError(t, err)
			got, err := io.ReadAll(reader)
			require.NoError(t, err)
			require.Equal(t, "content", string(got))
			require.Empty(t, n.seen[host])
		})
	}
}

func TestNobodyIsReachedWithoutTLSUnasked(t *testing.T) {
	const private = "10.1.2.3"
	n := newInternet(t, map[string]http.HandlerFunc{private: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }})
	n.secure.Close()
	keychain := login{private, authn.AuthConfig{Username: "user", Password: "canary"}}
	_, err := n.client(Options{Keychain: keychain}).Resolve(context.Background(), private+"/app", v1.Platform{}, nil)
	require.ErrorContains(t, err, "--insecure-registry")
	require.Empty(t, n.seen[private])
	_, err = n.client(Options{Keychain: keychain, Insecure: []string{private}}).Resolve(context.Background(), private+"/app", v1.Platform{}, nil)
	require.Error(t, err)
	require.NotContains(t, err.Error(), "--insecure-registry")
}

// authority serves a registry whose certificate only its own authority vouches for.
func authority(t *testing.T) (host, file string) {
	inside := inMemory(t)
	server := httptest.NewUnstartedServer(inside.Config.Handler)
	server.Config.ErrorLog = nil
	server.StartTLS()
	t.Cleanup(server.Close)
	file = filepath.Join(t.TempDir(), "ca.pem")
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(file, data, 0o600))
	u, err := url.Parse(server.URL)
	require.NoError(t, err)
	return u.Host, file
}

func TestARegistryWithItsOwnAuthority(t *testing.T) {
	host, file := authority(t)
	directory := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(directory, host), 0o700))
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(directory, host, "ca.crt"), data, 0o600))
	for name, options := range map[string]Options{
		"file":       {Certificates: Certificates{Authorities: map[string][]string{host: {file}}}},
		"directory":  {Certificates: Certificates{Directories: []string{filepath.Join(directory, "none"), directory}}},
		"unverified": {Insecure: []string{host}},
	} {
		t.Run(name, func(t *testing.T) {
			options.Default = host
			c := New(options)
			_, err := c.Push(context.Background(), pushOf(t, c, "team/app:v1", []byte("content")))
			require.NoError(t, err)
		})
	}
	k := &clock{now: time.Unix(0, 0)}
	c := New(Options{Default: host, Retry: k.retry()})
	_, err = c.Push(context.Background(), pushOf(t, c, "team/app:v1", []byte("content")))
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, err, &unknown)
	require.Empty(t, k.pauses, "it is not tried again")

	require.NoError(t, os.WriteFile(file, []byte("no PEM"), 0o600))
	c = New(Options{Default: host, Certificates: Certificates{Authorities: map[string][]string{host: {file}}}})
	_, err = c.Push(context.Background(), pushOf(t, c, "team/app:v1", []byte("content")))
	require.ErrorContains(t, err, "has no certificate in PEM")
}
