package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	planned = `
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {GREETING: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: password, annotations: {tidegate.dev/versioned: "false"}}
stringData: {password: c4n4ry-1}
---
apiVersion: v1
kind: Service
metadata: {name: old}
spec: {selector: {app: shop}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 10
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: shop, image: "r/shop@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", envFrom: [{configMapRef: {name: shop}}]}]}
`
	plannedNext = `
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {GREETING: hello again}
---
apiVersion: v1
kind: Secret
metadata: {name: password, annotations: {tidegate.dev/versioned: "false"}}
stringData: {password: c4n4ry-2}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 10
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec: {containers: [{name: shop, image: "r/shop@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", envFrom: [{configMapRef: {name: shop}}]}]}
`
)

func releaseOf(t *testing.T, text string) *manifest.Release {
	t.Helper()
	objects, err := manifest.Parse("shop.yaml", []byte(text))
	require.NoError(t, err)
	release, err := manifest.New(t.Context(), objects, manifest.Options{Namespace: "x"})
	require.NoError(t, err)
	return release
}

// rehearsed plans a release over what serves; nil when nothing does.
func rehearsed(t *testing.T, serving, next *manifest.Release, request Request, refuse string) *Plan {
	t.Helper()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	record := &Record{App: "shop", Namespace: "x"}
	live := map[string]*unstructured.Unstructured{}
	if serving != nil {
		record.Revisions, record.Verified, record.Stable, record.Inventory = 1, 1, 1, serving.Refs()
		record.Current = &Rollout{Revision: 1, Digest: serving.Digest, State: Verified}
		record.finish()
		for _, u := range serving.Objects {
			live[manifest.RefOf(u).String()] = manifest.Stamped(u, "shop", 1, serving.Digest)
		}
	}
	s := &store{app: "shop", namespace: "x"}
	d := &driver{store: s, record: record, release: next, base: serving, clock: func() time.Time { return start }}
	request.App, request.Namespace, request.Release = "shop", "x", next
	require.NoError(t, request.check())
	r := request.rollout(start)
	require.NoError(t, d.choose(request, r, nil))
	notes, err := r.planRoutes(next, serving, func(asked TrafficRoute) (*unstructured.Unstructured, error) {
		kind := traffic.For(asked.Router).Kinds()[0]
		return live[manifest.Ref{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Namespace: "x", Name: asked.Name}.String()], nil
	})
	require.NoError(t, err)
	if len(notes) > 0 {
		r.Note = strings.Join(notes, "; ")
	}
	r.Revision = record.Revisions + 1
	record.Revisions, record.Current = r.Revision, r
	w := &writes{driver: d, scaled: func(manifest.Ref) bool { return false }, seen: map[string]*unstructured.Unstructured{},
		live: func(_ context.Context, ref manifest.Ref) (*unstructured.Unstructured, error) {
			return live[ref.String()], nil
		},
		try: func(_ context.Context, u *unstructured.Unstructured) (*unstructured.Unstructured, *unstructured.Unstructured, error) {
			if u.GetName() == refuse {
				return nil, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "deployments"}, refuse, errors.New("exceeded quota: team"))
			}
			return live[manifest.RefOf(u).String()], u, nil
		}}
	w.bookkeeping(serving == nil, r)
	obs := Observation{}
	for _, ref := range next.Refs() {
		if manifest.IsWorkload(ref) || manifest.IsCustom(ref) {
			obs.Workloads = append(obs.Workloads, Workload{Ref: ref})
		}
	}
	for _, live := range r.Services {
		obs.Services = append(obs.Services, Service{LiveService: live, Exists: true})
	}
	for _, l := range r.Routes {
		obs.Routes = append(obs.Routes, Route{LiveRoute: l, Exists: true, State: traffic.State{Intact: true}})
	}
	for i := range obs.Workloads {
		if w := &obs.Workloads[i]; serving != nil && serving.Contains(w.Ref) {
			w.Exists, w.Release, w.Replicas, w.Hash = true, serving.Digest, 10, "5d59d67564"
			w.Health, w.ReadySince = health.Verdict{Status: health.Ready, Desired: 10}, start
		}
	}
	p := &Plan{Target: Target{"shop", "x"}, Revision: r.Revision, Base: r.Base, Release: "sha256:next", Strategy: r.Strategy, Note: r.Note}
	require.NoError(t, p.rehearse(t.Context(), w, expected(obs, next), start))
	return p
}

func TestPlansAreGolden(t *testing.T) {
	most := 0.5
	canary := Strategy{Kind: CanaryStrategy, Steps: []Step{{Weight: 10}, {Weight: 50, Hold: time.Minute}}, Metrics: []MetricGate{
		{Name: "errors", Prometheus: "http://p:9090", Bad: "bad", Total: "all"}, {Name: "load", Prometheus: "http://p:9090", Query: "load", Max: &most}}}
	first, next := releaseOf(t, planned), releaseOf(t, plannedNext)
	live := "---\napiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec: {selector: {app: shop}, ports: [{port: 80}]}\n"
	gateway := "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: shop}\nspec: {parentRefs: [{name: public}], rules: [{backendRefs: [{name: shop, port: 80}]}]}\n"
	ingress := "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: shop}\nspec: {ingressClassName: nginx, rules: [{host: shop.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: shop, port: {number: 80}}}}]}}]}\n"
	picked := []Step{{Match: &traffic.Match{Header: "x-canary", Value: "yes"}}, {Weight: 25, Hold: time.Minute}}
	blue, green := releaseOf(t, planned+live), releaseOf(t, plannedNext+live)
	set := strings.NewReplacer("kind: Deployment", "kind: StatefulSet")
	stateful, statefulNext := releaseOf(t, set.Replace(planned)), releaseOf(t, set.Replace(plannedNext))
	for name, p := range map[string]*Plan{
		"first":              rehearsed(t, nil, first, Request{}, ""),
		"rolling":            rehearsed(t, first, next, Request{}, ""),
		"blue-green":         rehearsed(t, blue, green, Request{Strategy: Strategy{Kind: BlueGreenStrategy, Metrics: canary.Metrics[1:]}}, ""),
		"recreate":           rehearsed(t, first, next, Request{Strategy: Strategy{Kind: RecreateStrategy}}, ""),
		"statefulset":        rehearsed(t, stateful, statefulNext, Request{}, ""),
		"statefulset-canary": rehearsed(t, stateful, statefulNext, Request{Strategy: Strategy{Kind: CanaryStrategy, Steps: canary.Steps}}, ""),
		"gates": rehearsed(t, first, next, Request{
			Hooks: []Hook{{Name: "migrate", Phase: BeforeHook, Manifest: jobOf(t, smoke)}, {Name: "warm", Phase: AfterHook, Manifest: jobOf(t, smoke)}, {Name: "page", Phase: FailureHook, Manifest: jobOf(t, smoke)}},
			Strategy: Strategy{Kind: CanaryStrategy, Steps: canary.Steps, Checks: []CheckGate{
				{Name: "smoke", Job: &JobGate{Manifest: jobOf(t, smoke)}, Timeout: time.Minute},
				{Name: "release", Approval: &ApprovalGate{From: []string{"ops"}}, Steps: []int{2}},
				{Name: "load", Webhook: &WebhookGate{URL: "https://x/y"}, Advisory: true},
				{Name: "together", CEL: &CELGate{Pass: `webhooks.load.outcome == "pass"`}}}}}, ""),
		"waves":        rehearsed(t, first, releaseOf(t, plannedNext+wavesAround), Request{}, ""),
		"waves-canary": rehearsed(t, first, releaseOf(t, plannedNext+wavesAround), Request{Strategy: Strategy{Kind: CanaryStrategy, Steps: canary.Steps[:1]}}, ""),
		"gateway": rehearsed(t, releaseOf(t, planned+live+gateway), releaseOf(t, plannedNext+live+gateway),
			Request{Strategy: Strategy{Kind: CanaryStrategy, Steps: picked, Traffic: []TrafficRoute{{traffic.Gateway, "shop"}}}}, ""),
		"nginx": rehearsed(t, releaseOf(t, planned+live+ingress), releaseOf(t, plannedNext+live+ingress),
			Request{Strategy: Strategy{Kind: CanaryStrategy, Steps: picked, Traffic: []TrafficRoute{{traffic.Nginx, "shop"}}}}, ""),
		"no-route": rehearsed(t, releaseOf(t, planned+live), releaseOf(t, plannedNext+live+gateway),
			Request{Strategy: Strategy{Kind: CanaryStrategy, Steps: canary.Steps, Traffic: []TrafficRoute{{traffic.Gateway, "shop"}}}}, ""),
		"canary":  rehearsed(t, first, next, Request{Strategy: canary}, ""),
		"refused": rehearsed(t, first, next, Request{Strategy: Strategy{Kind: CanaryStrategy, Steps: canary.Steps[:1]}}, "shop-canary"),
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, name == "refused", p.Refused())
			encoded, err := json.MarshalIndent(p, "", "  ")
			require.NoError(t, err)
			require.NotContains(t, string(encoded), "c4n4ry")
			path := filepath.Join("testdata", "plan", name+".json")
			if *update {
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, append(encoded, '\n'), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), string(encoded)+"\n")
		})
	}
}
