//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/tidegate-ci/tidegate/internal/testserver"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// streamTo sends requests to what is no Service.
func (w *world) streamTo(address string) *stream {
	w.Helper()
	return w.steadyTo(address, 4, 10*time.Millisecond)
}

// share sends n requests, with a header or without, and returns how many each version answered.
func (w *world) share(address, header string, n int) map[string]int {
	w.Helper()
	client := testserver.Client()
	answered := map[string]int{}
	for range n {
		request, err := http.NewRequestWithContext(w.ctx, http.MethodGet, address, http.NoBody)
		require.NoError(w, err)
		if header != "" {
			request.Header.Set(header, "yes")
		}
		answer, err := client.Do(request)
		require.NoError(w, err)
		body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		require.NoError(w, err)
		require.NoError(w, answer.Body.Close())
		require.Equal(w, http.StatusOK, answer.StatusCode, "%s", body)
		version, _, _ := strings.Cut(string(body), " ")
		answered[version]++
	}
	return answered
}

// isShare holds what was counted against the weight: five standard deviations of
// a binomial, which a correct router exceeds once in a million times.
func (w *world) isShare(answered map[string]int, version string, percent int) {
	w.Helper()
	n := 0
	for _, count := range answered {
		n += count
	}
	p := float64(percent) / 100
	bound := 5 * math.Sqrt(float64(n)*p*(1-p))
	w.Logf("%d %%: %v of %d, within %.0f ± %.0f", percent, answered, n, p*float64(n), bound)
	require.InDelta(w, p*float64(n), float64(answered[version]), bound)
}

// Through a real data plane, every step has exactly the share that it says, and
// no request fails while weights move, are put right, promote and roll back.
func TestGatewayGivesTheCanaryItsShare(t *testing.T) {
	routers(t)
	w := newWorld(t)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	first := w.request(v1, 0)
	first.Release = w.release(routed, v1)
	_, err := w.controller().Start(w.ctx, first, w.log(nil))
	require.NoError(t, err)
	w.answersWith("shop", "1")
	before := w.object(httpRoutes, "shop")
	edge := w.gateway("shop")
	live := w.streamTo(edge.address())

	how := []string{"--bake", "1s", "--traffic", "httproute/shop", "--canary", "0:1h:header.x-canary=yes", "--canary", "20:1h", "--canary", "50:1h"}
	command, out := w.startFile(routed, v2, how...)
	w.weightAt(1, 0)
	require.Equal(t, map[string]int{"2": 50}, w.share(edge.address(), "x-canary", 50))
	require.Equal(t, map[string]int{"1": 50}, w.share(edge.address(), "", 50))
	require.Equal(t, map[string]int{"1": 50}, w.share(w.address("shop"), "x-canary", 50), "the Service itself sends to the stable pods alone")

	_, err = w.cli("rollout", "promote", "shop")
	require.NoError(t, err)
	w.weightAt(2, 20)
	w.isShare(w.share(edge.address(), "", 500), "2", 20)
	status, err := w.cli("rollout", "status", "shop")
	require.NoError(t, err)
	require.Contains(t, status, "HTTPRoute/shop: 20 % to Service/shop-canary")
	drift, code := w.asks("diff", "shop")
	require.Zero(t, code, "weights are no drift: %s", drift)

	// Someone gives the canary more, and is overruled.
	patch := `[{"op":"replace","path":"/spec/rules/1/backendRefs/1/weight","value":400}]`
	_, err = objects(t).Resource(httpRoutes).Namespace(w.namespace).Patch(w.ctx, "shop", types.JSONPatchType, []byte(patch), metav1.PatchOptions{FieldManager: "somebody"})
	require.NoError(t, err)
	w.until("put right", func(r *rollout.Record) bool { return r.Live() && r.Current.Routes[0].Overwritten == 1 })
	state := traffic.For(traffic.Gateway).Read(w.object(httpRoutes, "shop"), traffic.Backends{{Stable: "shop", Canary: "shop-canary"}})
	require.True(t, state.Intact && state.Weight == 20, "%+v", state)

	// The process dies; another goes on from the cluster.
	require.NoError(t, command.Process.Kill())
	require.Error(t, command.Wait(), "%s", out)
	tell := w.told()
	done := make(chan error, 1)
	go func() {
		_, err := w.controller().Continue(w.ctx, w.target(), w.log(tell))
		done <- err
	}()
	_, err = w.cli("rollout", "promote", "shop")
	require.NoError(t, err)
	w.weightAt(3, 50)
	w.isShare(w.share(edge.address(), "", 500), "2", 50)
	_, err = w.cli("rollout", "promote", "shop")
	require.NoError(t, err)
	require.NoError(t, <-done)
	w.settles(map[string]int{v2: 3})
	w.routeIs(before)
	for w.share(edge.address(), "", 50)["2"] < 50 { // kube-proxy lets go of the last old pod
		require.NoError(t, w.ctx.Err())
	}

	// A release that is taken back has its weight taken first.
	command, out = w.startFile(routed, v3, "--bake", "1s", "--traffic", "httproute/shop", "--canary", "50:1h")
	w.weightAt(1, 50)
	w.isShare(w.share(edge.address(), "", 300), "3", 50)
	_, err = w.cli("rollout", "abort", "shop")
	require.NoError(t, err)
	require.Error(t, command.Wait(), "%s", out)
	require.Equal(t, map[string]int{"2": 50}, w.share(edge.address(), "", 50))
	w.settles(map[string]int{v2: 3})
	w.routeIs(before)
	w.nothingBeside("shop-canary")
	answered, _ := live.end("", "")
	t.Logf("answered %v", answered)
	require.Empty(t, live.failures)
	require.NotZero(t, answered["3"])
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
		if said, err := os.ReadFile(filepath.Join(g.dir, "error.log")); err == nil && g.Failed() {
			g.Logf("nginx says:\n%s", said)
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
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !g.serves(ctx, route.GetGeneration()) {
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return g.report(ctx, route)
}

// serves tells whether nginx forwards what a generation of the route says, and
// nothing older: for a moment after a reload, workers of both accept.
func (g *gateway) serves(ctx context.Context, generation int64) bool {
	master := g.nginx.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", master))
	if err != nil {
		return false
	}
	accepting := 0
	for _, pid := range strings.Fields(string(children)) {
		if title, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && !strings.Contains(string(title), "shutting down") {
			accepting++
		}
	}
	if accepting != 1 { // worker_processes
		return false
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, g.address()+"/-/generation", http.NoBody)
	if err != nil {
		return false
	}
	answer, err := testserver.Client().Do(request)
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 100))
	return err == nil && string(bytes.TrimSpace(body)) == fmt.Sprint(generation)
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
worker_processes 1;
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
