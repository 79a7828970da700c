//go:build e2e

// Package e2e drives the real binary on the real machine. It needs root and the
// binary: TIDEGATE_CLUSTER, or .bin/tidegate-cluster at the root of the repository.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/cgroup"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/leftover"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/process"
)

type tool struct {
	binary, state string
}

func newTool(t *testing.T) tool {
	t.Helper()
	binary := os.Getenv("TIDEGATE_CLUSTER")
	if binary == "" {
		binary = "../../../.bin/tidegate-cluster"
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("%v: build it by `go run ./build -o ../../.bin/tidegate-cluster` in deploy/cluster, or name it by TIDEGATE_CLUSTER", err)
	}
	// Not t.TempDir: its path is too long for sockets below it.
	state, err := os.MkdirTemp("/tmp", "tgc")
	if err != nil {
		t.Fatal(err)
	}
	c := tool{binary, state}
	t.Cleanup(func() {
		if t.Failed() {
			c.showLogs(t)
		}
		c.ok(t, "down")
	})
	return c
}

func (c tool) command(args ...string) *exec.Cmd {
	return exec.Command(c.binary, append(args, "--state", c.state)...)
}

func (c tool) run(args ...string) (stdout, stderr string, err error) {
	cmd := c.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func (c tool) ok(t *testing.T, args ...string) string {
	t.Helper()
	started := time.Now()
	stdout, stderr, err := c.run(args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", args, err, stdout, stderr)
	}
	t.Logf("%v took %.1fs", args, time.Since(started).Seconds())
	return stdout + stderr
}

func (c tool) showLogs(t *testing.T) {
	logs, _ := filepath.Glob(filepath.Join(c.state, "log", "*.log"))
	for _, log := range logs {
		t.Logf("%s:\n%s", log, process.Tail(log, 20))
	}
}

type component struct {
	Name  string
	State string
	PID   int
}

func (c tool) components(t *testing.T) map[string]component {
	t.Helper()
	stdout, stderr, _ := c.run("status", "-o", "json")
	var status struct{ Components []component }
	if err := json.Unmarshal([]byte(stdout), &status); err != nil {
		t.Fatalf("status: %v\n%s%s", err, stdout, stderr)
	}
	all := map[string]component{}
	for _, component := range status.Components {
		all[component.Name] = component
	}
	return all
}

func (c tool) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	stdout, _, err := c.run("kubeconfig")
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(stdout))
	if err != nil {
		t.Fatal(err)
	}
	if config.Insecure || len(config.CAData) == 0 {
		t.Fatal("the kubeconfig does not make clients verify the server")
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// own lists what runs of the cluster, shims included.
func (c tool) own(t *testing.T) []process.Info {
	t.Helper()
	all, err := process.All()
	if err != nil {
		t.Fatal(err)
	}
	return leftover.Own(all, c.state)
}

// killAll kills every process of the cluster but those in pods, as a crash of
// the machine's session would.
func (c tool) killAll(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := process.KillAll(ctx, c.own(t)); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until check succeeds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	const patience, interval = 90 * time.Second, 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

var client = http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func get(url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return string(body), err
}

// nothingLeft checks that the machine is as if there had been no cluster.
func (c tool) nothingLeft(t *testing.T, cgroups cgroup.Group, shims []string) {
	t.Helper()
	if own := c.own(t); len(own) > 0 {
		t.Errorf("%d processes run, the first is %v", len(own), own[0].Args)
	}
	mounts, err := leftover.Mounts(c.state)
	if err != nil || len(mounts) > 0 {
		t.Errorf("mounts %v, err %v", mounts, err)
	}
	if _, err := os.Stat(c.state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state folder: %v", err)
	}
	if _, err := os.Stat("/sys/class/net/tidegate0"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("bridge: %v", err)
	}
	if cgroups.Exists() {
		t.Error("the pods' cgroup is there")
	}
	for _, shim := range shims {
		if _, err := os.Stat(shim); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("shim's socket %s: %v", shim, err)
		}
	}
	rules, err := exec.Command("iptables-save").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, rules)
	}
	for _, of := range []string{"KUBE-", "tidegate0"} {
		if strings.Contains(string(rules), of) {
			t.Errorf("packet filter rules with %s are there:\n%s", of, rules)
		}
	}
	for _, pattern := range []string{"/var/lib/cni/results/tidegate0-*", "/var/log/containers/app-*"} {
		if files, err := filepath.Glob(pattern); err != nil || len(files) > 0 {
			t.Errorf("files %v, err %v", files, err)
		}
	}
}
