//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate-ci/tidegate/internal/gitssh/sshtest"
	"github.com/tidegate-ci/tidegate/internal/settings"
)

// TestDeployKey: the source comes over SSH from OpenSSH's server, which lets the
// repository's deploy key in.
func TestDeployKey(t *testing.T) {
	t.Parallel()
	host := sshtest.Start(t)
	key := filepath.Join(t.TempDir(), "deploy-key")
	must(t, os.WriteFile(key, host.Key, 0o600))
	th, m := openTheatre(t, func(s *settings.Settings) {
		r := &s.Repositories[0]
		r.Clone = host.URL(strings.TrimPrefix(r.Clone, "file://"))
		r.SSHKey, r.KnownHosts = settings.Secret{File: key}, host.KnownHosts(t, "ed25519")
	}), newMarks(t)
	commit := th.push("over SSH", map[string]string{".tidegate.yaml": `
version: 1
name: ssh
on: {push: {branches: [main]}}
stages:
  look: {run: "[ -e .tidegate.yaml ]; ` + m.stage("look") + `"}
`})
	th.succeed(commit)
	if m.count("look") != 1 {
		t.Fatalf("the stage ran %d times", m.count("look"))
	}
}
