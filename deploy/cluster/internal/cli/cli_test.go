package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/cluster"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestStateDir(t *testing.T) {
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"repo/.git", "repo/sub/deep", "plain"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(top, "repo"), filepath.Join(top, "link")); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, cwd, flag, want string }{
		{"root of the repository", "repo", "", "repo/.cluster"},
		{"below it", "repo/sub/deep", "", "repo/.cluster"},
		{"no repository", "plain", "", "plain/.cluster"},
		{"relative flag", "repo/sub", "x/y", "repo/sub/x/y"},
		{"through a link", "plain", "../link/new", "repo/new"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(filepath.Join(top, tt.cwd))
			if got, err := stateDir(tt.flag); err != nil || got != filepath.Join(top, tt.want) {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
}

func execute(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(append(args, "--state", filepath.Join(t.TempDir(), "c")))
	err = root.Execute()
	return out.String(), err
}

func TestWrongUse(t *testing.T) {
	for _, args := range [][]string{
		{"up", "--api-port", "99999"},
		{"up", "--pod-cidr", "10.244.0.0/16x"},
		{"up", "--bridge", "a b"},
		{"up", "--no-such-flag"},
		{"status", "-o", "xml"},
		{"status", "extra"},
		{"component", "stop", "kube-nothing"},
		{"component", "stop"},
	} {
		if out, err := execute(t, args...); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v %s", args, err, out)
		}
	}
	if _, err := execute(t, "kubeconfig"); err == nil || !strings.Contains(err.Error(), "tidegate-cluster up") {
		t.Errorf("kubeconfig of nothing: %v", err)
	}
}

func TestStatusOfNothing(t *testing.T) {
	out, err := execute(t, "status", "-o", "json")
	if !errors.Is(err, errSilent) {
		t.Errorf("err %v", err)
	}
	var status cluster.Status
	if err := json.Unmarshal([]byte(out), &status); err != nil || status.Healthy {
		t.Errorf("%v: %s", err, out)
	}
}

func TestWriteStatus(t *testing.T) {
	started := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	err := writeStatus(&out, cluster.Status{
		StateDir: "/repo/.cluster", Server: "https://127.0.0.1:6443", Version: "v1.36.3",
		Components: []cluster.ComponentStatus{
			{Name: "etcd", State: cluster.Healthy, PID: 12, Started: &started},
			{Name: "kubelet", State: cluster.Died, Started: &started, Problem: "its log says why"},
		},
		Node: cluster.NodeStatus{Name: "tidegate", Problem: "no heartbeat", Runtime: "containerd://1.6.20"},
	}, started.Add(90*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/status.golden", out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/status.golden")
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got:\n%s", out.String())
	}
}
