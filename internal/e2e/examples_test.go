//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/tidegate-ci/tidegate/internal/demo"
)

// TestExamplesRun does what the READMEs of the small examples say: two
// releases by "tidegate run", and a look at how the second one went.
func TestExamplesRun(t *testing.T) {
	for name, example := range map[string]struct{ app, status string }{
		"blue-green":  {"shop", "after the switch"},
		"statefulset": {"store", "batch 2: passed"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			dir := filepath.Join(t.TempDir(), name)
			must(t, os.CopyFS(dir, os.DirFS("../../examples/"+name)))
			cluster, err := demo.OpenCluster(kubeconfig)
			must(t, err)
			namespace := fmt.Sprintf("e2e-%d", time.Now().UnixNano())
			must(t, cluster.CreateNamespace(ctx, namespace))
			t.Cleanup(func() { _ = cluster.DeleteNamespace(context.Background(), namespace) })
			images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
			t.Cleanup(images.Close)
			here := func(program string, args ...string) string {
				command := exec.CommandContext(ctx, program, args...)
				command.Dir = dir
				command.Env = append(os.Environ(), "CGO_ENABLED=0", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
				out, err := command.CombinedOutput()
				if err != nil {
					t.Fatalf("%s %v: %v\n%s", program, args, err, out)
				}
				return string(out)
			}
			release := func() {
				here("go", "build", "-o", "server", ".")
				here(binary, "run", "--registry", strings.TrimPrefix(images.URL, "http://"), "--namespace", namespace)
			}
			here("git", "init", "-q", "-b", "main")
			here("git", "add", ".")
			here("git", "commit", "-qm", "example")
			release()
			code, err := os.ReadFile(filepath.Join(dir, "main.go"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(strings.Replace(string(code), `"v1"`, `"v2"`, 1)), 0o600))
			release()
			if status := here(binary, "rollout", "status", example.app, "-n", namespace); !strings.Contains(status, example.status) || !strings.Contains(status, "revision 2 is verified") {
				t.Fatalf("the second release went otherwise:\n%s", status)
			}
		})
	}
}
