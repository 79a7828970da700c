//go:build e2e

// Package e2e drives the real binary against the real cluster: what a user
// would see, and what they must never see.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegate-ci/tidegate/internal/demo"
	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// patience bounds every wait of these tests. It is far beyond what any takes.
const patience = 4 * time.Minute

// binary is the tidegate under test; TestMain demands it.
var binary = os.Getenv("TIDEGATE_BINARY")

var kubeconfig = os.Getenv("KUBECONFIG")

func TestMain(m *testing.M) {
	for name, value := range map[string]string{"TIDEGATE_BINARY": binary, "KUBECONFIG": kubeconfig} {
		if _, err := os.Stat(value); value == "" || err != nil {
			fmt.Fprintf(os.Stderr, "%s must name a file; run these tests with `make test-e2e`\n", name)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// theatre is a server with a repository and a namespace of its own.
type theatre struct {
	t         *testing.T
	ctx       context.Context
	forge     *demo.Forge
	server    *demo.Server
	cluster   *demo.Cluster
	namespace string
	home      string
}

// openTheatre starts a server; change may edit its settings before that.
func openTheatre(t *testing.T, change func(*settings.Settings)) *theatre {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("the test's patience ended"))
	t.Cleanup(cancel)
	dir := t.TempDir()
	forge, err := demo.NewForge(ctx, filepath.Join(dir, "shop"), "octo/shop")
	must(t, err)
	t.Cleanup(func() { _ = forge.Close() })
	cluster, err := demo.OpenCluster(kubeconfig)
	must(t, err)
	namespace := fmt.Sprintf("e2e-%d", time.Now().UnixNano())
	must(t, cluster.CreateNamespace(ctx, namespace))
	t.Cleanup(func() { _ = cluster.DeleteNamespace(context.Background(), namespace) })
	server, err := demo.NewServer(ctx, demo.ServerOptions{
		Binary: binary, Dir: filepath.Join(dir, "server"), Forge: forge, Kubeconfig: kubeconfig, Namespace: namespace, Change: change,
	})
	must(t, err)
	must(t, server.Start(ctx))
	t.Cleanup(func() {
		server.Kill()
		if t.Failed() {
			t.Logf("the server's log ends with:\n%s", server.LogTail(80))
		}
	})
	return &theatre{t: t, ctx: ctx, forge: forge, server: server, cluster: cluster, namespace: namespace, home: dir}
}

// push commits the files and delivers the webhook.
func (th *theatre) push(message string, files map[string]string) string {
	th.t.Helper()
	contents := map[string][]byte{}
	for path, text := range files {
		contents[path] = []byte(text)
	}
	commit, err := th.forge.Commit(message, contents)
	must(th.t, err)
	must(th.t, th.forge.Push(th.ctx, th.server.URL, commit))
	return commit
}

// tidegate runs the binary as a user of this server would.
func (th *theatre) tidegate(arguments ...string) (stdout, stderr string, code int) {
	th.t.Helper()
	token, err := th.server.Token()
	must(th.t, err)
	return execute(th.t, th.ctx, th.home, []string{"TIDEGATE_SERVER=" + th.server.URL, "TIDEGATE_TOKEN=" + token}, arguments...)
}

func execute(t *testing.T, ctx context.Context, dir string, environment []string, arguments ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	command := exec.CommandContext(ctx, binary, arguments...)
	command.Dir = dir
	command.Env = append(os.Environ(), environment...)
	command.Stdout, command.Stderr = &out, &err
	var exit *exec.ExitError
	if runErr := command.Run(); runErr != nil && !errors.As(runErr, &exit) {
		t.Fatalf("tidegate %v: %v", arguments, runErr)
	}
	return out.String(), err.String(), command.ProcessState.ExitCode()
}

// runOf returns the id of the one run of a commit; it fails if there are several.
func (th *theatre) runOf(commit string) string {
	th.t.Helper()
	stdout, stderr, code := th.tidegate("runs", "list", "-o", "json")
	if code != 0 {
		th.t.Fatalf("runs list: exit %d: %s", code, stderr)
	}
	var summaries []journal.Summary
	must(th.t, json.Unmarshal([]byte(stdout), &summaries))
	var ids []string
	for _, summary := range summaries {
		if summary.Commit == commit {
			ids = append(ids, summary.ID)
		}
	}
	if len(ids) != 1 {
		th.t.Fatalf("commit %.12s has runs %v, want exactly one", commit, ids)
	}
	return ids[0]
}

// wait waits until what it says holds, looking whenever a tick passes; the
// commands it looks with have no way to push.
func (th *theatre) wait(what string, holds func() bool) {
	th.t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-th.ctx.Done():
			th.t.Fatalf("wait for %s: %v", what, context.Cause(th.ctx))
		}
	}
}

// outcome waits for the final commit status.
func (th *theatre) outcome(commit string) demo.CommitStatus {
	th.t.Helper()
	status, err := th.forge.WaitStatus(th.ctx, commit)
	must(th.t, err)
	return status
}

// succeed demands that the commit's run ends well.
func (th *theatre) succeed(commit string) {
	th.t.Helper()
	if status := th.outcome(commit); status.State != "success" {
		stdout, _, _ := th.tidegate("runs", "logs", th.runOf(commit))
		th.t.Fatalf("commit %.12s ended as %+v; its log:\n%s", commit, status, stdout)
	}
}

// shopFiles are the example's files, with the pipeline replaced when given.
func shopFiles(t *testing.T, pipeline string) map[string]string {
	t.Helper()
	files := map[string]string{}
	root := os.DirFS("../../examples/shop")
	must(t, fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, path)
		files[path] = string(data)
		return err
	}))
	if pipeline != "" {
		files[".tidegate.yaml"] = pipeline
	}
	return files
}

// shopBinary compiles the shop once per version and behaviour, for images that
// need no toolchain in the cluster's way.
func shopBinary(t *testing.T, version, misbehaviour string) string {
	t.Helper()
	shopBinariesMu.Lock()
	defer shopBinariesMu.Unlock()
	key := version + "\x00" + misbehaviour
	if data, ok := shopBinaries[key]; ok {
		return data
	}
	dir := t.TempDir()
	for path, text := range shopFiles(t, "") {
		switch path {
		case "handler.go":
			text = strings.Replace(text, `const version = "v1"`, fmt.Sprintf("const version = %q", version), 1)
		case "misbehave.go":
			if misbehaviour != "" {
				text = misbehaviour
			}
		}
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644))
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", "shop", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the shop: %v\n%s", err, output)
	}
	data, err := os.ReadFile(filepath.Join(dir, "shop"))
	must(t, err)
	shopBinaries[key] = string(data)
	return shopBinaries[key]
}

var (
	shopBinariesMu sync.Mutex
	shopBinaries   = map[string]string{}
)

// prebuilt is a repository whose image is a compiled shop on scratch.
func prebuilt(t *testing.T, version, misbehaviour, pipeline string) map[string]string {
	t.Helper()
	return map[string]string{
		".tidegate.yaml": pipeline,
		"Dockerfile":     "FROM scratch\nCOPY --chmod=755 shop /shop\nUSER 65532:65532\nENTRYPOINT [\"/shop\"]\n",
		"shop":           shopBinary(t, version, misbehaviour),
		"k8s/shop.yaml":  shopFiles(t, "")["k8s/shop.yaml"],
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
