package gitssh

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	gitssh "github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/internal/gitssh/sshtest"
)

func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-q", "--allow-empty", "-m", "x"}} {
		command := exec.Command("git", args...)
		command.Dir = dir
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return dir
}

// heads connects and returns how many refs there are.
func heads(ctx context.Context, auth *Auth, tunnel *Tunnel, url string) (int, error) {
	endpoint, err := transport.NewEndpoint(url)
	if err != nil {
		return 0, err
	}
	endpoint.Proxy = tunnel.Proxy()
	session, err := gitssh.NewClient(nil).NewUploadPackSession(endpoint, auth)
	if err != nil {
		return 0, err
	}
	refs, err := session.AdvertisedReferencesContext(ctx)
	_ = session.Close() // the tunnel ends what is left
	if err != nil {
		return 0, err
	}
	return len(refs.References), nil
}

func TestServersAreKnownByAnyOfTheirKeys(t *testing.T) {
	server, dir := sshtest.Start(t), repository(t)
	signers, err := Key(server.Key)
	require.NoError(t, err)
	ask := func(t *testing.T, auth Auth) (int, error) {
		t.Helper()
		auth.User, auth.Address = server.User, server.Address
		tunnel := Open(t.Context(), time.Minute, 1<<20)
		defer tunnel.Close()
		return heads(t.Context(), &auth, tunnel, server.URL(dir))
	}
	for _, algorithm := range []string{"rsa", "ecdsa", "ed25519"} {
		t.Run(algorithm, func(t *testing.T) {
			n, err := ask(t, Auth{Signers: signers, KnownHosts: server.KnownHosts(t, algorithm)})
			require.NoError(t, err)
			require.Equal(t, 1, n)
			t.Setenv("SSH_KNOWN_HOSTS", server.KnownHosts(t, algorithm))
			n, err = ask(t, Auth{Signers: signers})
			require.NoError(t, err, "by the usual files")
			require.Equal(t, 1, n)
		})
	}
	t.Run("unknown", func(t *testing.T) {
		none := filepath.Join(t.TempDir(), "known_hosts")
		require.NoError(t, os.WriteFile(none, nil, 0o600))
		_, err := ask(t, Auth{Signers: signers, KnownHosts: none})
		require.ErrorContains(t, Explain(err), "in no known_hosts file")
	})
	t.Run("someone in between", func(t *testing.T) {
		_, err := ask(t, Auth{Signers: signers, KnownHosts: server.Impostor(t)})
		require.ErrorContains(t, Explain(err), "line 1: someone may be in between")
	})
	t.Run("stranger", func(t *testing.T) {
		strange, err := Key(server.Stranger)
		require.NoError(t, err)
		_, err = ask(t, Auth{Signers: strange, KnownHosts: server.KnownHosts(t, "ed25519")})
		require.ErrorIs(t, Explain(err), ErrRefused)
	})
	t.Run("more than is taken", func(t *testing.T) {
		tunnel := Open(t.Context(), time.Minute, 100)
		defer tunnel.Close()
		_, err := heads(t.Context(), &Auth{User: server.User, Signers: signers, KnownHosts: server.KnownHosts(t, "rsa"), Address: server.Address}, tunnel, server.URL(dir))
		require.Error(t, err)
		require.ErrorContains(t, tunnel.Err(), "more than is taken")
	})
}

func TestKeysThatAreNone(t *testing.T) {
	const secret = "c4n4ry"
	_, err := Key([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\n" + secret))
	require.Error(t, err)
	require.NotContains(t, err.Error(), secret)
}

// A server that takes connections and says nothing.
func TestSilentServers(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted := make(chan net.Conn, 2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- connection
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
		close(accepted)
		for connection := range accepted {
			_ = connection.Close()
		}
	})
	url := "ssh://git@" + listener.Addr().String() + "/x"
	known := filepath.Join(t.TempDir(), "known_hosts")
	require.NoError(t, os.WriteFile(known, nil, 0o600))
	auth := &Auth{KnownHosts: known, Address: listener.Addr().String()}

	stalling := Open(t.Context(), 20*time.Millisecond, 1<<20)
	defer stalling.Close()
	_, err = heads(t.Context(), auth, stalling, url)
	require.Error(t, err)
	require.ErrorContains(t, stalling.Err(), "nothing came for 20ms")

	ctx, cancel := context.WithCancel(t.Context())
	patient := Open(ctx, 0, 1<<20)
	defer patient.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := heads(ctx, auth, patient, url)
		ended <- err
	}()
	(<-accepted).Close()
	second := <-accepted // it is connected, and waits
	cancel()
	require.Error(t, <-ended)
	_ = second.Close()

	patient.Close()
	_, err = heads(t.Context(), auth, patient, url)
	require.ErrorContains(t, err, "closed")
}
