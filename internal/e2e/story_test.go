//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate-ci/tidegate/internal/demo"
)

// TestStory is the demo itself, as a user would run it.
func TestStory(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 6*patience, errors.New("the test's patience ended"))
	defer cancel()
	stdout, stderr, code := execute(t, ctx, "../..", nil, "demo", "-o", "json")
	if code != 0 {
		t.Fatalf("tidegate demo: exit %d\n%s\n%s", code, stdout, stderr)
	}
	var report demo.Report
	must(t, json.Unmarshal([]byte(stdout), &report))
	if report.Traffic.Failed != 0 || report.Traffic.Requests < 500 {
		t.Errorf("traffic: %+v, want no failed request of at least 500", report.Traffic)
	}
	for _, version := range []string{"v1", "v2"} {
		if report.Traffic.Versions[version] == 0 {
			t.Errorf("nobody was served %s: %+v", version, report.Traffic)
		}
	}
	if report.Traffic.Versions["v3"] != 0 {
		t.Errorf("the version that crashes answered %d requests", report.Traffic.Versions["v3"])
	}
}

// TestLocalRun: the same file, this working tree, no server.
func TestLocalRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir, m := t.TempDir(), newMarks(t)
	write := func(text string) { must(t, os.WriteFile(filepath.Join(dir, ".tidegate.yaml"), []byte(text), 0o600)) }
	write(`version: 1
name: local
on: {push: {}}
stages:
  unit: {run: "` + m.stage("unit") + `; echo hello from unit"}
  bad: {needs: [unit], run: "echo so it goes >&2; exit 3"}
  never: {needs: [bad], run: "` + m.stage("never") + `"}
`)
	state := []string{"XDG_STATE_HOME=" + t.TempDir()}
	stdout, stderr, code := execute(t, ctx, dir, state, "run")
	if code != 1 {
		t.Fatalf("exit %d, want 1\n%s\n%s", code, stdout, stderr)
	}
	for _, want := range []string{"hello from unit", "so it goes", "exit status 3", "never"} {
		if !strings.Contains(stdout+stderr, want) {
			t.Errorf("the output does not say %q:\n%s%s", want, stdout, stderr)
		}
	}
	if m.count("unit") != 1 || m.count("never") != 0 {
		t.Errorf("unit ran %d times, never %d", m.count("unit"), m.count("never"))
	}
	if stdout, stderr, code := execute(t, ctx, dir, state, "run", "unit"); code != 0 {
		t.Errorf("run unit: exit %d\n%s\n%s", code, stdout, stderr)
	}
	if _, stderr, code := execute(t, ctx, dir, state, "run", "unti"); code != 2 || !strings.Contains(stderr, "unit") {
		t.Errorf("run unti: exit %d, %s; want 2 and a suggestion", code, stderr)
	}
	write("version: 1\nname: local\nstages:\n  a: {ruin: x}\n")
	if _, stderr, code := execute(t, ctx, dir, state, "run"); code != 2 || !strings.Contains(stderr, ".tidegate.yaml:4:") {
		t.Errorf("a bad file: exit %d, %s", code, stderr)
	}
}
