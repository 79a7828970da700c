//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tidegate-ci/tidegate/pipeline/journal"
)

// state reads a run as `runs show -o json` prints it.
func (th *theatre) state(id string) journal.State {
	th.t.Helper()
	stdout, stderr, code := th.tidegate("runs", "show", id, "-o", "json")
	if code != 0 {
		th.t.Fatalf("runs show: exit %d: %s", code, stderr)
	}
	var run struct{ State journal.State }
	must(th.t, json.Unmarshal([]byte(stdout), &run))
	return run.State
}

// TestPeople: an approval, a failed stage that is run again without what
// succeeded, and a cancelled run.
func TestPeople(t *testing.T) {
	t.Parallel()
	th, m := openTheatre(t, nil), newMarks(t)
	commit := th.push("work", map[string]string{".tidegate.yaml": fmt.Sprintf(`
version: 1
name: work
on: {push: {branches: [main]}}
stages:
  first: {run: "echo number=42 >> $TIDEGATE_OUTPUT; %s"}
  second:
    needs: [first]
    approve: {message: "really?"}
    env: {NUMBER: "${{ stages.first.outputs.number }}"}
    run: "[ $NUMBER = 42 ]; %s; [ -e %s/repaired ]"
`, m.stage("first"), m.stage("second"), m.dir)})
	th.wait("the run", func() bool {
		list, _, _ := th.tidegate("runs", "list", "-o", "json")
		return strings.Contains(list, commit)
	})
	id := th.runOf(commit)
	th.wait("the approval to be asked for", func() bool { return th.state(id).Status == journal.Waiting })
	if m.count("second") != 0 {
		t.Fatal("the stage ran before anybody approved")
	}
	if _, stderr, code := th.tidegate("runs", "approve", id); code != 0 {
		t.Fatalf("approve: exit %d: %s", code, stderr)
	}
	if status := th.outcome(commit); status.State != "failure" {
		t.Fatalf("the commit is %+v", status)
	}
	m.give("repaired")
	stdout, stderr, code := th.tidegate("runs", "rerun", id, "--from-failed", "--watch")
	if code != 0 {
		t.Fatalf("rerun: exit %d\n%s\n%s", code, stdout, stderr)
	}
	if m.count("first") != 1 || m.count("second") != 2 {
		t.Fatalf("first ran %d times, second %d: want 1 and 2", m.count("first"), m.count("second"))
	}

	commit = th.push("endless", map[string]string{".tidegate.yaml": fmt.Sprintf(`
version: 1
name: endless
on: {push: {branches: [main]}}
stages:
  endless: {run: %q}
finally:
  tidy: {run: %q}
`, m.stageWaiting("endless", "never"), m.stage("tidy"))})
	th.wait("the endless stage to start", func() bool { return m.count("endless") == 1 })
	id = th.runOf(commit)
	if _, stderr, code := th.tidegate("runs", "cancel", id, "--reason", "test"); code != 0 {
		t.Fatalf("cancel: exit %d: %s", code, stderr)
	}
	if status := th.outcome(commit); status.State != "error" {
		t.Fatalf("a cancelled run's commit is %+v", status)
	}
	if m.count("tidy") != 1 {
		t.Fatalf("the finally stage ran %d times", m.count("tidy"))
	}
}

// TestSchedule: the pipeline of the default branch fires by the clock.
func TestSchedule(t *testing.T) {
	t.Parallel()
	th, m := openTheatre(t, nil), newMarks(t)
	th.push("a schedule", map[string]string{".tidegate.yaml": fmt.Sprintf(`
version: 1
name: nightly
on: {schedule: [{cron: "* * * * *"}]}
stages:
  only: {run: %q}
`, m.stage("only"))})
	th.wait("the schedule to fire", func() bool { return m.count("only") > 0 })
}
