package rollout

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// The table of README.md names a test for each of the sixteen properties, and
// every test that it names exists.
func TestEveryPropertyNamesItsTests(t *testing.T) {
	const properties = 16
	known := testFunctions(t)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	row := regexp.MustCompile(`(?m)^\| ([0-9]+) \| [^|]+ \| ([^|]+) \|$`)
	name := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`")
	found := map[string]int{}
	for _, match := range row.FindAllStringSubmatch(string(readme), -1) {
		for _, test := range name.FindAllStringSubmatch(match[2], -1) {
			require.Contains(t, known, test[1], "property %s names a test that does not exist", match[1])
			found[match[1]]++
		}
	}
	for i := range properties {
		require.Positive(t, found[fmt.Sprint(i+1)], "property %d names no test", i+1)
	}
	require.Len(t, found, properties)
}

// testFunctions are the tests of this package and those below it, e2e too.
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, declared := range file.Decls {
			if f, ok := declared.(*ast.FuncDecl); ok && f.Recv == nil {
				known[f.Name.Name] = true
			}
		}
		return nil
	}))
	return known
}

// What goes wrong for a moment, and passes, fails nothing: a pod that restarted
// once or lost its readiness is waited for, and promoted when it has stayed well.
func TestABlipIsTolerated(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	blip := health.Verdict{Status: health.Degraded, Reason: health.CrashLoop, Message: "1 of 1 new pods: container shop crashed", Restarts: 1, Recheck: now.Add(time.Minute)}
	well := health.Verdict{Status: health.Ready, Ready: 1, Available: 1, Desired: 1}

	record, obs := servingCanary(now)
	obs.Canaries[0].Health, obs.Canaries[0].ReadySince = blip, time.Time{}
	require.Equal(t, Wait, Decide(record, obs, now).Kind)
	now = now.Add(10 * time.Second)
	obs.Canaries[0].Health, obs.Canaries[0].ReadySince = well, now
	a := Decide(record, obs, now)
	require.Equal(t, Advance, a.Kind)
	require.NotNil(t, a.Move.Proof)

	record = liveIn(Rolling)
	r := record.Current
	r.Strategy, r.Deadline, r.StateSince = Strategy{Kind: RollingStrategy}, time.Minute, now
	w := Workload{Ref: shopRef, Exists: true, Release: "d2", Replicas: 1, Health: blip}
	require.Equal(t, Wait, Decide(record, Observation{Workloads: []Workload{w}}, now).Kind)
	w.Health, w.ReadySince, r.Peak = well, now, 1
	a = Decide(record, Observation{Workloads: []Workload{w}}, now)
	require.Equal(t, Finishing, a.Move.To)
}

// Whatever the version that serves is up to, the one that mends it is rolled
// out: the old pods are neither waited for nor held against it.
func TestABrokenStableReleaseNeverBlocksItsFix(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	broken := health.Verdict{Status: health.Failed, Reason: health.CrashLoop, Message: "3 of 3 new pods: container shop crashed", Desired: 3}
	for _, strategy := range []Strategy{{Kind: RollingStrategy}, {Kind: RecreateStrategy},
		{Kind: CanaryStrategy, Steps: []Step{{Weight: 50}}}} {
		t.Run(string(strategy.Kind), func(t *testing.T) {
			record := liveIn(Pending)
			r := record.Current
			r.Strategy, r.Deadline, r.StateSince = strategy, time.Minute, now
			if strategy.Kind == CanaryStrategy {
				r.Canaries = []manifest.Ref{shopRef}
			}
			serves := "d1"
			var canary *CanaryWorkload
			for range 100 {
				stable := Workload{Ref: shopRef, Exists: true, Release: serves, Replicas: 3, Health: broken}
				if serves == "d2" {
					stable.Health, stable.ReadySince = health.Verdict{Status: health.Ready, Desired: 3, Ready: 3, Available: 3}, now
				}
				obs := Observation{Workloads: []Workload{stable}}
				if canary != nil {
					obs.Canaries = []CanaryWorkload{*canary}
				}
				a := Decide(record, obs, now)
				switch a.Kind {
				case ApplyRelease, ApplyWorkload:
					serves = "d2"
				case ScaleCanary:
					canary = &CanaryWorkload{Stable: shopRef, Track: CanaryTrack, Release: "d2", Replicas: a.Replicas, ReadySince: now,
						Health: health.Verdict{Status: health.Ready, Ready: a.Replicas, Desired: a.Replicas}}
				case RemoveCanary:
					canary = nil
				case Mark:
					if a.Ready {
						r.StepReadyAt = now
					}
					r.Peak = max(r.Peak, a.Peak)
				case Wait:
					now = a.Until
				}
				if a.Move != nil {
					require.NotEqual(t, RollingBack, a.Move.To, a.Why)
					require.NoError(t, record.advance(*a.Move, now))
				}
				if r.State.Final() {
					break
				}
			}
			require.Equal(t, Verified, r.State)
		})
	}
}

const configured = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers: [{name: shop, image: "r/shop@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", envFrom: [{configMapRef: {name: shop}}]}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {GREETING: %s}
`

// Pruning leaves the configuration of what serves and of what was before it,
// and nothing that only older revisions name.
func TestConfigIsKeptWhileARevisionNeedsIt(t *testing.T) {
	var releases []*manifest.Release
	var inventory []manifest.Ref
	for _, greeting := range []string{"one", "two", "three"} {
		release := releaseOf(t, fmt.Sprintf(configured, greeting))
		releases = append(releases, release)
		for _, ref := range release.Refs() {
			if !slices.ContainsFunc(inventory, ref.Same) {
				inventory = append(inventory, ref)
			}
		}
	}
	require.Len(t, inventory, 4, "one workload, three configurations")
	needed, needless := prunable(inventory, releases[2], releases[1])
	require.Len(t, needed, 3)
	require.Len(t, needless, 1)
	require.True(t, releases[0].Contains(needless[0]))
	require.Equal(t, "ConfigMap", needless[0].Kind)
	needed, _ = prunable(inventory, releases[0], nil)
	for _, ref := range releases[0].Refs() {
		require.True(t, slices.ContainsFunc(needed, ref.Same), "%s serves", ref)
	}
}

// A clock that steps, or hours in which nobody watched, neither end a rollout
// early nor give it more time than those few seconds that cannot be told apart.
func TestDeadlinesSurviveClockSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		watched := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
		ago := func(name string) time.Time {
			return watched.Add(-time.Duration(rapid.IntRange(0, 600).Draw(t, name)) * time.Second)
		}
		r := &Rollout{State: Canary, Deadline: time.Minute, StateSince: ago("state since"), StepReadyAt: ago("ready at"), LastProgress: ago("progress")}
		before := *r
		now := watched.Add(time.Duration(rapid.IntRange(-86400, 86400).Draw(t, "clock")) * time.Second)
		r.resume(watched, now)
		for _, c := range []struct{ was, is time.Time }{{before.StateSince, r.StateSince}, {before.StepReadyAt, r.StepReadyAt}, {before.LastProgress, r.LastProgress}} {
			spent, counts := watched.Sub(c.was), now.Sub(c.is)
			if counts < spent || counts > spent+maxUnwatched {
				t.Fatalf("%s had been spent, and %s count after the clock went from %s to %s", spent, counts, watched, now)
			}
		}
	})
}

// Every reason that a rollout or a workload may give is in the runbook, with
// what to do, and in the table of README.md.
func TestEveryReasonIsExplained(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	reasons := reasonConstants(t, ".", "health")
	require.Greater(t, len(reasons), 20, "the test does not see the constants any more")
	for _, reason := range reasons {
		text, ok := Runbook(health.Reason(reason))
		require.True(t, ok, "RUNBOOK.md has no section %s", reason)
		for _, part := range []string{"**Look:**", "**Do:**"} {
			require.Contains(t, text, part, reason)
		}
		require.Contains(t, string(readme), "| `"+reason+"` |")
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(runbook())), reasons, "the runbook explains what nothing gives")
	_, ok := Runbook("Nonsense")
	require.False(t, ok)
}

// reasonConstants are the values of all constants of type health.Reason in
// packages of this directory.
func reasonConstants(t *testing.T, dirs ...string) []string {
	t.Helper()
	var reasons []string
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		require.NoError(t, err)
		for _, path := range files {
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(file, func(node ast.Node) bool {
				spec, ok := node.(*ast.ValueSpec)
				if !ok || len(spec.Values) == 0 || !isReason(spec.Type) {
					return true
				}
				for _, value := range spec.Values {
					if literal, ok := value.(*ast.BasicLit); ok && literal.Value != `""` {
						reasons = append(reasons, strings.Trim(literal.Value, `"`))
					}
				}
				return true
			})
		}
	}
	return reasons
}

func isReason(expression ast.Expr) bool {
	switch kind := expression.(type) {
	case *ast.Ident:
		return kind.Name == "Reason"
	case *ast.SelectorExpr:
		return kind.Sel.Name == "Reason"
	}
	return false
}
