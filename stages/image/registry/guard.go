package registry

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"golang.org/x/net/publicsuffix"

	"github.com/tidegate-ci/tidegate/internal/lazyregexp"
)

// guard carries all requests of a session and keeps what only its registry, or
// who it trusts, may see from going elsewhere: a redirect, or a realm that a
// challenge names, can point at any host.
//
// A login (password, identity token) goes to the registry's own host and port,
// and to the realm that a challenge of this very host names, if the realm is
// reached over TLS and has the same registrable domain (index.docker.io logs in
// at auth.docker.io) or the user says so (Options.Realms). Tokens got for it go
// to the registry's own host alone. Without TLS nothing goes anywhere, unless
// the registry itself may be reached without.
type guard struct {
	next http.RoundTripper
	// registry is host[:port] of the session's registry.
	registry string
	// plain allows the registry to be reached without TLS.
	plain bool
	// realms are further hosts that logins may be sent to.
	realms []string

	mu sync.Mutex
	// vouched are the hosts of realms that the registry's own host named.
	vouched map[string]bool
}

// CredentialsError says that a login was not sent to where it was asked for.
type CredentialsError struct{ Registry, Host string }

func (e *CredentialsError) Error() string {
	return fmt.Sprintf("the registry %s asks for its login to be sent to %s, which is not of its domain: it was not sent; if that is where its users log in, allow it with --registry-realm %s=%s",
		e.Registry, printable(e.Host), e.Registry, printable(e.Host))
}

// maxAside bounds what is read of answers that are no content, in bytes.
const maxAside = 64 << 10

func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" && sameHost(request.URL, g.registry) && !g.plain {
		return nil, &permanentError{fmt.Errorf("the registry %s is reached without TLS only if it is named with --insecure-registry", g.registry)}
	}
	authorization := request.Header.Get("Authorization")
	switch login := isLogin(request, authorization); {
	case sameHost(request.URL, g.registry) && (request.URL.Scheme == "https" || g.plain):
	case login && g.mayLogIn(request.URL):
	case login && isRealmRequest(request):
		return nil, &permanentError{&CredentialsError{Registry: g.registry, Host: request.URL.Host}}
	case authorization != "":
		// What a redirect leads to is for everybody, or its address is signed.
		request = request.Clone(request.Context())
		request.Header.Del("Authorization")
	}
	response, err := g.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusUnauthorized && sameHost(request.URL, g.registry) {
		g.vouch(response.Header)
	}
	if response.StatusCode >= http.StatusMultipleChoices || strings.HasSuffix(request.URL.Path, "/v2/") {
		response.Body = &cutBody{Reader: io.LimitReader(response.Body, maxAside), Closer: response.Body}
	}
	return response, nil
}

type cutBody struct {
	io.Reader
	io.Closer
}

// isLogin tells whether a request holds a name and password, or what stands for them.
func isLogin(request *http.Request, authorization string) bool {
	scheme, _, _ := strings.Cut(authorization, " ")
	return strings.EqualFold(scheme, "Basic") ||
		request.Method == http.MethodPost && strings.HasPrefix(request.Header.Get("Content-Type"), "application/x-www-form-urlencoded")
}

// isRealmRequest tells a request for a token from one for content.
func isRealmRequest(request *http.Request) bool {
	return request.Method == http.MethodPost || request.URL.Query().Has("scope") || request.URL.Query().Has("service")
}

var realmPattern = lazyregexp.New(`(?i)\brealm="([^"]*)"`)

// vouch remembers the realms of a challenge.
func (g *guard) vouch(header http.Header) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, challenge := range header.Values("WWW-Authenticate") {
		for _, realm := range realmPattern().FindAllStringSubmatch(challenge, maxRealms) {
			if u, err := url.Parse(realm[1]); err == nil && u.Host != "" && len(g.vouched) < maxRealms {
				if g.vouched == nil {
					g.vouched = map[string]bool{}
				}
				g.vouched[u.Host] = true
			}
		}
	}
}

// maxRealms bounds the realms that are remembered of one registry.
const maxRealms = 16

// mayLogIn tells whether an address other than the registry's may see a login.
func (g *guard) mayLogIn(u *url.URL) bool {
	if u.Scheme != "https" && (u.Scheme != "http" || !g.plain) {
		return false
	}
	g.mu.Lock()
	vouched := g.vouched[u.Host]
	g.mu.Unlock()
	if !vouched {
		return false
	}
	for _, realm := range g.realms {
		if sameHost(u, realm) {
			return true
		}
	}
	return u.Scheme == "https" && sameDomain(u, g.registry)
}

// sameDomain tells whether an address on the usual port has the registrable
// domain of the registry.
func sameDomain(u *url.URL, registry string) bool {
	if (u.Port() != "" && u.Port() != "443") || net.ParseIP(u.Hostname()) != nil {
		return false
	}
	host, _ := splitHost(registry)
	ours, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(host))
	if err != nil {
		return false
	}
	theirs, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(u.Hostname()))
	return err == nil && ours == theirs
}

func sameHost(u *url.URL, host string) bool {
	name, port := splitHost(host)
	standard := map[string]string{"https": "443", "http": "80"}[u.Scheme]
	own := u.Port()
	if own == "" {
		own = standard
	}
	if port == "" {
		port = standard
	}
	return strings.EqualFold(u.Hostname(), name) && own == port
}

func splitHost(host string) (name, port string) {
	if name, port, err := net.SplitHostPort(host); err == nil {
		return name, port
	}
	return strings.Trim(host, "[]"), ""
}

// isLoopback tells whether a registry is on this machine.
func isLoopback(host string) bool {
	name, _ := splitHost(host)
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

// maxRedirects is how many redirects are followed.
const maxRedirects = 10

func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return &permanentError{errors.New("the registry redirects in a circle")}
	}
	return nil
}
