package registry

import (
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/tidegate-ci/tidegate/internal/netguard"
)

// ForStrangers gives a client for names that somebody chose who may not do what
// this machine can: the author of a fork. A registry that the options name is
// reached as ever. Any other is reached on the public internet alone, and
// without credentials: an image that only this machine may read is not for them.
func (c *Client) ForStrangers() *Client {
	options := c.options
	options.Keychain = knownKeychain{c.options.Keychain, c.known}
	stranger := &Client{options: options, transport: c.transport, sessions: map[string]*session{}}
	if c.options.Transport == nil {
		stranger.elsewhere = publicTransport()
	}
	return stranger
}

// publicTransport refuses the addresses of this machine and of private networks,
// whatever name they have, and whatever a redirect leads to.
func publicTransport() http.RoundTripper {
	transport := newTransport()
	transport.Proxy = nil // it would look the name up itself
	dialer := newDialer()
	dialer.Control = netguard.Control(netguard.Public)
	transport.DialContext = dialer.DialContext
	return transport
}

// known tells whether whoever runs this named a registry host.
func (c *Client) known(host string) bool {
	named := append([]string{dockerHub, c.options.Default}, c.options.Insecure...)
	named = slices.AppendSeq(named, maps.Keys(c.options.Mirrors))
	for _, mirrors := range c.options.Mirrors {
		named = append(named, mirrors...)
	}
	named = slices.AppendSeq(named, maps.Keys(c.options.Certificates.Authorities))
	named = slices.AppendSeq(named, maps.Keys(c.options.Realms))
	if slices.ContainsFunc(named, func(one string) bool { return one != "" && canonicalHost(one) == host }) {
		return true
	}
	return slices.ContainsFunc(c.options.Certificates.Directories, func(dir string) bool {
		if host == "" || filepath.Base(host) != host || host == ".." {
			return false
		}
		_, err := os.Stat(filepath.Join(dir, host))
		return err == nil
	})
}

// knownKeychain has credentials for known registries.
type knownKeychain struct {
	authn.Keychain
	known func(host string) bool
}

// Resolve implements authn.Keychain.
func (k knownKeychain) Resolve(resource authn.Resource) (authn.Authenticator, error) {
	if !k.known(resource.RegistryStr()) {
		return authn.Anonymous, nil
	}
	return k.Keychain.Resolve(resource)
}
