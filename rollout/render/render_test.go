package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

var shopTarget = Target{Name: "shop", Namespace: "production", KubeVersion: "v1.36.1", APIVersions: []string{"apps/v1", "apps/v1/Deployment"}}

// golden compares what was rendered; UPDATE=1 writes the expectation.
func golden(t *testing.T, name string, result *Result) {
	t.Helper()
	var parts []string
	add := func(note string, u *unstructured.Unstructured) {
		manifest.WithoutOrigin(u)
		encoded, err := yaml.Marshal(u.Object)
		require.NoError(t, err)
		parts = append(parts, note+string(encoded))
	}
	for _, u := range result.Objects {
		add("", u)
	}
	for _, hook := range result.Hooks {
		add(fmt.Sprintf("# hook %s, after: %t\n", hook.Name, hook.After), hook.Manifest)
	}
	got := strings.Join(parts, "---\n")
	path := filepath.Join("testdata", name+".golden")
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestGolden(t *testing.T) {
	upgrade := shopTarget
	upgrade.Upgrade = true
	for name, c := range map[string]struct {
		source Source
		target Target
	}{
		"kustomize": {Source{Kustomize: "k8s/overlays/production"}, shopTarget},
		"base":      {Source{Kustomize: "k8s/base/", Manifests: []string{"chart/crds"}}, shopTarget},
		"install":   {Source{Helm: &Helm{Chart: "chart"}}, shopTarget},
		"upgrade": {Source{Helm: &Helm{Chart: "./chart", Values: []string{"chart/values-production.yaml"}, Set: map[string]string{"replicas": "7", "greeting": `{a,"b\c"}`}, SetString: map[string]string{"image": "1"},
			APIVersions: []string{"monitoring.coreos.com/v1/ServiceMonitor"}, KubeVersion: "1.31"}}, upgrade},
		"bare": {Source{Helm: &Helm{Chart: "chart", SkipHooks: true, SkipCRDs: true, Set: map[string]string{"cache.enabled": "false"}}}, shopTarget},
	} {
		t.Run(name, func(t *testing.T) {
			here, err := render("testdata", c.source, c.target)
			require.NoError(t, err)
			golden(t, name, here)
			there, err := Render(t.Context(), "testdata", c.source, c.target)
			require.NoError(t, err)
			golden(t, name, there) // the other process says the same
		})
	}
}

// files makes a checkout.
func files(t testing.TB, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return dir
}

func TestKustomizationsStayInside(t *testing.T) {
	outside := files(t, map[string]string{"secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n", "kustomization.yaml": "resources: [secret.yaml]\n"})
	config := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
	for name, c := range map[string]struct{ kustomization, want string }{
		"remote base":           {"resources:\n- c.yaml\n- https://github.com/a/b//k8s?ref=v1\n", "k/kustomization.yaml:3:3: https://github.com/a/b//k8s?ref=v1 is remote, and nothing is fetched"},
		"remote base, short":    {"resources: [github.com/a/b]", "is remote"},
		"remote base, by ssh":   {"bases: ['git@example.com:a/b']", "is remote"},
		"remote base, forced":   {"components: ['git::https://x/y']", "is remote"},
		"remote file":           {"patches: [{path: 'http://x/y.yaml'}]", "k/kustomization.yaml:1:18: http://x/y.yaml is remote"},
		"remote configuration":  {"configurations: ['HTTPS://x/y.yaml']", "is remote"},
		"remote definitions":    {"crds: ['file:///etc/passwd']", "is remote"},
		"remote schema":         {"openapi: {path: 'https://x/y'}", "is remote"},
		"remote literal":        {"configMapGenerator: [{name: x, files: ['a=https://x/y']}]", "is remote"},
		"remote environment":    {"secretGenerator: [{name: x, envs: ['https://x/y']}]", "is remote"},
		"outside":               {"resources: [../../x]", "leaves the repository"},
		"absolute":              {"resources: [/etc]", "is absolute"},
		"by a link to a file":   {"resources: [linked.yaml]", "is not in the repository"},
		"by a link":             {"resources: [linked]", "is not in the repository"},
		"environment by a link": {"configMapGenerator: [{name: x, envs: [linked.yaml]}]", "is not in the repository"},
		"not there":             {"resources: [gone.yaml]", "k/kustomization.yaml:1:13: gone.yaml is not in the repository (no such file or directory); nothing is fetched"},
		"charts":                {"helmCharts: [{name: x, repo: 'https://x'}]", "k/kustomization.yaml:1:1: helmCharts: charts are not inflated by kustomize"},
		"a container": {"transformers:\n- |-\n  apiVersion: builtin\n  kind: X\n  metadata:\n    name: x\n    annotations:\n      config.kubernetes.io/function: |\n        container: {image: x}\n",
			"is a function in a container or a program"},
		"a program":        {"generators: [plugin.yaml]", "is not a built-in plugin"},
		"no mapping":       {"- a", "a kustomization is a mapping"},
		"no YAML":          {"a: [", "not valid YAML"},
		"unknown field":    {"resources: [c.yaml]\nfoo: bar", `unknown field "foo"`},
		"itself":           {"resources: [../k]", "cycle"},
		"an alias":         {"x: &x [https://x/y]\nresources: *x", "is remote"},
		"a file, not more": {"resources: [c.yaml]\ncomponents: [c.yaml]", "a component is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			root := files(t, map[string]string{"k/kustomization.yaml": c.kustomization, "k/c.yaml": config, "k/plugin.yaml": "apiVersion: someteam.example.com/v1\nkind: Generator\nmetadata: {name: x}\n"})
			require.NoError(t, os.Symlink(outside, filepath.Join(root, "k", "linked")))
			require.NoError(t, os.Symlink(filepath.Join(outside, "secret.yaml"), filepath.Join(root, "k", "linked.yaml")))
			_, err := render(root, Source{Kustomize: "k"}, shopTarget)
			require.ErrorContains(t, err, c.want)
			_, err = Render(t.Context(), root, Source{Kustomize: "k"}, shopTarget)
			require.ErrorContains(t, err, c.want)
		})
	}
	for dir, want := range map[string]string{"gone": "no such file", "k/c.yaml": "name the directory", "k/empty": "no kustomization.yaml", "../x": "escapes", "both": "keep one"} {
		root := files(t, map[string]string{"k/c.yaml": config, "k/empty/c.yaml": config, "both/kustomization.yaml": "", "both/Kustomization": ""})
		_, err := render(root, Source{Kustomize: dir}, shopTarget)
		require.ErrorContains(t, err, want, dir)
	}
}

// Links inside the checkout are followed.
func TestLinksInside(t *testing.T) {
	root := files(t, map[string]string{"k/kustomization.yaml": "resources: [base]\n", "common/kustomization.yaml": "resources: [c.yaml]\n", "common/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"})
	require.NoError(t, os.Symlink("../common", filepath.Join(root, "k", "base")))
	result, err := render(root, Source{Kustomize: "k"}, shopTarget)
	require.NoError(t, err)
	require.Len(t, result.Objects, 1)
}

func copied(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(root, "chart"), os.DirFS("testdata/chart")))
	return root
}

func TestChartsSayWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, root string)
		helm   Helm
		want   string
	}{
		"no chart":               {nil, Helm{Chart: "gone"}, "chart gone"},
		"not a chart":            {nil, Helm{Chart: "chart/templates"}, "no Chart.yaml in this directory"},
		"outside":                {nil, Helm{Chart: "../x"}, "escapes"},
		"values outside":         {nil, Helm{Values: []string{"../x"}}, "escapes"},
		"values not there":       {nil, Helm{Values: []string{"gone.yaml"}}, "gone.yaml"},
		"values by schema":       {nil, Helm{Set: map[string]string{"replicas": "none"}}, "values.schema.json asks for: shop: - at '/replicas': got string, want integer"},
		"a wrong path":           {nil, Helm{Set: map[string]string{"a=b": "c"}}, "write the path of one value"},
		"a wrong version":        {nil, Helm{KubeVersion: "new"}, `kube-version "new"`},
		"an old cluster":         {nil, Helm{KubeVersion: "1.29"}, "the chart wants Kubernetes >=1.30.0-0, and the cluster has v1.29"},
		"no template":            {put("templates/x.yaml", "a: {{ .Values.x | nothing }}\n"), Helm{}, `chart/templates/x.yaml:1: function "nothing" not defined`},
		"a failing one":          {put("templates/x.yaml", "a: b\nc: {{ required \"set x\" .Values.x }}\n"), Helm{}, "chart/templates/x.yaml:2:7: set x"},
		"below the chart":        {put("charts/cache/templates/x.yaml", "{{ fail \"no\" }}"), Helm{}, "chart/charts/cache/templates/x.yaml:1:4: no"},
		"no YAML":                {put("templates/x.yaml", "a: {{ .Values.greeting }}: b\n"), Helm{}, "chart/templates/x.yaml (rendered):1: not valid YAML"},
		"no object":              {put("templates/x.yaml", "a: b\n"), Helm{}, "chart/templates/x.yaml (rendered):1: not a Kubernetes object"},
		"values that are none":   {put("v.yaml", "a: [\n"), Helm{Values: []string{"chart/v.yaml"}}, "chart/v.yaml: not valid YAML"},
		"a dependency":           {put("Chart.yaml", "apiVersion: v2\nname: shop\nversion: 0.1.0\ndependencies:\n- name: redis\n  version: 1.x\n  repository: https://charts.example.com\n"), Helm{}, `chart/Chart.yaml:5:9: the chart needs "redis" 1.x, which is not in chart/charts, and nothing is fetched: run "helm dependency update chart"`},
		"a library":              {put("Chart.yaml", "apiVersion: v2\nname: shop\nversion: 0.1.0\ntype: library\n"), Helm{}, "it is a library chart"},
		"a schema afar":          {put("values.schema.json", `{"$ref": "http://127.0.0.1:1/schema.json"}`), Helm{}, "is not fetched"},
		"a schema outside":       {put("values.schema.json", `{"$ref": "file:///etc/passwd"}`), Helm{}, "is not fetched"},
		"a hook of another kind": {put("templates/x.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, annotations: {helm.sh/hook: pre-install}}\n"), Helm{}, `chart/templates/x.yaml: ConfigMap "x" is a hook for pre-install, and only Jobs can be hooks`},
		"a hook of a rollback":   {put("templates/x.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x, annotations: {helm.sh/hook: pre-rollback}}\n"), Helm{}, `is a hook for "pre-rollback", and there is no such moment here`},
		"a hook's weight":        {put("templates/x.yaml", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x, annotations: {helm.sh/hook: pre-install, helm.sh/hook-weight: high}}\n"), Helm{}, `"high" is not a whole number`},
		"no Kubernetes":          {nil, Helm{KubeVersion: ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := copied(t)
			if c.change != nil {
				c.change(t, root)
			}
			if c.helm.Chart == "" {
				c.helm.Chart = "chart"
			}
			target := shopTarget
			if c.want == "" {
				target.KubeVersion, c.want = "", "set the chart's kube-version"
			}
			_, err := render(root, Source{Helm: &c.helm}, target)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func put(name, text string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(root, "chart", name), []byte(text), 0o600))
	}
}

// What a template can find: nothing of the machine, and nothing of this process.
func TestTemplatesSeeNothingOfTheMachine(t *testing.T) {
	t.Setenv("TIDEGATE_SECRET", "c4n4ry")
	root := copied(t)
	put("templates/x.yaml", "a: {{ env \"TIDEGATE_SECRET\" }}\n")(t, root)
	_, err := render(root, Source{Helm: &Helm{Chart: "chart"}}, shopTarget)
	require.ErrorContains(t, err, `function "env" not defined`)
	outside := files(t, map[string]string{"secret": "c4n4ry"})
	require.NoError(t, os.Remove(filepath.Join(root, "chart/templates/x.yaml")))
	require.NoError(t, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(root, "chart", "secret")))
	_, err = render(root, Source{Helm: &Helm{Chart: "chart"}}, shopTarget)
	require.ErrorContains(t, err, "escapes")
}

// A template that does not end, or wants all the memory, ends only its own process.
func TestRenderingIsBounded(t *testing.T) {
	before := rendering.Bounds
	t.Cleanup(func() { rendering.Bounds = before })
	rendering.Bounds.CPU, rendering.Bounds.Memory = 2, 256<<20
	for name, text := range map[string]string{
		"memory": "a: {{ range $i := until 100000 }}{{ $x := repeat 1000000 \"abcdefgh\" }}{{ $x }}{{ end }}\n",
		"bombs":  "{{ define \"a\" }}{{ range until 1000 }}{{ repeat 10000 \"0123456789\" }}{{ end }}{{ end }}{{ range until 1000 }}{{ include \"a\" $ }}{{ end }}",
	} {
		t.Run(name, func(t *testing.T) {
			root := copied(t)
			put("templates/x.yaml", text)(t, root)
			_, err := Render(t.Context(), root, Source{Helm: &Helm{Chart: "chart"}}, shopTarget)
			require.ErrorContains(t, err, "rendering chart: needed more than")
		})
	}
}

func TestPackagedChart(t *testing.T) {
	var packed bytes.Buffer
	compressed := gzip.NewWriter(&packed)
	archived := tar.NewWriter(compressed)
	require.NoError(t, fs.WalkDir(os.DirFS("testdata/chart"), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join("testdata/chart", name))
		if err != nil {
			return err
		}
		if err := archived.WriteHeader(&tar.Header{Name: "shop/" + name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err = archived.Write(content)
		return err
	}))
	require.NoError(t, archived.Close())
	require.NoError(t, compressed.Close())
	root := files(t, map[string]string{"shop.tgz": packed.String()})
	result, err := render(root, Source{Helm: &Helm{Chart: "shop.tgz"}}, shopTarget)
	require.NoError(t, err)
	golden(t, "install", result)
	_, err = render(files(t, map[string]string{"shop.tgz": "no archive"}), Source{Helm: &Helm{Chart: "shop.tgz"}}, shopTarget)
	require.ErrorContains(t, err, "shop.tgz: not a packaged chart")
}

func TestNothingToRender(t *testing.T) {
	_, err := Render(t.Context(), ".", Source{}, shopTarget)
	require.ErrorIs(t, err, ErrNothing)
	_, err = render(files(t, map[string]string{"c/Chart.yaml": "apiVersion: v2\nname: c\nversion: 1.0.0\n"}), Source{Helm: &Helm{Chart: "c"}}, shopTarget)
	require.ErrorContains(t, err, "gives no objects")
}

// Whatever a kustomization says: it is built from inside, or refused.
func FuzzKustomize(f *testing.F) {
	f.Add("resources: [c.yaml]\nnamePrefix: a-\n")
	f.Add("resources: [https://x/y]\npatches: [{path: a}, {patch: '[]'}]\n")
	f.Add("x: &x [*x]\n")
	f.Add("generators:\n- |-\n  apiVersion: builtin\n  kind: ConfigMapGenerator\n  metadata: {name: x}\n  literals: [a=b]\n")
	f.Fuzz(func(t *testing.T, text string) {
		root := files(t, map[string]string{"k/kustomization.yaml": text, "k/c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"})
		base, err := os.OpenRoot(root)
		require.NoError(t, err)
		defer base.Close()
		_ = surveyed(base, "k")
	})
}

// Whatever values say, and wherever they are to go: there are values, or a reason.
func FuzzValues(f *testing.F) {
	f.Add("a: {b: 1}\n", "a.b", "2")
	f.Add("a: [1, 2]\n---\nb: x\n", "a[1]", "{x,y}")
	f.Add("&a [*a]", `a\\.b[0].c`, `\\,`)
	f.Fuzz(func(t *testing.T, text, path, value string) {
		base, err := os.OpenRoot(files(t, map[string]string{"v.yaml": text}))
		require.NoError(t, err)
		defer base.Close()
		values, err := chartValues(base, Helm{Chart: "c", Values: []string{"v.yaml"}, Set: map[string]string{path: value}, SetString: map[string]string{path: value}})
		if err == nil && values == nil {
			t.Fatal("no values, and no reason")
		}
	})
}
