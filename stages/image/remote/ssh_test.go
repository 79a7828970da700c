package remote

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/tidegate-ci/tidegate/internal/gitssh/sshtest"
)

func TestGitOverSSH(t *testing.T) {
	server, f := sshtest.Start(t), newForge(t)
	commit := f.repository("app", map[string]string{"Dockerfile": "FROM scratch\n", "bin/run": "x"})
	key, err := ssh.ParseRawPrivateKey(server.Key)
	require.NoError(t, err)
	keys := agent.NewKeyring()
	require.NoError(t, keys.Add(agent.AddedKey{PrivateKey: key}))
	location := server.URL(filepath.Join(f.dir, "app.git"))

	t.Setenv("SSH_KNOWN_HOSTS", server.KnownHosts(t, "ed25519"))
	c := New(Options{Agent: keys})
	defer c.Close()
	at, _, err := ParseGit(location)
	require.NoError(t, err)
	found, err := c.Resolve(t.Context(), at)
	require.NoError(t, err)
	require.Equal(t, commit, found)
	files, _, err := f.checkout(c, location)
	require.NoError(t, err)
	require.Contains(t, files, "Dockerfile")

	t.Setenv("SSH_KNOWN_HOSTS", server.Impostor(t))
	_, _, err = f.checkout(c, location)
	require.ErrorContains(t, err, "someone may be in between")
	require.NoError(t, os.WriteFile(os.Getenv("SSH_KNOWN_HOSTS"), nil, 0o600))
	_, _, err = f.checkout(c, location)
	require.ErrorContains(t, err, "in no known_hosts file")
}
