package remote

import (
	"bytes"
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	return serveAt(t, "127.0.0.1", handler)
}

// serveAt serves on an address of this machine: 127.0.0.2 is another host to a client.
func serveAt(t *testing.T, address string, handler http.HandlerFunc) string {
	t.Helper()
	listener, err := net.Listen("tcp", address+":0")
	require.NoError(t, err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

func fetched(t *testing.T, c *Client, location string) (string, error) {
	t.Helper()
	t.Cleanup(c.Close)
	var body bytes.Buffer
	_, err := c.Get(context.Background(), location, Validators{}, &body)
	return body.String(), err
}

func TestWhatIsKnownIsNotSentAgain(t *testing.T) {
	location := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		if r.Header.Get("If-None-Match") == `"v1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = io.WriteString(w, "content")
	})
	c := New(Options{})
	var body bytes.Buffer
	first, err := c.Get(context.Background(), location, Validators{}, &body)
	require.NoError(t, err)
	require.Equal(t, "content", body.String())
	second, err := c.Get(context.Background(), location, first.Validators, &body)
	require.NoError(t, err)
	require.True(t, second.Unchanged)
	require.Equal(t, "content", body.String())
}

func TestAddressesOfThisMachineAndPrivateOnesAreNotPublic(t *testing.T) {
	for _, text := range []string{
		"127.0.0.1", "127.1.2.3", "::1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "fe80::1", "fc00::1", "fd00:ec2::254", "0.0.0.0", "::",
		"100.64.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "::127.0.0.1",
	} {
		require.False(t, Public(netip.MustParseAddr(text)), text)
	}
	for _, text := range []string{"8.8.8.8", "1.1.1.1", "2606:4700::1111"} {
		require.True(t, Public(netip.MustParseAddr(text)), text)
	}
}

// A name that resolves to an address inside is as bad as the address, and so is
// a redirect to it.
func TestAGuardedClientReachesNothingInside(t *testing.T) {
	asked := false
	inside := serve(t, func(http.ResponseWriter, *http.Request) { asked = true })
	port := inside[strings.LastIndex(inside, ":"):]
	c := New(Options{Allow: Public})
	for _, location := range []string{inside, "http://localhost" + port, "http://[::1]" + port, "http://2130706433" + port, "http://0x7f.1" + port, "http://0" + port} {
		_, err := fetched(t, c, location)
		require.Error(t, err, location)
	}
	_, err := fetched(t, c, inside)
	var refused *RefusedError
	require.ErrorAs(t, err, &refused)
	for _, location := range []string{inside + "/x.git", "http://localhost" + port + "/x.git"} {
		g, _, err := ParseGit(location)
		require.NoError(t, err)
		_, err = c.Resolve(context.Background(), g)
		require.ErrorAs(t, err, &refused)
	}
	for _, location := range []string{"git@localhost:x.git", "git://127.0.0.1/x.git", "ssh://localhost/x.git"} {
		g, _, err := ParseGit(location)
		require.NoError(t, err)
		_, err = c.Resolve(context.Background(), g)
		require.ErrorContains(t, err, "refused")
	}
	outside := serveAt(t, "127.0.0.2", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, inside, http.StatusFound) })
	c = New(Options{Allow: func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.2") }})
	_, err = fetched(t, c, outside)
	require.ErrorAs(t, err, &refused, "the first hop is allowed, the second is not")
	require.False(t, asked, "the server inside was reached")
}

func TestEndlessAndShortAndSlowAnswersEnd(t *testing.T) {
	endless := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	_, err := fetched(t, New(Options{MaxBytes: 1 << 20}), endless)
	require.ErrorContains(t, err, "more than 1048576 bytes")
	short := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
	})
	_, err = fetched(t, New(Options{}), short)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "a")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	_, err = fetched(t, New(Options{Stall: 20 * time.Millisecond}), slow)
	require.ErrorContains(t, err, "nothing came")
	turning := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path+"x", http.StatusFound) })
	_, err = fetched(t, New(Options{}), turning+"/")
	require.ErrorContains(t, err, "redirects")
}

func TestCredentialsStayWithTheirHost(t *testing.T) {
	const canary = "canary-4711"
	var seen []string
	other := serveAt(t, "127.0.0.2", func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"), r.Header.Get("Referer"))
	})
	own := ""
	location := serve(t, func(w http.ResponseWriter, r *http.Request) {
		own = r.Header.Get("Authorization")
		http.Redirect(w, r, other, http.StatusFound)
	})
	host := strings.TrimPrefix(location, "http://")
	c := New(Options{Secret: func(id string) ([]byte, bool) { return []byte(canary), id == "HTTP_AUTH_TOKEN."+host }})
	_, err := fetched(t, c, location)
	require.NoError(t, err)
	require.Equal(t, "Bearer "+canary, own)
	require.Equal(t, []string{"", ""}, seen)
	_, err = fetched(t, New(Options{}), strings.Replace(location, "http://", "http://user:"+canary+"@", 1))
	require.NoError(t, err)
	require.NotContains(t, strings.Join(seen, " "), canary)
	_, err = fetched(t, New(Options{}), "http://user:"+canary+"@127.0.0.1:1/?token="+canary)
	require.Error(t, err)
	require.NotContains(t, err.Error(), canary)
}

// To net/http another port of a host is the same host; it may be another's server.
func TestCredentialsStayWithTheirPort(t *testing.T) {
	var seen []string
	other := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"), r.Header.Get("Referer"))
	})
	location := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other, http.StatusFound) })
	host := strings.TrimPrefix(location, "http://")
	c := New(Options{Secret: func(id string) ([]byte, bool) { return []byte("canary"), id == "HTTP_AUTH_TOKEN."+host }})
	_, err := fetched(t, c, location)
	require.NoError(t, err)
	require.Equal(t, []string{"", ""}, seen)
}

func TestNothingIsRedirectedOutOfTLS(t *testing.T) {
	reached := false
	plain := serve(t, func(http.ResponseWriter, *http.Request) { reached = true })
	for name, location := range map[string]string{"http": plain, "file": "file:///etc/passwd"} {
		secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, location, http.StatusFound) }))
		t.Cleanup(secure.Close)
		roots := x509.NewCertPool()
		roots.AddCert(secure.Certificate())
		_, err := fetched(t, New(Options{Roots: roots}), secure.URL)
		require.ErrorContains(t, err, "redirects", name)
	}
	require.False(t, reached)
}
