// Package registry reads images from registries and pushes them there, in the
// ways a build needs: with mirrors, retries that resume where they stopped, and
// nothing sent or fetched that is there already.
package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/google"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Options say how registries are reached. The zero value reaches public ones,
// and those on loopback without TLS.
type Options struct {
	// Default is the registry host (with port) of names to push that have none;
	// empty means Docker Hub.
	Default string
	// Mirrors are registry hosts asked before a registry itself, by its host.
	// What a mirror does not have or cannot give comes from the registry.
	Mirrors map[string][]string
	// Insecure are hosts that may be talked to without TLS, or with a certificate
	// that nobody vouches for. Loopback may always be talked to without TLS.
	Insecure []string
	// Certificates are for registries with an authority of their own.
	Certificates Certificates
	// Realms are hosts (with port) that the login of a registry may be sent to
	// beside its own domain, by the registry's host.
	Realms map[string][]string
	// Keychain gives credentials; nil means those of the Docker configuration
	// (logins, identity tokens, credential helpers), and Google's for its own
	// registries.
	Keychain authn.Keychain
	// Transport carries requests in place of one made after Certificates and
	// Insecure; nil means none does.
	Transport http.RoundTripper
	// Platform is the one Image picks from an index; the zero value means the machine's.
	Platform v1.Platform
	Retry    Retry
}

// Client talks to registries. It is safe for concurrent use.
type Client struct {
	options   Options
	transport http.RoundTripper
	// elsewhere, if set, carries the requests to registries that are not known.
	elsewhere http.RoundTripper

	mu       sync.Mutex
	sessions map[string]*session
}

// userAgent is what registries see.
const userAgent = "tidegate"

// New makes a client.
func New(options Options) *Client {
	if options.Keychain == nil {
		options.Keychain = authn.NewMultiKeychain(authn.DefaultKeychain, google.Keychain)
	}
	options.Retry = options.Retry.withDefaults()
	c := &Client{options: options, transport: options.Transport, sessions: map[string]*session{}}
	if c.transport == nil {
		c.transport = &carriers{
			common: newTransport(), certificates: options.Certificates, unverified: c.insecure, own: map[string]http.RoundTripper{},
		}
	}
	return c
}

// insecure tells whether whoever runs this called a host so.
func (c *Client) insecure(host string) bool {
	return slices.ContainsFunc(c.options.Insecure, func(one string) bool { return canonicalHost(one) == host })
}

// guarded carries the requests of a session with a registry.
func (c *Client) guarded(registry string) *guard {
	carrier := c.transport
	if c.elsewhere != nil && !c.known(registry) {
		carrier = c.elsewhere
	}
	g := &guard{next: carrier, registry: registry, plain: isLoopback(registry) || c.insecure(registry)}
	for host, realms := range c.options.Realms {
		if canonicalHost(host) == registry {
			g.realms = append(g.realms, realms...)
		}
	}
	return g
}

const (
	connectTimeout = 15 * time.Second
	keepAlive      = 30 * time.Second
)

func newDialer() *net.Dialer {
	return &net.Dialer{Timeout: connectTimeout, KeepAlive: keepAlive}
}

func newTransport() *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: newDialer().DialContext, ForceAttemptHTTP2: true,
		MaxIdleConns: 64, MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 15 * time.Second, ResponseHeaderTimeout: 2 * time.Minute,
		WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10,
	}
}

// dockerHub is how Docker Hub is called in names, dockerHubHost where it is.
const (
	dockerHub     = "docker.io"
	dockerHubHost = name.DefaultRegistry
)

func canonicalHost(host string) string {
	if host == dockerHub {
		return dockerHubHost
	}
	return host
}

func (c *Client) nameOptions(host string) []name.Option {
	options := []name.Option{name.WeakValidation}
	if c.insecure(host) {
		options = append(options, name.Insecure)
	}
	return options
}

// Source reads a reference to pull: without a host it means Docker Hub.
func (c *Client) Source(reference string) (name.Reference, error) {
	return c.parse(reference, dockerHubHost)
}

// Destination reads a reference to push: without a host it means the default registry.
func (c *Client) Destination(reference string) (name.Reference, error) {
	host := canonicalHost(c.options.Default)
	if host == "" {
		host = dockerHubHost
	}
	return c.parse(reference, host)
}

// HasTag tells whether a reference is written with a tag or digest.
func HasTag(reference string) bool {
	if strings.Contains(reference, "@") {
		return true
	}
	return strings.Contains(reference[strings.LastIndex(reference, "/")+1:], ":")
}

func (c *Client) parse(reference, host string) (name.Reference, error) {
	options := append(c.nameOptions(host), name.WithDefaultRegistry(host))
	ref, err := name.ParseReference(reference, options...)
	if err != nil {
		return nil, fmt.Errorf("image name %q: %w", reference, err)
	}
	if actual := ref.Context().RegistryStr(); actual != host {
		// The host's own settings count, not the default's.
		if ref, err = name.ParseReference(reference, append(c.nameOptions(actual), name.WithDefaultRegistry(host))...); err != nil {
			return nil, fmt.Errorf("image name %q: %w", reference, err)
		}
	}
	return ref, nil
}

// candidates are the places to look for a reference, best first.
func (c *Client) candidates(ref name.Reference) []name.Reference {
	var all []name.Reference
	host := ref.Context().RegistryStr()
	for registry, mirrors := range c.options.Mirrors {
		if canonicalHost(registry) != host {
			continue
		}
		for _, mirror := range mirrors {
			if mirror == host {
				continue
			}
			at := mirror + "/" + ref.Context().RepositoryStr()
			if _, ok := ref.(name.Digest); ok {
				at += "@" + ref.Identifier()
			} else {
				at += ":" + ref.Identifier()
			}
			if m, err := name.ParseReference(at, c.nameOptions(mirror)...); err == nil {
				all = append(all, m)
			}
		}
	}
	return append(all, ref)
}

// session is an authenticated way to one repository.
type session struct {
	client *http.Client
	repo   name.Repository
}

func (c *Client) session(ctx context.Context, repo name.Repository, actions ...string) (*session, error) {
	scopes := make([]string, 0, len(actions))
	scopes = append(scopes, actions...)
	key := repo.Name() + " " + strings.Join(scopes, " ")
	c.mu.Lock()
	known := c.sessions[key]
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	authenticator, err := authn.Resolve(ctx, c.options.Keychain, repo)
	if err != nil {
		return nil, &permanentError{fmt.Errorf("find credentials for %s: %w", repo.RegistryStr(), err)}
	}
	carrier, err := transport.NewWithContext(ctx, repo.Registry, authenticator,
		transport.NewUserAgent(c.guarded(repo.RegistryStr()), userAgent), scopes)
	if err != nil {
		return nil, err
	}
	s := &session{client: &http.Client{Transport: carrier, CheckRedirect: checkRedirect}, repo: repo}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.sessions[key]; known != nil {
		return known, nil
	}
	c.sessions[key] = s
	return s, nil
}

// puller opens a session that may read, pusher one that may also write and
// mount from the repositories given.
func (c *Client) puller(ctx context.Context, repo name.Repository) (*session, error) {
	return c.session(ctx, repo, repo.Scope(transport.PullScope))
}

func (c *Client) pusher(ctx context.Context, repo name.Repository, mounts []name.Repository) (*session, error) {
	scopes := []string{repo.Scope(transport.PushScope)}
	for _, mount := range mounts {
		scopes = append(scopes, mount.Scope(transport.PullScope))
	}
	return c.session(ctx, repo, scopes...)
}

func (s *session) url(format string, args ...any) string {
	u := url.URL{
		Scheme: s.repo.Scheme(), Host: s.repo.RegistryStr(),
		Path: "/v2/" + s.repo.RepositoryStr() + "/" + fmt.Sprintf(format, args...),
	}
	return u.String()
}
