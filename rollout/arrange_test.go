package rollout

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

const arranged = `
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop, tier: web}}
    spec: {containers: [{name: shop, image: "r/shop@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker}
spec:
  selector: {matchLabels: {app: worker}}
  template:
    metadata: {labels: {app: worker, tier: web}}
    spec: {containers: [{name: worker, image: "r/worker@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: "r/db@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: agent, image: "r/agent@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}]}
`

// moved is the next release, in which pods of the named workloads change.
func moved(names ...string) string {
	text := arranged
	for _, name := range names {
		text = strings.Replace(text, "r/"+name+"@sha256:a", "r/"+name+"@sha256:b", 1)
	}
	return text
}

func TestStrategiesAreArranged(t *testing.T) {
	steps := []Step{{Weight: 10}}
	for name, c := range map[string]struct {
		strategy            Strategy
		base, next          string
		disturbed           bool
		kind                StrategyKind
		canaries, previews  string
		services, batches   string
		noteWith, errorWith string
	}{
		"nothing runs yet":                {strategy: Strategy{Kind: BlueGreenStrategy}, next: arranged, kind: RollingStrategy, noteWith: "nothing to switch from"},
		"recreate what does not run yet":  {strategy: Strategy{Kind: RecreateStrategy}, next: arranged, kind: RecreateStrategy},
		"switch one":                      {strategy: Strategy{Kind: BlueGreenStrategy}, next: moved("shop"), kind: BlueGreenStrategy, previews: "shop", services: "shop"},
		"switch, and roll what has none":  {strategy: Strategy{Kind: BlueGreenStrategy}, next: moved("shop", "worker"), kind: BlueGreenStrategy, previews: "shop", services: "shop", noteWith: "worker"},
		"nothing to switch":               {strategy: Strategy{Kind: BlueGreenStrategy}, next: moved("worker"), errorWith: "blue-green switches a Service"},
		"nothing changes":                 {strategy: Strategy{Kind: BlueGreenStrategy}, next: arranged, kind: RollingStrategy, noteWith: "no pod template"},
		"switch a set":                    {strategy: Strategy{Kind: BlueGreenStrategy}, next: moved("shop", "db"), errorWith: "StatefulSet/db"},
		"a new Service is none to switch": {strategy: Strategy{Kind: BlueGreenStrategy}, base: strings.Replace(arranged, "selector: {app: shop}", "selector: {app: old}", 1), next: moved("shop"), errorWith: "blue-green switches a Service"},
		"a Service of two": {strategy: Strategy{Kind: BlueGreenStrategy}, base: strings.Replace(arranged, "selector: {app: shop}", "selector: {tier: web}", 1),
			next: strings.Replace(moved("shop"), "selector: {app: shop}", "selector: {tier: web}", 1), errorWith: "of one"},
		"the preview's name is taken": {strategy: Strategy{Kind: BlueGreenStrategy}, next: moved("shop") + "---\napiVersion: v1\nkind: Service\nmetadata: {name: shop-preview}\nspec: {ports: [{port: 1}]}\n", errorWith: "rename it"},
		"the preview's name is too long": {strategy: Strategy{Kind: BlueGreenStrategy}, base: strings.Replace(arranged, "{name: shop}", "{name: "+strings.Repeat("s", 60)+"}", 1),
			next: strings.Replace(moved("shop"), "{name: shop}", "{name: "+strings.Repeat("s", 60)+"}", 1), errorWith: "shorter name"},
		"batches":                      {strategy: Strategy{Kind: RollingStrategy}, next: moved("db", "shop"), kind: RollingStrategy, batches: "db"},
		"no batches":                   {strategy: Strategy{Kind: RollingStrategy}, next: moved("shop"), kind: RollingStrategy},
		"what was superseded has pods": {strategy: Strategy{Kind: RollingStrategy}, next: moved("shop"), disturbed: true, kind: RollingStrategy, batches: "db"},
		"by hand only":                 {strategy: Strategy{Kind: RollingStrategy}, next: strings.Replace(moved("db"), "serviceName: db", "serviceName: db\n  updateStrategy: {type: OnDelete}", 1), errorWith: "OnDelete"},
		"by hand, and nothing changes": {strategy: Strategy{Kind: RollingStrategy}, next: strings.Replace(moved("shop"), "serviceName: db", "serviceName: db\n  updateStrategy: {type: OnDelete}", 1), kind: RollingStrategy},
		"canary of both":               {strategy: Strategy{Kind: CanaryStrategy, Steps: steps}, next: moved("db", "shop"), kind: CanaryStrategy, canaries: "shop", batches: "db"},
		"canary of a set":              {strategy: Strategy{Kind: CanaryStrategy, Steps: steps}, next: moved("db"), kind: CanaryStrategy, batches: "db"},
		"canary of a set, compared":    {strategy: Strategy{Kind: CanaryStrategy, Steps: steps, Metrics: []MetricGate{{Name: "e", Bad: "b", Total: "t"}}}, next: moved("db"), errorWith: "no fresh baseline"},
		"canary of nothing":            {strategy: Strategy{Kind: CanaryStrategy, Steps: steps}, next: arranged, kind: RollingStrategy, noteWith: "rolling instead"},
		"canary on every node":         {strategy: Strategy{Kind: CanaryStrategy, Steps: steps}, next: moved("agent"), errorWith: "DaemonSet/agent"},
		"recreate":                     {strategy: Strategy{Kind: RecreateStrategy}, next: moved("shop"), kind: RecreateStrategy, noteWith: "outage"},
		"recreate a set":               {strategy: Strategy{Kind: RecreateStrategy}, next: moved("db"), errorWith: "StatefulSet/db"},
		"recreate on every node":       {strategy: Strategy{Kind: RecreateStrategy}, next: moved("agent"), errorWith: "DaemonSet/agent"},
		"stands still":                 {strategy: Strategy{Kind: RollingStrategy}, next: strings.Replace(moved("shop"), "  selector: {matchLabels: {app: shop}}", "  paused: true\n  selector: {matchLabels: {app: shop}}", 1), errorWith: "paused: true"},
	} {
		t.Run(name, func(t *testing.T) {
			var base *manifest.Release
			if !strings.Contains(name, "yet") {
				if c.base == "" {
					c.base = arranged
				}
				base = releaseOf(t, c.base)
			}
			r := &Rollout{Strategy: c.strategy}
			notes, err := r.arrange(releaseOf(t, c.next), base, c.disturbed)
			if c.errorWith != "" {
				require.ErrorIs(t, err, ErrInvalid)
				require.ErrorContains(t, err, c.errorWith)
				return
			}
			require.NoError(t, err)
			names := func(refs []manifest.Ref) string {
				var all []string
				for _, ref := range refs {
					all = append(all, ref.Name)
				}
				return strings.Join(all, " ")
			}
			services := ""
			for _, live := range r.Services {
				services += live.Service.Name
			}
			require.Equal(t, []string{string(c.kind), c.canaries, c.previews, services, c.batches},
				[]string{string(r.Strategy.Kind), names(r.Canaries), names(r.Previews), c.services, names(r.Partitioned)})
			require.Equal(t, c.services, services)
			require.Contains(t, strings.Join(notes, "; "), c.noteWith)
			require.Equal(t, c.noteWith == "", len(notes) == 0, "%v", notes)
		})
	}
}

// The preview Service reaches pods that are not ready, takes nothing that there
// is only one of, and goes with the preview.
func TestPreviewService(t *testing.T) {
	release := releaseOf(t, arranged)
	ref := manifest.Ref{APIVersion: "v1", Kind: "Service", Namespace: "x", Name: "shop"}
	workload := manifest.Ref{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "x", Name: "shop"}
	u, err := companionService(manifest.Stamped(release.Find(ref), "shop", 2, release.Digest), PreviewTrack, "uid-1", workload)
	require.NoError(t, err)
	require.Equal(t, "shop-preview", u.GetName())
	require.Equal(t, map[string]any{"publishNotReadyAddresses": true, "ports": []any{map[string]any{"port": int64(80)}},
		"selector": map[string]any{"app": "shop", "tidegate.dev/track": "preview"}}, u.Object["spec"])
	require.Equal(t, "shop-preview", u.GetOwnerReferences()[0].Name)
	require.Equal(t, "shop", u.GetLabels()[manifest.LabelApp])
}

func TestPointingIsReadAsItWasAimed(t *testing.T) {
	for _, to := range []Pointing{PointsOwn, PointsStable, PointsPreview} {
		u := releaseOf(t, arranged).Find(manifest.Ref{APIVersion: "v1", Kind: "Service", Namespace: "x", Name: "shop"})
		require.NoError(t, aim(u, to, "abc"))
		selector := map[string]string{}
		for key, value := range u.Object["spec"].(map[string]any)["selector"].(map[string]any) {
			selector[key] = value.(string)
		}
		got, hash := pointing(selector)
		require.Equal(t, to, got)
		require.Equal(t, to == PointsStable, hash == "abc")
		require.Equal(t, "shop", selector["app"])
	}
}
