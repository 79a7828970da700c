//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/yaml"
)

var (
	crds       = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	httpRoutes = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}
	virtuals   = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}
	traefiks   = schema.GroupVersionResource{Group: "traefik.io", Version: "v1alpha1", Resource: "traefikservices"}
	ingresses  = schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}
)

// installed are the CustomResourceDefinitions of routers that these tests brought.
var installed = struct {
	sync.Mutex
	names map[string]bool
}{names: map[string]bool{}}

// objects talks to any kind of object.
func objects(t testing.TB) dynamic.Interface {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	return client
}

// routers brings the real CustomResourceDefinitions of the routers into the cluster.
func routers(t *testing.T) {
	t.Helper()
	installed.Lock()
	defer installed.Unlock()
	files, err := filepath.Glob("testdata/routers/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	client := objects(t).Resource(crds)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		encoded, err := yaml.YAMLToJSON(content)
		require.NoError(t, err)
		u := &unstructured.Unstructured{}
		require.NoError(t, u.UnmarshalJSON(encoded))
		if installed.names[u.GetName()] {
			continue
		}
		_, err = client.Create(t.Context(), u, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			require.NoError(t, err)
			installed.names[u.GetName()] = true
		}
		watch, err := client.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + u.GetName()})
		require.NoError(t, err)
		for event := range watch.ResultChan() {
			if seen, ok := event.Object.(*unstructured.Unstructured); ok && strings.Contains(fmt.Sprint(conditionOf(seen, "Established")), "True") {
				break
			}
		}
		watch.Stop()
	}
}

func conditionOf(u *unstructured.Unstructured, kind string) any {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, entry := range conditions {
		if c, ok := entry.(map[string]any); ok && c["type"] == kind {
			return c["status"]
		}
	}
	return nil
}

// removeRouters takes them away again.
func removeRouters() {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return
	}
	for _, name := range slices.Collect(maps.Keys(installed.names)) {
		if err := client.Resource(crds).Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
	}
}

// gateway is a small Gateway controller for one HTTPRoute: nginx forwards what
// the route says, and the route's status tells which generation it does.
type gateway struct {
	*world
	port int
	dir  string

	nginx *exec.Cmd
	stop  func()
}

// gateway starts one for the HTTPRoute called name.
func (w *world) gateway(name string) *gateway {
	w.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(w, err)
	g := &gateway{world: w, port: listener.Addr().(*net.TCPAddr).Port, dir: w.TempDir()}
	require.NoError(w, listener.Close())
	ctx, cancel := context.WithCancel(w.ctx)
	first := make(chan struct{})
	var working sync.WaitGroup
	working.Go(func() { g.run(ctx, name, first) })
	g.stop = func() {
		cancel()
		working.Wait()
		if g.nginx != nil {
			_ = g.nginx.Process.Signal(syscall.SIGTERM) // its workers go with it
			_ = g.nginx.Wait()
		}
	}
	w.Cleanup(g.stop)
	select {
	case <-first:
	case <-w.ctx.Done():
		require.Fail(w, "the gateway never served")
	}
	return g
}

func (g *gateway) address() string { return fmt.Sprintf("http://127.0.0.1:%d", g.port) }

func (g *gateway) run(ctx context.Context, name string, first chan struct{}) {
	client := objects(g).Resource(httpRoutes).Namespace(g.namespace)
	served := int64(0)
	for ctx.Err() == nil {
		watch, err := client.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			continue
		}
		for event := range watch.ResultChan() {
			route, ok := event.Object.(*unstructured.Unstructured)
			if !ok || route.GetGeneration() == served {
				continue
			}
			if err := g.serve(ctx, route); err != nil {
				if ctx.Err() == nil {
					g.Errorf("gateway: generation %d: %s", route.GetGeneration(), err)
				}
				continue
			}
			if served == 0 {
				close(first)
			}
			served = route.GetGeneration()
		}
	}
}

// serve makes nginx forward what the route says, and then says so.
func (g *gateway) serve(ctx context.Context, route *unstructured.Unstructured) error {
	config, err := g.config(ctx, route)
	if err != nil {
		return err
	}
	path := filepath.Join(g.dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	if g.nginx == nil {
		g.nginx = exec.Command("nginx", "-p", g.dir, "-c", path, "-e", filepath.Join(g.dir, "error.log"), "-g", "daemon off;")
		g.nginx.Stderr = os.Stderr
		if err := g.nginx.Start(); err != nil {
			return err
		}
	} else if out, err := exec.CommandContext(ctx, "nginx", "-p", g.dir, "-c", path, "-e", filepath.Join(g.dir, "error.log"), "-s", "reload").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	http1 := newClient()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.address()+"/-/generation", http.NoBody)
		if err != nil {
			return err
		}
		answer, err := http1.Do(request)
		if err == nil {
			body, _ := io.ReadAll(io.LimitReader(answer.Body, 100))
			_ = answer.Body.Close()
			if string(bytes.TrimSpace(body)) == fmt.Sprint(route.GetGeneration()) {
				break
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return g.report(ctx, route)
}

// config is nginx's for a route: each rule picks by its headers, and draws one
// of its backends for each request by their weights.
func (g *gateway) config(ctx context.Context, route *unstructured.Unstructured) (string, error) {
	rules, _, err := unstructured.NestedSlice(route.Object, "spec", "rules")
	if err != nil {
		return "", err
	}
	var split, pick, choose strings.Builder
	for i := len(rules) - 1; i >= 0; i-- { // the last one that matches wins below: the first rule
		rule := rules[i].(map[string]any)
		if err := g.drawn(ctx, &split, i, rule); err != nil {
			return "", err
		}
		fmt.Fprintf(&choose, "  r%d $draw%d;\n", i, i)
		headers, _, _ := unstructured.NestedSlice(rule["matches"].([]any)[0].(map[string]any), "headers")
		if len(headers) == 0 {
			fmt.Fprintf(&pick, "    set $rule r%d;\n", i)
			continue
		}
		header := headers[0].(map[string]any)
		fmt.Fprintf(&pick, "    if ($http_%s = \"%s\") { set $rule r%d; }\n", strings.ReplaceAll(strings.ToLower(header["name"].(string)), "-", "_"), header["value"], i)
	}
	return fmt.Sprintf(`pid %s/pid;
worker_processes 2;
events {}
http {
access_log off;
client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
%[2]s
map $rule $backend {
%[3]s}
server {
  listen 127.0.0.1:%[4]d;
  location = /-/generation { return 200 "%[5]d\n"; }
  location / {
    set $rule none;
%[6]s    proxy_next_upstream off;
    proxy_pass http://$backend;
  }
}
}
`, g.dir, split.String(), choose.String(), g.port, route.GetGeneration(), pick.String()), nil
}

// drawn writes how a rule draws one of its backends.
func (g *gateway) drawn(ctx context.Context, out *strings.Builder, i int, rule map[string]any) error {
	var total int64
	backends := rule["backendRefs"].([]any)
	for _, entry := range backends {
		total += entry.(map[string]any)["weight"].(int64)
	}
	fmt.Fprintf(out, "split_clients \"$request_id\" $draw%d {\n", i)
	var last string
	for _, entry := range backends {
		backend := entry.(map[string]any)
		weight := backend["weight"].(int64)
		if weight == 0 {
			continue
		}
		service, err := kube.CoreV1().Services(g.namespace).Get(ctx, backend["name"].(string), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if last != "" {
			fmt.Fprintln(out, last)
		}
		address := fmt.Sprintf("%s:%d", service.Spec.ClusterIP, backend["port"])
		last = fmt.Sprintf("  %.2f%% %s;", 100*float64(weight)/float64(total), address)
	}
	_, address, _ := strings.Cut(strings.TrimSpace(last), " ")
	fmt.Fprintf(out, "  * %s\n}\n", address)
	return nil
}

// report sets what a Gateway controller says of a route that it serves.
func (g *gateway) report(ctx context.Context, route *unstructured.Unstructured) error {
	client := objects(g).Resource(httpRoutes).Namespace(g.namespace)
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		live, err := client.Get(ctx, route.GetName(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		var conditions []any
		for _, kind := range []string{"Accepted", "ResolvedRefs"} {
			conditions = append(conditions, map[string]any{"type": kind, "status": "True", "reason": kind, "message": "",
				"observedGeneration": route.GetGeneration(), "lastTransitionTime": time.Now().UTC().Format(time.RFC3339)})
		}
		parents := []any{map[string]any{"controllerName": "tidegate.dev/test", "parentRef": map[string]any{"name": "edge"}, "conditions": conditions}}
		if err := unstructured.SetNestedSlice(live.Object, parents, "status", "parents"); err != nil {
			return err
		}
		_, err = client.UpdateStatus(ctx, live, metav1.UpdateOptions{})
		return err
	})
}
