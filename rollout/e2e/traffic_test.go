//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// routed is the shop behind an HTTPRoute, beside a rule and a backend of others.
var routed = graceful + `
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: edge}]
  rules:
  - matches: [{headers: [{name: x-legacy, value: "yes"}]}]
    backendRefs: [{name: legacy, port: 80}]
  - backendRefs: [{name: shop, port: 80, weight: 7}]
---
apiVersion: v1
kind: Service
metadata: {name: legacy}
spec: {selector: {app: legacy}, ports: [{port: 80}]}
`

// object reads one of any kind.
func (w *world) object(resource schema.GroupVersionResource, name string) *unstructured.Unstructured {
	w.Helper()
	u, err := objects(w).Resource(resource).Namespace(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
	require.NoError(w, err)
	return u
}

// weightAt waits until a step's clock runs with this split: its router has taken it.
func (w *world) weightAt(step int, weight int) {
	w.Helper()
	w.until(fmt.Sprintf("step %d", step), func(r *rollout.Record) bool {
		c := r.Current
		return r.Live() && c.State == rollout.Canary && c.Step == step && !c.StepReadyAt.IsZero() && len(c.Routes) > 0 && c.Routes[0].Told.Weight == weight
	})
}

// routeIs waits for nothing: the route must be what its manifest made of it.
func (w *world) routeIs(before *unstructured.Unstructured) {
	w.Helper()
	now := w.object(httpRoutes, before.GetName())
	require.Equal(w, before.Object["spec"], now.Object["spec"])
	require.NotContains(w, now.GetAnnotations(), traffic.Annotation)
}

// nothingBeside waits until no Deployment and no Service of the name is left.
func (w *world) nothingBeside(name string) {
	w.Helper()
	for {
		_, errD := kube.AppsV1().Deployments(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
		_, errS := kube.CoreV1().Services(w.namespace).Get(w.ctx, name, metav1.GetOptions{})
		if errD != nil && errS != nil {
			break
		}
		require.NoError(w, w.ctx.Err(), "%s is still there", name)
	}
	live, err := kube.CoreV1().Services(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
	require.NoError(w, err)
	require.Equal(w, map[string]string{"app": "shop"}, live.Spec.Selector)
}

// A router that never takes the weight ends the release, for that reason, and
// nothing was lost.
func TestGatewayThatTakesNothing(t *testing.T) {
	routers(t)
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	first := w.request(v1, 0)
	first.Release = w.release(routed, v1)
	_, err := w.controller().Start(w.ctx, first, w.log(nil))
	require.NoError(t, err)
	before := w.object(httpRoutes, "shop")
	request := w.request(v2, time.Second, rollout.Step{Weight: 20})
	request.Release, request.Deadline = w.release(routed, v2), 40*time.Second
	request.Strategy.Traffic = []rollout.TrafficRoute{{Router: traffic.Gateway, Name: "shop"}}
	plan, err := w.controller().Plan(w.ctx, request)
	require.NoError(t, err)
	encoded, err := json.Marshal(plan)
	require.NoError(t, err)
	require.Contains(t, string(encoded), `spec.rules[1].backendRefs[shop-canary]`)
	require.False(t, plan.Refused())
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.RouteNotTaken, result.Rollout.Failure.Reason)
	require.Contains(t, result.Rollout.Failure.Message, "no Gateway has reported on it yet")
	w.settles(map[string]int{v1: 3})
	w.routeIs(before)
	w.nothingBeside("shop-canary")
	// A route that is not there is no reason to stop, but for steps that need it.
	request.Strategy.Traffic = []rollout.TrafficRoute{{Router: traffic.Gateway, Name: "web"}}
	request.Strategy.Steps[0].Match = &traffic.Match{Header: "x-canary", Value: "yes"}
	_, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrInvalid)
	require.ErrorContains(t, err, "deploy the route first")
	request.Strategy.Steps[0].Match = nil
	result, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	require.Contains(t, result.Rollout.Note, "httproute/web does not exist yet: the canary's share is by replicas")
}

// The other routers' real kinds of object, on the real API server: exact weights
// in a step, and the manifest's own content at the end.
func TestOtherRouters(t *testing.T) {
	routers(t)
	for name, test := range map[string]struct {
		kind     traffic.Kind
		resource schema.GroupVersionResource
		held     string
		manifest string
		step     rollout.Step
		has      []string
	}{
		"istio": {traffic.Istio, virtuals, "shop", `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec: {hosts: [shop.example.com], http: [{name: all, route: [{destination: {host: shop, port: {number: 80}}}]}]}
`, rollout.Step{Weight: 20, Hold: time.Hour, Match: &traffic.Match{Cookie: "canary", Value: "yes"}},
			[]string{`"host":"shop-canary"`, `"weight":20`, `"weight":80`, `canary=yes`}},
		"traefik": {traffic.Traefik, traefiks, "shop", `
apiVersion: traefik.io/v1alpha1
kind: TraefikService
metadata: {name: shop}
spec: {weighted: {services: [{name: shop, port: 80}]}}
`, rollout.Step{Weight: 20, Hold: time.Hour}, []string{`"name":"shop-canary"`, `"weight":20`, `"weight":80`}},
		"nginx": {traffic.Nginx, ingresses, "shop-canary", `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec: {ingressClassName: nginx, rules: [{host: shop.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: shop, port: {number: 80}}}}]}}]}
`, rollout.Step{Weight: 20, Hold: time.Hour, Match: &traffic.Match{Header: "x-canary", Value: "yes"}},
			[]string{`"nginx.ingress.kubernetes.io/canary":"true"`, `canary-weight":"20"`, `canary-by-header":"x-canary"`, `"name":"shop-canary"`}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
			manifests := shop + "---" + test.manifest
			first := w.request(v1, 0)
			first.Release = w.release(manifests, v1)
			_, err := w.controller().Start(w.ctx, first, w.log(nil))
			require.NoError(t, err)
			before := w.object(test.resource, "shop")
			request := w.request(v2, time.Second, test.step)
			request.Release = w.release(manifests, v2)
			request.Strategy.Traffic = []rollout.TrafficRoute{{Router: test.kind, Name: "shop"}}
			done := make(chan error, 1)
			var result rollout.Result
			go func() {
				var err error
				result, err = w.controller().Start(w.ctx, request, w.log(nil))
				done <- err
			}()
			w.weightAt(1, 20)
			encoded, err := w.object(test.resource, test.held).MarshalJSON()
			require.NoError(t, err)
			for _, part := range test.has {
				require.Contains(t, string(encoded), part)
			}
			drift, code := w.asks("diff", "shop")
			require.Zero(t, code, drift)
			_, err = w.cli("rollout", "promote", "shop")
			require.NoError(t, err)
			require.NoError(t, <-done)
			if test.kind != traffic.Istio { // which tells where it is made to
				require.Contains(t, result.Rollout.Note, "does not tell when it has taken a weight")
			}
			after := w.object(test.resource, "shop")
			require.Equal(t, before.Object["spec"], after.Object["spec"])
			require.NotContains(t, after.GetAnnotations(), traffic.Annotation)
			if test.held != "shop" {
				_, err := objects(t).Resource(test.resource).Namespace(w.namespace).Get(context.Background(), test.held, metav1.GetOptions{})
				require.Error(t, err, "the canary's own object is still there")
			}
			w.nothingBeside("shop-canary")
			// What was written for the weights is no conflict for the next release.
			v3 := image(t, "VERSION=3")
			again := w.request(v3, 0)
			again.Release = w.release(shop+"---"+strings.NewReplacer("port: 80}", "port: 81}", "number: 80", "number: 81").Replace(test.manifest), v3)
			_, err = w.controller().Start(w.ctx, again, w.log(nil))
			require.NoError(t, err)
		})
	}
}
