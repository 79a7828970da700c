// Package sshtest is an SSH server for tests of Git over SSH: OpenSSH's, on a
// port of this machine, with keys of its own.
package sshtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// algorithms are those of a server as Debian installs it.
var algorithms = []string{"rsa", "ecdsa", "ed25519"}

// Server lets the user of this process in by a key.
type Server struct {
	// Address is HOST:PORT.
	Address string
	User    string
	// Key is the private key that is let in, in PEM; Stranger one that is not.
	Key, Stranger []byte

	dir string
}

// daemon must be called by its whole path: it starts itself again.
const daemon = "/usr/sbin/sshd"

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	require.FileExists(t, daemon, "openssh-server is needed: see .ci/packages")
	current, err := user.Current()
	require.NoError(t, err)
	s := &Server{User: current.Username, dir: t.TempDir()}
	for _, name := range append([]string{"user", "stranger"}, algorithms...) {
		algorithm := name
		if name == "user" || name == "stranger" {
			algorithm = "ed25519"
		}
		out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", algorithm, "-N", "", "-C", "test", "-f", s.file(name)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	s.Key, s.Stranger = s.read(t, "user"), s.read(t, "stranger")
	config := []string{
		"AuthorizedKeysFile " + s.file("user.pub"), "StrictModes no", "PasswordAuthentication no",
		"KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "PidFile none", "LogLevel ERROR",
	}
	for _, algorithm := range algorithms {
		config = append(config, "HostKey "+s.file(algorithm))
	}
	if current.Uid == "0" {
		config = append(config, "UsePAM yes") // without, it takes root for locked where it has no password
		require.NoError(t, os.MkdirAll("/run/sshd", 0o755))
	}
	require.NoError(t, os.WriteFile(s.file("config"), []byte(strings.Join(config, "\n")+"\n"), 0o600))
	s.serve(t)
	return s
}

func (s *Server) file(name string) string { return filepath.Join(s.dir, name) }

func (s *Server) read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(s.file(name))
	require.NoError(t, err)
	return data
}

// serve starts the daemon for each connection, so that there is none to stop.
func (s *Server) serve(t testing.TB) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	s.Address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			connection, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			socket, err := connection.File()
			_ = connection.Close() // the daemon has its own
			if err != nil {
				continue
			}
			running.Go(func() {
				defer socket.Close()
				command := exec.CommandContext(ctx, daemon, "-i", "-f", s.file("config"))
				command.Stdin, command.Stdout = socket, socket
				_ = command.Run() // what the client sees tells the test
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		cancel()
		running.Wait()
	})
}

// KnownHosts writes a known_hosts file that knows the server by one key: rsa,
// ecdsa or ed25519.
func (s *Server) KnownHosts(t testing.TB, algorithm string) string {
	t.Helper()
	return s.known(t, string(s.read(t, algorithm+".pub")))
}

// Impostor writes one that knows another key for the server.
func (s *Server) Impostor(t testing.TB) string {
	t.Helper()
	return s.known(t, string(s.read(t, "stranger.pub")))
}

func (s *Server) known(t testing.TB, key string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(s.Address)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "known_hosts")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "[%s]:%s %s", host, port, key), 0o600))
	return path
}

// URL is that of a repository in a directory of this machine.
func (s *Server) URL(dir string) string { return "ssh://" + s.User + "@" + s.Address + dir }
