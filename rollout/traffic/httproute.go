package traffic

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// httpRoutes are those of Gateway API, whichever implementation serves them.
// See https://gateway-api.sigs.k8s.io/reference/spec/#httproute.
type httpRoutes struct{ rules }

const maxHTTPRouteRules = 16

var httpRouteRules = rules{
	path: []string{"spec", "rules"}, backends: "backendRefs", most: maxHTTPRouteRules,
	service: func(route *unstructured.Unstructured, backend map[string]any) string {
		name, _ := backend["name"].(string)
		if unset(backend, "group", "") && unset(backend, "kind", "Service") && unset(backend, "namespace", route.GetNamespace()) {
			return name
		}
		return ""
	},
	rename: func(backend map[string]any, _, to string) { backend["name"] = to },
	match:  matchHTTPRoute,
}

// unset tells whether a field is not set, or has its default.
func unset(m map[string]any, key, value string) bool {
	set, ok := m[key]
	return !ok || set == value
}

func matchHTTPRoute(rule map[string]any, m Match, canary map[string]any) (map[string]any, error) {
	delete(rule, "name") // which is unique
	// The API server sets this default itself: without it, what is read back would
	// look as if someone had changed it.
	canary["weight"] = int64(1)
	rule["backendRefs"] = []any{canary}
	matches, _ := rule["matches"].([]any)
	if len(matches) == 0 {
		matches = []any{map[string]any{"path": map[string]any{"type": "PathPrefix", "value": "/"}}}
	}
	for _, entry := range matches {
		one, ok := entry.(map[string]any)
		if !ok {
			return nil, errors.New("spec.rules: a match is not a mapping")
		}
		headers, _ := one["headers"].([]any)
		for _, header := range headers {
			if h, ok := header.(map[string]any); ok && strings.EqualFold(fmt.Sprint(h["name"]), m.Header) {
				return nil, fmt.Errorf("a rule matches the header %s already, so that it can't pick requests for the canary", m.Header)
			}
		}
		one["headers"] = append(headers, map[string]any{"type": "Exact", "name": m.Header, "value": m.Value})
	}
	rule["matches"] = matches
	return rule, nil
}

func (httpRoutes) Kinds() []schema.GroupVersionKind {
	return []schema.GroupVersionKind{{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"}}
}

func (httpRoutes) Can(s Split) error {
	if s.Match != nil && s.Match.Cookie != "" {
		return errors.New("an HTTPRoute can't match a cookie; match a header, or use Ingress-NGINX or Istio")
	}
	return nil
}

// Reported looks at the conditions of every Gateway that the route names: each
// must have accepted this generation and found its backends.
func (httpRoutes) Reported(held *unstructured.Unstructured) Reported {
	if held == nil {
		return Reported{Taken: true}
	}
	parents, _, _ := unstructured.NestedSlice(held.Object, "status", "parents")
	wanted, _, _ := unstructured.NestedSlice(held.Object, "spec", "parentRefs")
	waiting := "no Gateway has reported on it yet"
	taken := 0
	for _, entry := range parents {
		parent, ok := entry.(map[string]any)
		if !ok || !named(wanted, parent["parentRef"]) {
			continue
		}
		if why := notTaken(held, parent); why != "" {
			return Reported{Why: why}
		}
		taken++
	}
	if taken == 0 {
		return Reported{Why: waiting}
	}
	return Reported{Taken: true}
}

// named tells whether a parent that a controller reports on is one that the
// route still names: controllers may be slow to take others out.
func named(wanted []any, ref any) bool {
	parent, _ := ref.(map[string]any)
	for _, entry := range wanted {
		want, ok := entry.(map[string]any)
		if ok && want["name"] == parent["name"] && same(want, parent, "sectionName") && same(want, parent, "port") && same(want, parent, "namespace") {
			return true
		}
	}
	return false
}

// same compares a field that controllers may fill in.
func same(want, got map[string]any, key string) bool {
	value, ok := want[key]
	return !ok || fmt.Sprint(value) == fmt.Sprint(got[key])
}

func notTaken(held *unstructured.Unstructured, parent map[string]any) string {
	ref, _ := parent["parentRef"].(map[string]any)
	conditions, _ := parent["conditions"].([]any)
	accepted := false
	for _, entry := range conditions {
		c, ok := entry.(map[string]any)
		if !ok || (c["type"] != "Accepted" && c["type"] != "ResolvedRefs") {
			continue
		}
		observed, _, _ := unstructured.NestedInt64(c, "observedGeneration")
		switch {
		case observed < held.GetGeneration():
			return fmt.Sprintf("the Gateway %v has not taken it yet", ref["name"])
		case c["status"] != "True":
			return fmt.Sprintf("the Gateway %v says %v %v: %s: %s", ref["name"], c["type"], c["status"], clip(c["reason"]), clip(c["message"]))
		}
		accepted = accepted || c["type"] == "Accepted"
	}
	if !accepted {
		return fmt.Sprintf("the Gateway %v has not accepted it yet", ref["name"])
	}
	return ""
}

// clip bounds text that others wrote.
func clip(value any) string {
	const most = 200
	text := fmt.Sprint(value)
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
