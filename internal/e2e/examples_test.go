//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/tidegate-ci/tidegate/internal/demo"
)

// TestExamplesRun does what the READMEs of the small examples say: two
// releases by "tidegate run", and a look at how the second one went.
func TestExamplesRun(t *testing.T) {
	for name, example := range map[string]struct {
		app, status string
		// beside runs what the README runs beside it; broken breaks one more release,
		// which must be taken back for the reason.
		beside func(t *testing.T, dir, namespace string)
		broken func(code string) string
		reason string
		// environments are namespaces that the example's settings.yaml names; the
		// last one is looked at.
		environments []string
	}{
		"blue-green":  {app: "shop", status: "after the switch"},
		"statefulset": {app: "store", status: "batch 2: passed"},
		"canary": {app: "shop", status: "step 1, metric latency: passed", beside: watched, reason: "MetricFailed",
			broken: func(code string) string { return strings.Replace(code, "failEvery = 0", "failEvery = 4", 1) }},
		"environments": {app: "shop", status: "revision 2 of shop in environment staging", environments: []string{"shop-staging", "shop-production"}},
		"helm":         {app: "shop", status: "the data is as v2 needs it"},
		"kustomize":    {app: "shop", status: "wave 2, health: passed"},
		"gateway":      {app: "shop", status: "HTTPRoute/shop: 0 % to Service/shop-canary", beside: routed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			dir := filepath.Join(t.TempDir(), name)
			must(t, os.CopyFS(dir, os.DirFS("../../examples/"+name)))
			cluster, err := demo.OpenCluster(kubeconfig)
			must(t, err)
			namespace := fmt.Sprintf("e2e-%d", time.Now().UnixNano())
			where := []string{"--namespace", namespace}
			namespaces := []string{namespace}
			if len(example.environments) > 0 {
				config, err := os.ReadFile(filepath.Join(dir, "settings.yaml"))
				must(t, err)
				for _, environment := range example.environments {
					config = []byte(strings.Replace(string(config), "namespace: "+environment, "namespace: "+namespace+environment, 1))
					namespaces = append(namespaces, namespace+environment)
				}
				must(t, os.WriteFile(filepath.Join(dir, "settings.yaml"), config, 0o600))
				where = []string{"--config", "settings.yaml"}
			}
			for _, name := range namespaces {
				must(t, cluster.CreateNamespace(ctx, name))
				t.Cleanup(func() { _ = cluster.DeleteNamespace(context.Background(), name) })
			}
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
				here(binary, append([]string{"run", "--registry", strings.TrimPrefix(images.URL, "http://")}, where...)...)
			}
			if example.beside != nil {
				example.beside(t, dir, namespace)
			}
			here("git", "init", "-q", "-b", "main")
			here("git", "add", ".")
			here("git", "commit", "-qm", "example")
			release()
			code, err := os.ReadFile(filepath.Join(dir, "main.go"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(strings.Replace(string(code), `"v1"`, `"v2"`, 1)), 0o600))
			release()
			if status := here(binary, "rollout", "status", example.app, "-n", namespaces[len(namespaces)-1]); !strings.Contains(status, example.status) || !strings.Contains(status, "revision 2 is verified") {
				t.Fatalf("the second release went otherwise:\n%s", status)
			}
			if example.broken == nil {
				return
			}
			must(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(example.broken(strings.Replace(string(code), `"v1"`, `"v3"`, 1))), 0o600))
			here("go", "build", "-o", "server", ".")
			command := exec.CommandContext(ctx, binary, "run", "--registry", strings.TrimPrefix(images.URL, "http://"), "--namespace", namespace)
			command.Dir = dir
			out, err := command.CombinedOutput()
			if err == nil {
				t.Fatalf("the broken release passed:\n%s", out)
			}
			if status := here(binary, "rollout", "status", example.app, "-n", namespace); !strings.Contains(status, example.reason) || !strings.Contains(status, "rolled back to revision 2") {
				t.Fatalf("the broken release went otherwise:\n%s\n%s", out, status)
			}
		})
	}
}

// watched runs the example's Prometheus and, as soon as there is a Service, its traffic.
func watched(t *testing.T, dir, namespace string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, err := net.SplitHostPort(listener.Addr().String())
	must(t, err)
	must(t, listener.Close())
	pipeline := filepath.Join(dir, ".tidegate.yaml")
	content, err := os.ReadFile(pipeline)
	must(t, err)
	must(t, os.WriteFile(pipeline, []byte(strings.ReplaceAll(string(content), ":9090", ":"+port)), 0o600))
	traffic := exec.CommandContext(t.Context(), "go", "build", "-o", "traffic/traffic", "./traffic")
	traffic.Dir = dir
	if out, err := traffic.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	beside(t, dir, "monitoring/prometheus.sh", namespace, port)
	beside(t, dir, "sh", "-c", `until address=$(kubectl get service shop -n "$0" -o jsonpath='{.spec.clusterIP}' 2>/dev/null); do sleep 1; done
		exec traffic/traffic "http://$address"`, namespace)
}

// beside runs a program, and what it starts, until the test ends.
func beside(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	command := exec.Command(program, args...)
	command.Dir = dir
	command.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	must(t, command.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGTERM)
		_ = command.Wait()
	})
}
