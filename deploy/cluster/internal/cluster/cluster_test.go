package cluster

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

func TestEnvironment(t *testing.T) {
	env := environment([]string{
		"PATH=/usr/bin", "HOME=/root", "TOKEN=secret", "ETCD_NAME=x", "KUBECONFIG=/k",
		"HTTPS_PROXY=http://proxy:3128", "NO_PROXY=example.com", "no_proxy=", "GOGC=50",
	}, settings.Default("/s"))
	want := []string{
		"GOGC=200", "HOME=/root", "HTTPS_PROXY=http://proxy:3128", "GOGC=50",
		"PATH=/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin",
		"NO_PROXY=127.0.0.1,localhost,10.244.0.0/16,10.96.0.0/16,.svc,.cluster.local,example.com",
		"no_proxy=127.0.0.1,localhost,10.244.0.0/16,10.96.0.0/16,.svc,.cluster.local,example.com",
	}
	if !slices.Equal(env, want) {
		t.Errorf("got %q", env)
	}
}

func TestClaim(t *testing.T) {
	dir := t.TempDir()
	if err := claim(filepath.Join(dir, "none")); err != nil {
		t.Errorf("a new folder: %v", err)
	}
	if err := claim(dir); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := claim(dir); err == nil || !strings.Contains(err.Error(), "--state") {
		t.Errorf("somebody's folder: %v", err)
	}
	c := &Cluster{Settings: settings.Default(dir), Say: t.Logf}
	if err := c.discard(); err == nil {
		t.Error("discards somebody's folder")
	}
	if err := c.Down(t.Context(), true); err == nil {
		t.Error("takes down somebody's folder")
	}
	if err := os.WriteFile(filepath.Join(dir, settings.RecordFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := claim(dir); err != nil {
		t.Errorf("a cluster's folder: %v", err)
	}
	if err := c.discard(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, err %v", left, err)
	}
}

func TestPortsFreeNamesPortAndFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := settings.Port{Number: l.Addr().(*net.TCPAddr).Port, Of: "etcd", Flag: "--etcd-port"}
	if err := portsFree([]settings.Port{port}); err == nil || !strings.Contains(err.Error(), "--etcd-port") {
		t.Errorf("got %v", err)
	}
}

func TestLockIsExclusiveAndSurvivesRemoval(t *testing.T) {
	c := &Cluster{Settings: settings.Default(filepath.Join(t.TempDir(), "state")), Say: t.Logf}
	unlock, err := c.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*lockInterval)
	defer cancel()
	if _, err := c.lock(ctx); err == nil {
		t.Fatal("locked twice")
	}
	// As `down` does: the folder goes while somebody waits for it.
	type result struct {
		unlock func()
		err    error
	}
	waited := make(chan result)
	go func() {
		unlock, err := c.lock(t.Context())
		waited <- result{unlock, err}
	}()
	if err := os.RemoveAll(c.StateDir); err != nil {
		t.Fatal(err)
	}
	unlock()
	r := <-waited
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.unlock()
	if _, err := os.Stat(c.StateDir); err != nil {
		t.Errorf("the lock is on a folder that is gone: %v", err)
	}
}

func TestStatusOfNothing(t *testing.T) {
	c := &Cluster{Settings: settings.Default(t.TempDir()), Say: t.Logf}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s := c.Status(ctx)
	if s.Healthy || len(s.Components) != 7 {
		t.Errorf("got %+v", s)
	}
	for _, component := range s.Components {
		if component.State != Stopped {
			t.Errorf("%s is %s", component.Name, component.State)
		}
	}
}
