// Package gitssh is SSH for go-git: servers are known by known_hosts and sign with
// the algorithms that are written there, and a connection ends with its context,
// or when nothing comes for too long.
package gitssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Auth signs in to a server.
//
// go-git's own methods take known_hosts as a mere check, so that a server that
// has a key of each algorithm shows one that is not written there, and is refused.
type Auth struct {
	// User is git when empty.
	User    string
	Signers func() ([]ssh.Signer, error)
	// KnownHosts is a file with the keys of servers; empty means those that
	// SSH_KNOWN_HOSTS names, or the user's and the system's.
	KnownHosts string
	// Address is the server's HOST:PORT, which a file is searched for.
	Address string
}

var _ gitssh.AuthMethod = (*Auth)(nil)

// Name is what go-git calls the method.
func (*Auth) Name() string { return gitssh.PublicKeysCallbackName }

func (a *Auth) String() string { return a.Name() }

// ClientConfig is how go-git connects.
func (a *Auth) ClientConfig() (*ssh.ClientConfig, error) {
	user := a.User
	if user == "" {
		user = gitssh.DefaultUsername
	}
	config := &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(a.Signers)}}
	if a.KnownHosts == "" {
		return config, nil // without a check go-git takes the usual files, algorithms included
	}
	known, err := gitssh.NewKnownHostsDb(a.KnownHosts)
	if err != nil {
		return nil, fmt.Errorf("read the keys of servers in %s: %w", a.KnownHosts, err)
	}
	config.HostKeyCallback, config.HostKeyAlgorithms = known.HostKeyCallback(), known.HostKeyAlgorithms(a.Address)
	return config, nil
}

// Key returns the signer of a private key in PEM without a passphrase.
func Key(pem []byte) (func() ([]ssh.Signer, error), error) {
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, errors.New("the SSH key is not a private key in PEM without passphrase") // err may quote it
	}
	return func() ([]ssh.Signer, error) { return []ssh.Signer{signer}, nil }, nil
}

// Agent returns the signers of the agent at a socket (SSH_AUTH_SOCK), and how to
// let it go.
func Agent(ctx context.Context, socket string) (signers func() ([]ssh.Signer, error), letGo func(), err error) {
	if socket == "" {
		return nil, nil, errors.New("no agent runs: SSH_AUTH_SOCK is not set")
	}
	connection, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, nil, fmt.Errorf("asking the agent: %w", err)
	}
	forget := context.AfterFunc(ctx, func() { _ = connection.Close() })
	return agent.NewClient(connection).Signers, func() {
		forget()
		_ = connection.Close() // only asked
	}, nil
}

// ErrRefused says that a server takes none of the keys.
var ErrRefused = errors.New("the SSH server lets none of the keys in")

// Explain says what to do about a server that refuses the keys, whose own key is
// not known, or is not the one that is; other errors it returns as they are.
func Explain(err error) error {
	var key *knownhosts.KeyError
	switch {
	case strings.Contains(err.Error(), "unable to authenticate"): // x/crypto/ssh has no name for it
		return fmt.Errorf("%w: add the public key to the account, or to the repository as a deploy key", ErrRefused)
	case !errors.As(err, &key):
		return err
	case len(key.Want) == 0:
		return errors.New("the SSH server is in no known_hosts file: compare its key with what the provider publishes, then add it with ssh-keyscan HOST >> ~/.ssh/known_hosts")
	default:
		return fmt.Errorf("the SSH server's key is not the one in %s, line %d: someone may be in between, or the server has a new key; compare it with what the provider publishes", key.Want[0].Filename, key.Want[0].Line)
	}
}
