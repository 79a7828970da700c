package source_test

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/tidegate-ci/tidegate/internal/gitssh/sshtest"
	"github.com/tidegate-ci/tidegate/pipeline/event"
	"github.com/tidegate-ci/tidegate/triggers/source"
)

// overSSH is a cache that signs in with a key.
func overSSH(t *testing.T, key []byte, knownHosts string) *source.Cache {
	t.Helper()
	return openCache(t, func(c *source.Config) {
		c.Protocols = []string{source.SSH}
		c.Credentials = func(context.Context, event.Repository) (source.Credentials, error) {
			return source.Credentials{SSHKey: key, KnownHosts: knownHosts}, nil
		}
	})
}

func TestFetchOverSSH(t *testing.T) {
	server, u := sshtest.Start(t), newUpstream(t)
	u.write("a", "1")
	first := u.commit("one")
	u.write("a", "2")
	second := u.commit("two")
	repository := event.Repository{FullName: "octo/shop", CloneURL: server.URL(u.dir)}
	for _, algorithm := range []string{"ed25519", "rsa"} {
		t.Run(algorithm, func(t *testing.T) {
			cache := overSSH(t, server.Key, server.KnownHosts(t, algorithm))
			head, err := cache.Head(t.Context(), repository, "")
			require.NoError(t, err)
			require.Equal(t, second, head)
			require.NoError(t, cache.Fetch(t.Context(), repository, "refs/heads/main", second))
			require.NoError(t, cache.Fetch(t.Context(), repository, "", first), "a commit by its name")
		})
	}
	err := overSSH(t, server.Stranger, server.KnownHosts(t, "rsa")).Fetch(t.Context(), repository, "refs/heads/main", "")
	require.ErrorIs(t, err, source.ErrAccess)
	require.ErrorContains(t, err, "lets none of the keys in")
	err = overSSH(t, server.Key, server.Impostor(t)).Fetch(t.Context(), repository, "refs/heads/main", "")
	require.ErrorContains(t, err, "someone may be in between")
	err = overSSH(t, []byte("c4n4ry"), "").Fetch(t.Context(), repository, "refs/heads/main", "")
	require.ErrorContains(t, err, "not a private key")
	require.NotContains(t, err.Error(), "c4n4ry")
}

// Without a key of its own a repository is fetched with the agent's.
func TestFetchWithTheAgent(t *testing.T) {
	server, u := sshtest.Start(t), newUpstream(t)
	commit := u.commit("one")
	key, err := ssh.ParseRawPrivateKey(server.Key)
	require.NoError(t, err)
	keys := agent.NewKeyring()
	require.NoError(t, keys.Add(agent.AddedKey{PrivateKey: key}))
	socket := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			_ = agent.ServeAgent(keys, connection) // until the fetch lets it go
			_ = connection.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	t.Setenv("SSH_AUTH_SOCK", socket)
	t.Setenv("SSH_KNOWN_HOSTS", server.KnownHosts(t, "ed25519"))
	repository := event.Repository{FullName: "octo/shop", CloneURL: server.URL(u.dir)}
	cache := openCache(t, func(c *source.Config) { c.Protocols = []string{source.SSH} })
	require.NoError(t, cache.Fetch(t.Context(), repository, "refs/heads/main", commit))
	_, err = cache.Head(t.Context(), repository, "main") // a second conversation: the first has let the agent go
	require.NoError(t, err)
}

func TestFetchWithoutAnSSHKey(t *testing.T) {
	t.Setenv("SSH_AUTH_SOCK", "")
	cache := openCache(t, func(c *source.Config) { c.Protocols = []string{source.SSH} })
	err := cache.Fetch(t.Context(), event.Repository{FullName: "octo/shop", CloneURL: "git@127.0.0.1:octo/shop"}, "refs/heads/main", "")
	require.ErrorIs(t, err, source.ErrAccess)
	require.ErrorContains(t, err, "no SSH key is set")
}

// A server that accepts and says nothing would hold the repository's lock.
func TestFetchFromASilentSSHServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() }) // connections are accepted by the kernel, and by nobody else
	server := sshtest.Start(t)
	cache := openCache(t, func(c *source.Config) {
		c.Protocols, c.FetchTimeout = []string{source.SSH}, 200*time.Millisecond
		c.Credentials = func(context.Context, event.Repository) (source.Credentials, error) {
			return source.Credentials{SSHKey: server.Key, KnownHosts: server.KnownHosts(t, "rsa")}, nil
		}
	})
	err = cache.Fetch(t.Context(), event.Repository{FullName: "octo/shop", CloneURL: "ssh://git@" + listener.Addr().String() + "/octo/shop"}, "refs/heads/main", "")
	require.ErrorContains(t, err, "no end after 200ms")
}
