package traffic

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// virtualServices are Istio's.
// See https://istio.io/latest/docs/reference/config/networking/virtual-service/.
type virtualServices struct{ rules }

var virtualServiceRules = rules{
	path: []string{"spec", "http"}, backends: "route",
	service: func(route *unstructured.Unstructured, backend map[string]any) string {
		host, _, _ := unstructured.NestedString(backend, "destination", "host")
		return serviceOf(host, route.GetNamespace())
	},
	rename: func(backend map[string]any, from, to string) {
		destination, _ := backend["destination"].(map[string]any)
		host, _ := destination["host"].(string)
		destination["host"] = to + strings.TrimPrefix(host, from)
	},
	match: matchVirtualService,
}

// serviceOf is the Service that a host names, if it is one of the namespace.
func serviceOf(host, namespace string) string {
	name, rest, _ := strings.Cut(host, ".")
	switch rest {
	case "", namespace, namespace + ".svc", namespace + ".svc.cluster.local":
		return name
	}
	return ""
}

func matchVirtualService(rule map[string]any, m Match, canary map[string]any) (map[string]any, error) {
	delete(rule, "name")
	rule["route"] = []any{canary}
	key, condition := strings.ToLower(m.Header), map[string]any{"exact": m.Value}
	if m.Cookie != "" {
		key = "cookie"
		condition = map[string]any{"regex": `^(.*?;\s*)?` + regexp.QuoteMeta(m.Cookie+"="+m.Value) + `(;.*)?$`}
	}
	matches, _ := rule["match"].([]any)
	if len(matches) == 0 {
		matches = []any{map[string]any{}}
	}
	for _, entry := range matches {
		one, ok := entry.(map[string]any)
		if !ok {
			return nil, errors.New("spec.http: a match is not a mapping")
		}
		headers, _ := one["headers"].(map[string]any)
		if headers == nil {
			headers = map[string]any{}
		}
		for name := range headers {
			if strings.EqualFold(name, key) {
				return nil, fmt.Errorf("a rule matches the header %s already, so that it can't pick requests for the canary", key)
			}
		}
		headers[key] = condition
		one["headers"] = headers
	}
	rule["match"] = matches
	return rule, nil
}

func (virtualServices) Kinds() []schema.GroupVersionKind {
	return []schema.GroupVersionKind{
		{Group: "networking.istio.io", Version: "v1", Kind: "VirtualService"},
		{Group: "networking.istio.io", Version: "v1beta1", Kind: "VirtualService"},
	}
}

func (virtualServices) Can(Split) error { return nil }

func (v virtualServices) Split(route, held *unstructured.Unstructured, b Backends, s Split) (*unstructured.Unstructured, error) {
	if err := v.refuseSubsets(route, b); err != nil {
		return nil, err
	}
	return v.rules.Split(route, held, b, s)
}

// refuseSubsets refuses a destination that a DestinationRule narrows: there is
// none for the canary Service.
func (v virtualServices) refuseSubsets(route *unstructured.Unstructured, b Backends) error {
	list, err := v.list(route)
	if err != nil {
		return err
	}
	for _, rule := range list {
		r, err := v.ring(route, rule, b)
		if err != nil || r.stable < 0 {
			continue
		}
		backend, _ := r.backends[r.stable].(map[string]any)
		if subset, _, _ := unstructured.NestedString(backend, "destination", "subset"); subset != "" {
			return fmt.Errorf("%s sends to the subset %q of %s, and the Service %s has none; name the Service without a subset", manifest.RefOf(route), subset, r.pair.Stable, r.pair.Canary)
		}
	}
	return nil
}

// Reported goes by the generation in the status, which istiod writes if it is
// told to (PILOT_ENABLE_STATUS).
func (virtualServices) Reported(held *unstructured.Unstructured) Reported {
	if held == nil {
		return Reported{Taken: true}
	}
	value, ok, _ := unstructured.NestedFieldNoCopy(held.Object, "status", "observedGeneration")
	if !ok {
		return Reported{Taken: true, Silent: true}
	}
	observed, err := strconv.ParseInt(fmt.Sprint(value), 10, 64) // int64 is a string in the JSON of protocol buffers
	if err != nil || observed < held.GetGeneration() {
		return Reported{Why: "istiod has not taken it yet"}
	}
	return Reported{Taken: true}
}
