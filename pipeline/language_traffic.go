package pipeline

import (
	"fmt"
	"strconv"
	"strings"
)

// maxRoutes bounds the routes of a strategy.
const maxRoutes = 10

var trafficShape = object{
	name: "traffic", doc: "Routes by which a canary gets exactly its share, as kubectl names them.",
	fields: []field{
		{key: "gateway", shape: routesOf("httproute"), doc: "HTTPRoutes of Gateway API, such as httproute/shop."},
		{key: "nginx", shape: routesOf("ingress"), doc: "Ingresses of Ingress-NGINX, such as ingress/shop."},
		{key: "istio", shape: routesOf("virtualservice"), doc: "VirtualServices of Istio, such as virtualservice/shop."},
		{key: "traefik", shape: routesOf("traefikservice"), doc: "TraefikServices of Traefik, such as traefikservice/shop."},
	},
	rules: map[string]any{"minProperties": 1},
}

// routesOf are names of routes of one kind.
func routesOf(resource string) list {
	pattern := newPattern(`^` + resource + `/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	check := func(value string) (Rule, string, string) {
		if pattern.MatchString(value) {
			return "", "", ""
		}
		_, name, _ := strings.Cut(value, "/")
		if name == "" {
			name = value
		}
		return RuleValue, fmt.Sprintf("%q is no route of this router", clip(value)), "write " + resource + "/" + clip(name)
	}
	return list{item: text{mode: valueText, check: check, pattern: pattern.String()}, single: true, min: 1, max: maxRoutes, unique: true}
}

var matchShape = object{
	name: "match", doc: "Requests that go to the new version whatever the weight: those whose header, or whose cookie, has this very value.",
	fields: []field{
		{key: "header", shape: text{check: checkToken, pattern: tokenPattern.String()}, doc: "The name of a header."},
		{key: "cookie", shape: text{check: checkToken, pattern: tokenPattern.String()}, doc: "The name of a cookie; not with gateway, and with nginx its value is always."},
		{key: "value", shape: text{check: checkMatchValue, pattern: matchValuePattern.String()}, required: true, doc: "The value that it must have."},
	},
	rules: map[string]any{"oneOf": []any{
		map[string]any{"required": []string{"header"}}, map[string]any{"required": []string{"cookie"}},
	}},
}

var (
	tokenPattern      = newPattern("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,120}$")
	matchValuePattern = newPattern(`^[!-~]([ -~]{0,118}[!-~])?$`)
	cookieValue       = newPattern(`^[!#-+\--:<-\[\]-~]+$`)
)

func checkToken(value string) (Rule, string, string) {
	if tokenPattern.MatchString(value) {
		return "", "", ""
	}
	return RuleValue, fmt.Sprintf("%q is no name of a header or cookie", clip(value)), ""
}

func checkMatchValue(value string) (Rule, string, string) {
	if matchValuePattern.MatchString(value) {
		return "", "", ""
	}
	return RuleValue, fmt.Sprintf("%q can't be matched", clip(value)), "use at most 120 printable characters"
}

// nginxCookieValue is the one value by which Ingress-NGINX knows a cookie.
const nginxCookieValue = "always"

// checkTraffic checks what steps ask of the routers that are named.
func (d *decoder) checkTraffic(path string, canary *CanarySpec) {
	traffic := canary.Traffic
	if traffic != nil && d.has(path+".traffic") && len(traffic.Gateway)+len(traffic.Nginx)+len(traffic.Istio)+len(traffic.Traefik) == 0 {
		d.add(d.keyAt(path+".traffic"), RuleRequired, "write gateway:, nginx:, istio: or traefik:", "traffic names no route")
	}
	if traffic != nil {
		d.checkCompared(path, canary)
	}
	for i := range canary.Steps {
		d.checkMatch(fmt.Sprintf("%s.steps[%d]", path, i), &canary.Steps[i], traffic)
	}
}

// checkCompared checks that a baseline can have its share beside the canary.
func (d *decoder) checkCompared(path string, canary *CanarySpec) {
	for i := range canary.Gates {
		m := canary.Gates[i].Metric
		if m == nil || m.Query != "" || m.Bad == "" && m.Value == "" {
			continue
		}
		if len(canary.Traffic.Nginx) > 0 {
			d.add(d.keyAt(fmt.Sprintf("%s.gates[%d].metric", path, i)), RuleKind, "write query with min or max, or use another router",
				"a metric is compared with a baseline, for which Ingress-NGINX has no third share")
		}
		for j, step := range canary.Steps {
			if step.Weight == 100 || step.Match != nil && d.isZero(fmt.Sprintf("%s.steps[%d].weight", path, j)) {
				d.add(d.at(fmt.Sprintf("%s.steps[%d].weight", path, j)), RuleUnreachable, "write 1 to 99",
					"a metric is compared with a baseline, which gets no requests beside a weight of %d", step.Weight)
			}
		}
		return
	}
}

// isZero tells whether the file says 0 there: a number that was refused is 0, too.
func (d *decoder) isZero(path string) bool {
	n := d.nodes[path]
	if n == nil || n.kind != intNode {
		return false
	}
	value, err := strconv.Atoi(n.text)
	return err == nil && value == 0
}

func (d *decoder) checkMatch(path string, step *CanaryStep, traffic *TrafficSpec) {
	m := step.Match
	if m == nil {
		if d.isZero(path + ".weight") {
			d.add(d.at(path+".weight"), RuleValue, "write 1 to 100, or a match beside it", "a step with weight 0 sends nothing to the new version")
		}
		return
	}
	refuse := func(key, hint, format string, args ...any) {
		d.add(d.keyAt(path+".match."+key), RuleKind, hint, format, args...)
	}
	switch {
	case m.Header == "" && m.Cookie == "":
		d.add(d.keyAt(path+".match"), RuleRequired, "write header: or cookie:", "match says nothing to look at")
	case m.Header != "" && m.Cookie != "":
		refuse("cookie", "remove one of them", "a match looks at one header or one cookie, not at both")
	case traffic == nil:
		d.add(d.keyAt(path+".match"), RuleKind, "name a route under canary.traffic", "requests are picked by a router, and none is named")
	case len(traffic.Traefik) > 0:
		d.add(d.keyAt(path+".match"), RuleKind, "use weight alone, or another router", "a TraefikService can't pick requests by header or cookie")
	case m.Cookie != "" && len(traffic.Gateway) > 0:
		refuse("cookie", "match a header", "an HTTPRoute can't match a cookie")
	case m.Cookie != "" && len(traffic.Nginx) > 0 && m.Value != nginxCookieValue:
		refuse("value", "write value: "+nginxCookieValue, "Ingress-NGINX picks requests whose cookie says %q, and can't match another value", nginxCookieValue)
	case m.Cookie != "" && m.Value != "" && !cookieValue.MatchString(m.Value):
		refuse("value", "", "%q can't be the value of a cookie", clip(m.Value))
	}
}
