package traffic

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// ingresses are those of Ingress-NGINX. The split is in a second Ingress for
// the same hosts and paths, marked as the canary of the first, which is never
// written to.
// See https://kubernetes.github.io/ingress-nginx/user-guide/nginx-configuration/annotations/#canary.
type ingresses struct{}

const (
	nginxPrefix   = "nginx.ingress.kubernetes.io/"
	nginxCanary   = nginxPrefix + "canary"
	nginxWeight   = nginxPrefix + "canary-weight"
	nginxHeader   = nginxPrefix + "canary-by-header"
	nginxValue    = nginxPrefix + "canary-by-header-value"
	nginxCookie   = nginxPrefix + "canary-by-cookie"
	ingressClass  = "kubernetes.io/ingress.class"
	canarySuffix  = "-canary"
	cookieAlways  = "always"
	ingressAPI    = "networking.k8s.io/v1"
	maxIngressLen = 253
)

func (ingresses) Kinds() []schema.GroupVersionKind {
	return []schema.GroupVersionKind{{Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"}}
}

func (ingresses) Can(s Split) error {
	if s.Baseline > 0 {
		return errors.New("Ingress-NGINX has no third share for the baseline that a metric is compared with; use query with min or max")
	}
	if s.Match != nil && s.Match.Cookie != "" && s.Match.Value != cookieAlways {
		return fmt.Errorf("Ingress-NGINX sends requests to the canary whose cookie says %q, and can't match %q; write value: %s", cookieAlways, s.Match.Value, cookieAlways)
	}
	return nil
}

func (ingresses) Holder(route manifest.Ref) manifest.Ref {
	route.APIVersion, route.Name = ingressAPI, route.Name+canarySuffix
	return route
}

// Split makes the canary's Ingress of those rules of the route that send to
// the stable Service.
func (n ingresses) Split(route, _ *unstructured.Unstructured, b Backends, s Split) (*unstructured.Unstructured, error) {
	ref := n.Holder(manifest.RefOf(route))
	if len(ref.Name) > maxIngressLen {
		return nil, fmt.Errorf("%s: the name of its canary would be longer than %d bytes", manifest.RefOf(route), maxIngressLen)
	}
	if route.GetAnnotations()[nginxCanary] == "true" {
		return nil, fmt.Errorf("%s is the canary of another Ingress itself; name that one", manifest.RefOf(route))
	}
	hosts, err := canaryHosts(route, b)
	if err != nil {
		return nil, err
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("%s has no path that sends to the Services %s", manifest.RefOf(route), b)
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": ingressAPI, "kind": "Ingress",
		"spec": map[string]any{"rules": hosts},
	}}
	u.SetName(ref.Name)
	u.SetNamespace(route.GetNamespace())
	if class, ok, _ := unstructured.NestedString(route.Object, "spec", "ingressClassName"); ok {
		if err := unstructured.SetNestedField(u.Object, class, "spec", "ingressClassName"); err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
	}
	annotations := map[string]string{nginxCanary: "true", nginxWeight: strconv.Itoa(s.Weight)}
	if class := route.GetAnnotations()[ingressClass]; class != "" {
		annotations[ingressClass] = class
	}
	if m := s.Match; m != nil && m.Header != "" {
		annotations[nginxHeader], annotations[nginxValue] = m.Header, m.Value
	} else if m != nil {
		annotations[nginxCookie] = m.Cookie
	}
	u.SetAnnotations(annotations)
	return u, setMark(u, &mark{Split: s})
}

// canaryHosts are the rules of an Ingress that send to the stable Service, as
// they send to the canary.
func canaryHosts(route *unstructured.Unstructured, b Backends) ([]any, error) {
	list, _, err := unstructured.NestedSlice(route.Object, "spec", "rules")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifest.RefOf(route), err)
	}
	var hosts []any
	for _, entry := range list {
		rule, ok := entry.(map[string]any)
		if !ok {
			continue
		}
		paths, _, err := unstructured.NestedSlice(rule, "http", "paths")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", manifest.RefOf(route), err)
		}
		var kept []any
		for _, p := range paths {
			path, ok := p.(map[string]any)
			name, _, _ := unstructured.NestedString(path, "backend", "service", "name")
			at := slices.IndexFunc(b, func(p Pair) bool { return p.Stable == name })
			if !ok || at < 0 {
				continue
			}
			if err := unstructured.SetNestedField(path, b[at].Canary, "backend", "service", "name"); err != nil {
				return nil, fmt.Errorf("%s: %w", manifest.RefOf(route), err)
			}
			kept = append(kept, path)
		}
		if len(kept) == 0 {
			continue
		}
		host := map[string]any{"http": map[string]any{"paths": kept}}
		if name, ok := rule["host"]; ok {
			host["host"] = name
		}
		hosts = append(hosts, host)
	}
	return hosts, nil
}

// Services are those of all paths; a default backend has no canary.
func (ingresses) Services(route *unstructured.Unstructured) []string {
	list, _, _ := unstructured.NestedSlice(route.Object, "spec", "rules")
	var names []string
	for _, entry := range list {
		rule, _ := entry.(map[string]any)
		paths, _, _ := unstructured.NestedSlice(rule, "http", "paths")
		for _, p := range paths {
			path, _ := p.(map[string]any)
			name, _, _ := unstructured.NestedString(path, "backend", "service", "name")
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func (ingresses) Clear(*unstructured.Unstructured, Backends) (*unstructured.Unstructured, error) {
	return nil, nil
}

func (ingresses) Read(held *unstructured.Unstructured, _ Backends) State {
	if held == nil {
		return State{Intact: true}
	}
	state := State{Touched: true}
	annotations := held.GetAnnotations()
	if weight, err := strconv.Atoi(annotations[nginxWeight]); err == nil && annotations[nginxCanary] == "true" {
		state.Weight = min(max(weight, 0), 100)
	}
	m := markOf(held)
	if m == nil {
		return state
	}
	state.Match = m.Match
	wanted := map[string]string{nginxCanary: "true", nginxWeight: strconv.Itoa(m.Weight)}
	if m.Match != nil && m.Match.Header != "" {
		wanted[nginxHeader], wanted[nginxValue] = m.Match.Header, m.Match.Value
	} else if m.Match != nil {
		wanted[nginxCookie] = m.Match.Cookie
	}
	got := maps.Clone(annotations)
	maps.DeleteFunc(got, func(key, _ string) bool {
		return key != nginxCanary && key != nginxWeight && key != nginxHeader && key != nginxValue && key != nginxCookie
	})
	state.Intact = maps.Equal(wanted, got)
	return state
}

func (ingresses) Reported(*unstructured.Unstructured) Reported {
	return Reported{Taken: true, Silent: true}
}
