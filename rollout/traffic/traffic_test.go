package traffic

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var shop = Backends{{Stable: "shop", Canary: "shop-canary"}}

func load(t *testing.T, name string) *unstructured.Unstructured {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	require.NoError(t, err)
	encoded, err := yaml.YAMLToJSON(content)
	require.NoError(t, err)
	u := &unstructured.Unstructured{}
	require.NoError(t, u.UnmarshalJSON(encoded))
	return u
}

var splits = map[string]Split{
	"twenty": {Weight: 20},
	"all":    {Weight: 100},
	"header": {Match: &Match{Header: "X-Canary", Value: "yes"}},
	"cookie": {Weight: 10, Match: &Match{Cookie: "canary", Value: "always"}},
}

func TestSplitsAreGolden(t *testing.T) {
	for _, kind := range Kinds() {
		router := For(kind)
		route := load(t, kind.Resource())
		for name, split := range splits {
			t.Run(kind.Resource()+" "+name, func(t *testing.T) {
				before := route.DeepCopy()
				var got string
				if err := router.Can(split); err != nil {
					got = "refused: " + err.Error() + "\n"
				} else {
					made, err := router.Split(route, nil, shop, split)
					require.NoError(t, err)
					encoded, err := yaml.Marshal(made.Object)
					require.NoError(t, err)
					got = string(encoded)
					state := router.Read(made, shop)
					require.True(t, state.Touched && state.Intact)
					require.True(t, state.Same(split), "%s, not %s", state.Split, split)
				}
				require.Equal(t, before, route, "the route itself was changed")
				path := filepath.Join("testdata", kind.Resource()+"-"+name+".golden")
				if *update {
					require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
				}
				want, err := os.ReadFile(path)
				require.NoError(t, err)
				require.Equal(t, string(want), got)
			})
		}
	}
}

// Whatever was split, and however often, the route is in the end what it was.
func TestClearRestoresTheRoute(t *testing.T) {
	for _, kind := range Kinds() {
		router := For(kind)
		route := load(t, kind.Resource())
		held := route
		if router.Holder(manifest.RefOf(route)) != manifest.RefOf(route) {
			held = nil
		}
		for _, name := range []string{"twenty", "header", "all", "cookie", "twenty"} {
			split := splits[name]
			if router.Can(split) != nil {
				continue
			}
			base := route
			if held != nil && router.Holder(manifest.RefOf(route)) == manifest.RefOf(route) {
				base = held
			}
			next, err := router.Split(base, held, shop, split)
			require.NoError(t, err)
			once, err := router.Split(route, nil, shop, split)
			require.NoError(t, err)
			require.Equal(t, once, next, "%s: a split depends on the one before", kind)
			held = next
		}
		cleared, err := router.Clear(held, shop)
		require.NoError(t, err)
		if router.Holder(manifest.RefOf(route)) != manifest.RefOf(route) {
			require.Nil(t, cleared)
			continue
		}
		require.Equal(t, route, cleared)
		require.Equal(t, State{Intact: true}, router.Read(cleared, shop))
	}
}

func TestChangesByOthersAreSeen(t *testing.T) {
	for _, kind := range []Kind{Gateway, Istio, Traefik} {
		router := For(kind)
		route := load(t, kind.Resource())
		made, err := router.Split(route, nil, shop, Split{Weight: 20})
		require.NoError(t, err)
		// Someone applies the manifest again, which leaves the annotation.
		reset := made.DeepCopy()
		reset.Object["spec"] = route.DeepCopy().Object["spec"]
		require.Equal(t, State{Touched: true, Split: Split{}}, router.Read(reset, shop), kind)
		again, err := router.Split(reset, reset, shop, Split{Weight: 20})
		require.NoError(t, err)
		require.Equal(t, made, again)
		cleared, err := router.Clear(reset, shop)
		require.NoError(t, err)
		require.Equal(t, route, cleared)
		// Someone takes the annotation off, or a process of an older version did.
		bare := made.DeepCopy()
		bare.SetAnnotations(route.GetAnnotations())
		state := router.Read(bare, shop)
		require.True(t, state.Touched && !state.Intact)
		require.Equal(t, 20, state.Weight, kind)
		cleared, err = router.Clear(bare, shop)
		require.NoError(t, err)
		require.Equal(t, State{Intact: true}, router.Read(cleared, shop))
	}
	// Weights that someone changed by hand.
	router := For(Gateway)
	made, err := router.Split(load(t, "httproute"), nil, shop, Split{Weight: 20})
	require.NoError(t, err)
	rules, _, err := unstructured.NestedSlice(made.Object, "spec", "rules")
	require.NoError(t, err)
	backends := rules[2].(map[string]any)["backendRefs"].([]any)
	backends[0].(map[string]any)["weight"], backends[1].(map[string]any)["weight"] = int64(10), int64(90)
	require.NoError(t, unstructured.SetNestedSlice(made.Object, rules, "spec", "rules"))
	state := router.Read(made, shop)
	require.False(t, state.Intact)
	require.Equal(t, 90, state.Weight)
	// A rule that someone adds, and another backend's weight, stay.
	made, err = router.Split(load(t, "httproute"), nil, shop, Split{Weight: 20})
	require.NoError(t, err)
	rules, _, err = unstructured.NestedSlice(made.Object, "spec", "rules")
	require.NoError(t, err)
	rules = append(rules, map[string]any{"backendRefs": []any{map[string]any{"name": "shop", "weight": int64(7)}, map[string]any{"name": "other", "weight": int64(3)}}})
	require.NoError(t, unstructured.SetNestedSlice(made.Object, rules, "spec", "rules"))
	require.False(t, router.Read(made, shop).Intact)
	cleared, err := router.Clear(made, shop)
	require.NoError(t, err)
	rules, _, err = unstructured.NestedSlice(cleared.Object, "spec", "rules")
	require.NoError(t, err)
	require.Len(t, rules, 5)
	require.Equal(t, int64(7), rules[4].(map[string]any)["backendRefs"].([]any)[0].(map[string]any)["weight"])
	require.Equal(t, int64(900), rules[1].(map[string]any)["backendRefs"].([]any)[0].(map[string]any)["weight"])
}

func TestWhatCannotBeSplitIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		kind   Kind
		change func(spec map[string]any)
		b      Backends
		split  Split
		says   string
	}{
		"no such Service":           {kind: Gateway, b: Backends{{Stable: "db", Canary: "db-canary"}}, split: Split{Weight: 20}, says: "sends nothing to the Services db"},
		"no whole number":           {kind: Gateway, split: Split{Weight: 20}, change: func(spec map[string]any) { setWeightOf(spec, 1, 0, 9) }, says: "multiply all weights of that rule by 100"},
		"canary named already":      {kind: Gateway, split: Split{Weight: 20}, change: func(spec map[string]any) { renameOf(spec, 1, 1, "shop-canary") }, says: ""},
		"Service twice":             {kind: Gateway, split: Split{Weight: 20}, change: func(spec map[string]any) { renameOf(spec, 1, 1, "shop") }, says: "twice"},
		"header matched already":    {kind: Gateway, split: splits["header"], change: func(spec map[string]any) { matchHeader(spec, 1, "x-canary") }, says: "matches the header X-Canary already"},
		"too many rules":            {kind: Gateway, split: splits["header"], change: func(spec map[string]any) { repeat(spec, "rules", 15) }, says: "may have 16"},
		"subset":                    {kind: Istio, split: Split{Weight: 20}, change: func(spec map[string]any) { subset(spec) }, says: "subset"},
		"match in a TraefikService": {kind: Traefik, split: splits["header"], says: "can't pick requests"},
		"default backend alone":     {kind: Nginx, split: Split{Weight: 20}, change: func(spec map[string]any) { delete(spec, "rules") }, says: "no path"},
	} {
		t.Run(name, func(t *testing.T) {
			route := load(t, test.kind.Resource())
			if test.change != nil {
				test.change(route.Object["spec"].(map[string]any))
			}
			if test.b == nil {
				test.b = shop
			}
			made, err := For(test.kind).Split(route, nil, test.b, test.split)
			if test.says == "" { // taken for ours, and put right
				require.NoError(t, err)
				require.True(t, For(test.kind).Read(made, shop).Intact)
				return
			}
			require.ErrorContains(t, err, test.says)
		})
	}
}

func ruleOf(spec map[string]any, i int) map[string]any {
	return spec["rules"].([]any)[i].(map[string]any)
}

func setWeightOf(spec map[string]any, rule, backend int, weight int64) {
	ruleOf(spec, rule)["backendRefs"].([]any)[backend].(map[string]any)["weight"] = weight
}

func renameOf(spec map[string]any, rule, backend int, name string) {
	ruleOf(spec, rule)["backendRefs"].([]any)[backend].(map[string]any)["name"] = name
}

func matchHeader(spec map[string]any, rule int, name string) {
	ruleOf(spec, rule)["matches"].([]any)[0].(map[string]any)["headers"] = []any{map[string]any{"name": name, "value": "no"}}
}

func repeat(spec map[string]any, key string, n int) {
	list := spec[key].([]any)
	for len(list) < n {
		list = append(list, list[2])
	}
	spec[key] = list
}

func subset(spec map[string]any) {
	spec["http"].([]any)[1].(map[string]any)["route"].([]any)[0].(map[string]any)["destination"].(map[string]any)["subset"] = "v1"
}

// A Gateway has taken a route when every parent has accepted this generation.
func TestHTTPRouteReports(t *testing.T) {
	condition := func(kind, status string, generation int64) map[string]any {
		return map[string]any{"type": kind, "status": status, "observedGeneration": generation, "reason": "Because", "message": "m"}
	}
	parent := func(name, section string, conditions ...any) map[string]any {
		return map[string]any{"controllerName": "x/y", "parentRef": map[string]any{"name": name, "sectionName": section}, "conditions": conditions}
	}
	for name, test := range map[string]struct {
		parents []any
		taken   bool
		why     string
	}{
		"nobody":   {nil, false, "no Gateway has reported"},
		"older":    {[]any{parent("public", "https", condition("Accepted", "True", 2))}, false, "public has not taken it yet"},
		"accepted": {[]any{parent("public", "https", condition("Accepted", "True", 3), condition("ResolvedRefs", "True", 3))}, true, ""},
		"refused":  {[]any{parent("public", "https", condition("Accepted", "False", 3))}, false, "Accepted False: Because: m"},
		"no Service": {[]any{parent("public", "https", condition("Accepted", "True", 3), condition("ResolvedRefs", "False", 3))},
			false, "ResolvedRefs False"},
		"stranger":  {[]any{parent("other", "https", condition("Accepted", "True", 3))}, false, "no Gateway has reported"},
		"one stale": {[]any{parent("public", "https", condition("Accepted", "True", 3)), parent("public", "https", condition("Accepted", "True", 1))}, false, "has not taken it yet"},
	} {
		t.Run(name, func(t *testing.T) {
			route := load(t, "httproute")
			require.NoError(t, unstructured.SetNestedSlice(route.Object, test.parents, "status", "parents"))
			got := For(Gateway).Reported(route)
			require.Equal(t, test.taken, got.Taken)
			require.Contains(t, got.Why, test.why)
		})
	}
	istio := load(t, "virtualservice")
	require.True(t, For(Istio).Reported(istio).Silent)
	require.NoError(t, unstructured.SetNestedField(istio.Object, "1", "status", "observedGeneration"))
	require.False(t, For(Istio).Reported(istio).Taken)
	require.NoError(t, unstructured.SetNestedField(istio.Object, int64(2), "status", "observedGeneration"))
	require.Equal(t, Reported{Taken: true}, For(Istio).Reported(istio))
}

func TestMatchesAreChecked(t *testing.T) {
	for _, m := range []Match{{}, {Header: "a", Cookie: "b", Value: "c"}, {Header: "a b", Value: "c"}, {Header: "a", Value: "c\nd"}, {Header: "a"},
		{Cookie: "a=b", Value: "c"}, {Cookie: "a", Value: "b;c"}, {Cookie: "a", Value: "b c"}, {Header: strings.Repeat("a", 300), Value: "b"}} {
		require.Error(t, m.Check(), "%+v", m)
	}
	for _, m := range []Match{{Header: "x-canary", Value: "yes please"}, {Cookie: "canary", Value: "always"}} {
		require.NoError(t, m.Check(), "%+v", m)
	}
}

func TestParse(t *testing.T) {
	kind, name, err := Parse("virtualservice/shop")
	require.NoError(t, err)
	require.Equal(t, Istio, kind)
	require.Equal(t, "shop", name)
	for _, text := range []string{"shop", "httproute/", "service/shop", "httproutes/shop"} {
		_, _, err := Parse(text)
		require.Error(t, err, text)
	}
}

// Routes of any shape: nothing but our two Services is ever changed, exactly the
// weight asked for is given, and the way back leads to the same route.
func TestSplitKeepsAllElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rules []any
		sends := false
		for i := range rapid.IntRange(1, 5).Draw(t, "rules") {
			var backends []any
			ours := rapid.SampledFrom([][]string{{"shop"}, {"web"}, {}}).Draw(t, "ours")
			others := rapid.SampledFrom([][]string{{}, {"legacy"}, {"db", "legacy"}}).Draw(t, "others")
			names := append(slices.Clone(ours), others...)
			for _, name := range names {
				backend := map[string]any{"name": name, "port": int64(80)}
				if len(names) > 1 || rapid.Bool().Draw(t, "weighted") {
					backend["weight"] = int64(rapid.IntRange(0, 5).Draw(t, "weight")) * 100
				}
				sends = sends || (name == "shop" || name == "web") && backend["weight"] != int64(0)
				backends = append(backends, backend)
			}
			rules = append(rules, map[string]any{"backendRefs": backends, "name": fmt.Sprint("r", i)})
		}
		route := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
			"metadata": map[string]any{"name": "shop", "namespace": "x"}, "spec": map[string]any{"rules": rules}}}
		both := Backends{{Stable: "shop", Canary: "shop-canary"}, {Stable: "web", Canary: "web-canary"}}
		s := Split{Weight: rapid.IntRange(0, 100).Draw(t, "percent")}
		if rapid.Bool().Draw(t, "match") {
			s.Match = &Match{Header: "x-canary", Value: "yes"}
		}
		made, err := For(Gateway).Split(route, nil, both, s)
		if !sends {
			if !s.None() && err == nil {
				t.Fatal("split a route that sends nothing to us")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if state := For(Gateway).Read(made, both); !state.Same(s) || !state.Intact {
			t.Fatalf("reads %+v, told %+v", state, s)
		}
		cleared, err := For(Gateway).Clear(made, both)
		if err != nil {
			t.Fatal(err)
		}
		require.Equal(t, route.Object, cleared.Object)
		picked := 0
		list, _, _ := unstructured.NestedSlice(made.Object, "spec", "rules")
		for _, entry := range list {
			var stable, canary, others int64
			sole := len(entry.(map[string]any)["backendRefs"].([]any)) > 0
			for _, b := range entry.(map[string]any)["backendRefs"].([]any) {
				backend := b.(map[string]any)
				weight, ok := backend["weight"].(int64)
				if !ok {
					weight = 1
				}
				switch name := backend["name"].(string); {
				case strings.HasSuffix(name, "-canary"):
					canary += weight
				case name == "shop" || name == "web":
					stable, sole = stable+weight, false
				default:
					others, sole = others+weight, false
				}
			}
			if sole {
				picked++
				continue
			}
			if canary*100 != int64(s.Weight)*(stable+canary) && stable+canary > 0 && canary > 0 {
				t.Fatalf("%d of %d, %d beside, is not %d %%", canary, stable+canary, others, s.Weight)
			}
		}
		if (picked > 0) != (s.Match != nil) {
			t.Fatalf("%d rules pick requests", picked)
		}
	})
}

// The API server fills in defaults, which are no changes by someone else.
func TestDefaultsAreNoChanges(t *testing.T) {
	router := For(Gateway)
	for name, split := range splits {
		if router.Can(split) != nil {
			continue
		}
		made, err := router.Split(defaulted(load(t, Gateway.Resource())), nil, shop, split)
		require.NoError(t, err)
		state := router.Read(defaulted(made), shop)
		require.True(t, state.Touched && state.Intact && state.Same(split), "%s: %+v", name, state)
	}
}

// defaulted is an HTTPRoute as its CustomResourceDefinition has the API server keep it.
func defaulted(route *unstructured.Unstructured) *unstructured.Unstructured {
	route = route.DeepCopy()
	set := func(m map[string]any, key string, value any) {
		if _, ok := m[key]; !ok {
			m[key] = value
		}
	}
	for _, entry := range route.Object["spec"].(map[string]any)["rules"].([]any) {
		rule := entry.(map[string]any)
		set(rule, "matches", []any{map[string]any{}})
		for _, match := range rule["matches"].([]any) {
			set(match.(map[string]any), "path", map[string]any{"type": "PathPrefix", "value": "/"})
		}
		backends, _ := rule["backendRefs"].([]any)
		for _, backend := range backends {
			set(backend.(map[string]any), "group", "")
			set(backend.(map[string]any), "kind", "Service")
			set(backend.(map[string]any), "weight", int64(1))
		}
	}
	return route
}
