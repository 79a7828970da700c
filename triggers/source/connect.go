package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/http"

	"github.com/tidegate-ci/tidegate/internal/gitssh"
	"github.com/tidegate-ci/tidegate/pipeline/event"
)

// maxRefs bounds what a forge says of its refs over SSH, in bytes, beside the pack.
const maxRefs = 64 << 20

// connection is how one conversation with a forge is led.
type connection struct {
	auth transport.AuthMethod
	// secret must not be shown.
	secret string
	// tunnel is what SSH goes through; nil otherwise.
	tunnel *gitssh.Tunnel
	// letGo of the agent that was asked; nil when none was.
	letGo func()
}

func (c *connection) close() {
	c.tunnel.Close()
	if c.letGo != nil {
		c.letGo()
	}
}

// connect asks for credentials and prepares a conversation; close it.
func (c *Cache) connect(ctx context.Context, m *mirror, repository event.Repository) (*connection, error) {
	var credentials Credentials
	if c.config.Credentials != nil && m.url.Scheme != File {
		var err error
		if credentials, err = c.config.Credentials(ctx, repository); err != nil {
			return nil, fmt.Errorf("get credentials: %w", err)
		}
	}
	switch m.url.Scheme {
	case HTTP, HTTPS:
		if credentials.Password != "" {
			basic := &http.BasicAuth{Username: cmp.Or(credentials.Username, "x-access-token"), Password: credentials.Password}
			return &connection{auth: basic, secret: credentials.Password}, nil
		}
	case SSH:
		auth, letGo, err := sshAuth(ctx, m.url, credentials)
		if err != nil {
			return nil, err
		}
		return &connection{auth: auth, letGo: letGo, tunnel: gitssh.Open(ctx, 0, c.config.MaxPackBytes+maxRefs)}, nil
	}
	return &connection{}, nil
}

// sshAuth signs in with the repository's key, or else with the agent of whoever
// started this process.
func sshAuth(ctx context.Context, u *url.URL, credentials Credentials) (auth *gitssh.Auth, letGo func(), err error) {
	auth = &gitssh.Auth{User: u.User.Username(), KnownHosts: credentials.KnownHosts, Address: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "22"))}
	if len(credentials.SSHKey) > 0 {
		auth.Signers, err = gitssh.Key(credentials.SSHKey)
		return auth, nil, err
	}
	if auth.Signers, letGo, err = gitssh.Agent(ctx, os.Getenv("SSH_AUTH_SOCK")); err != nil {
		return nil, nil, fmt.Errorf("%w: no SSH key is set for the repository, and %w", ErrAccess, err)
	}
	return auth, letGo, nil
}

// translate names the failures that callers branch on and keeps the secret out of the text.
func (c *connection) translate(ctx context.Context, err error) error {
	var noRef git.NoMatchingRefSpecError
	switch {
	case err == nil, errors.Is(err, git.NoErrAlreadyUpToDate):
		return nil
	case ctx.Err() != nil:
		return withCause(ctx, ctx.Err())
	case c.tunnel.Err() != nil:
		return c.tunnel.Err()
	case errors.As(err, &noRef), errors.Is(err, git.ErrExactSHA1NotSupported), errors.Is(err, plumbing.ErrReferenceNotFound):
		return ErrNotFound
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return fmt.Errorf("%w: the repository is empty", ErrNotFound)
	case errors.Is(err, transport.ErrRepositoryNotFound), errors.Is(err, transport.ErrAuthenticationRequired),
		errors.Is(err, transport.ErrAuthorizationFailed), errors.Is(err, transport.ErrInvalidAuthMethod):
		return fmt.Errorf("%w: %w", ErrAccess, err)
	case strings.Contains(err.Error(), "not our ref"):
		return ErrNotFound
	case c.secret != "" && strings.Contains(err.Error(), c.secret):
		return errors.New(strings.ReplaceAll(err.Error(), c.secret, "***"))
	}
	err = gitssh.Explain(err)
	if errors.Is(err, gitssh.ErrRefused) {
		return fmt.Errorf("%w: %w", ErrAccess, err)
	}
	return err
}
