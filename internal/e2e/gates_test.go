//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidegate-ci/tidegate/internal/demo"
)

// job is a Kubernetes Job that runs a shell command with the busybox of a registry.
func job(registry, name, command string) string {
	return fmt.Sprintf(`apiVersion: batch/v1
kind: Job
metadata: {name: %s}
spec: {template: {spec: {containers: [{name: job, image: %s/library/busybox, command: [sh, -c, %q]}]}}}
`, name, registry, command)
}

// TestGatesAndHooks: gates and hooks of a pipeline file, through the server and
// the real cluster, an approval from the run's side, and one that is rejected.
func TestGatesAndHooks(t *testing.T) {
	t.Parallel()
	th := openTheatre(t, nil)
	must(t, demo.PushBusybox(th.ctx, th.server.Registry))
	const head = `
version: 1
name: shop
on: {push: {branches: [main]}}
stages:
  image:
    build: {push: shop}
  production:
    needs: [image]
    timeout: 2m
    deploy:
      environment: production
      manifests: k8s/
      bake: 1s
`
	files := prebuilt(t, "v1", "", head)
	th.succeed(th.push("first", files))

	gated := prebuilt(t, "v2", "", head+`
      hooks:
        before: [{name: migrate, manifest: jobs/migrate.yaml}]
        after: [{name: warm, manifest: jobs/warm.yaml}]
      strategy:
        canary:
          steps: [{weight: 25}]
          gates:
            - job: {name: smoke, manifest: jobs/smoke.yaml}
            - approval: {name: release, from: [admin], message: look at it}
            - cel: {name: together, pass: 'jobs.smoke.outcome == "pass" && health.restarts == 0'}
`)
	gated["jobs/migrate.yaml"] = job(th.server.Registry, "migrate", "echo migrating for $TIDEGATE_HOOK")
	gated["jobs/warm.yaml"] = job(th.server.Registry, "warm", "true")
	gated["jobs/smoke.yaml"] = job(th.server.Registry, "smoke", "wget -qO- http://$TIDEGATE_CANARY_ADDRESS/ && echo smoked")
	second := th.push("second", gated)
	th.wait("the run", func() bool {
		list, _, _ := th.tidegate("runs", "list", "-o", "json")
		return strings.Contains(list, second)
	})
	run := th.runOf(second)
	th.approved(run)
	th.succeed(second)
	record := th.record(th.namespace)
	passed := map[string]string{}
	for _, gate := range record.Current.Gates {
		passed[gate.Kind] = gate.Evidence
	}
	for _, kind := range []string{"job smoke", "approval release", "cel together", "health"} {
		if _, ok := passed[kind]; !ok {
			t.Errorf("no gate %s in the record: %v", kind, passed)
		}
	}
	if !strings.Contains(passed["approval release"], "approved by admin") {
		t.Errorf("the approval says %q", passed["approval release"])
	}
	if runs := record.Current.HookRuns; len(runs) != 2 || !strings.Contains(strings.Join(runs[0].Log, "\n"), "migrating for before") {
		t.Errorf("the hooks: %+v", runs)
	}

	gated["shop"] = shopBinary(t, "v3", "")
	third := th.push("third", gated)
	th.wait("the third run", func() bool {
		list, _, _ := th.tidegate("runs", "list", "-o", "json")
		return strings.Contains(list, third)
	})
	th.wait("it to be rejected", func() bool {
		_, _, code := th.tidegate("runs", "reject", th.runOf(third), "--comment", "not today")
		return code == 0
	})
	if status := th.outcome(third); status.State != "failure" {
		t.Fatalf("the commit is %+v", status)
	}
	record = th.record(th.namespace)
	if r := record.Revision(3); r == nil || r.Failure == nil || !strings.Contains(r.Failure.Message, "rejected by admin: not today") {
		t.Fatalf("the third release: %+v", r)
	}
}
