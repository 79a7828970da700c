//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/tidegate-ci/tidegate/rollout"
)

// counted keeps the requests of a controller.
type counted struct {
	mu       sync.Mutex
	requests []string // "GET /path" and "WATCH /path"
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func (c *counted) count(next http.RoundTripper) http.RoundTripper {
	return transport(func(r *http.Request) (*http.Response, error) {
		verb := r.Method
		if r.URL.Query().Get("watch") != "" {
			verb = "WATCH"
		}
		c.mu.Lock()
		c.requests = append(c.requests, verb+" "+r.URL.Path)
		c.mu.Unlock()
		return next.RoundTrip(r)
	})
}

// take returns the requests so far and forgets them.
func (c *counted) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.requests
	c.requests = nil
	return taken
}

func (w *world) controllerAs(config *rest.Config) *rollout.Controller {
	w.Helper()
	c, err := rollout.New(rollout.Cluster{Config: config}, rollout.Options{Log: zaptest.NewLogger(w.T, zaptest.Level(zap.WarnLevel))})
	require.NoError(w, err)
	return c
}

// confined is a ServiceAccount's configuration that sees this namespace and no other.
func (w *world) confined() *rest.Config {
	w.Helper()
	const name = "deployer"
	create := metav1.CreateOptions{}
	_, err := kube.CoreV1().ServiceAccounts(w.namespace).Create(w.ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, create)
	require.NoError(w, err)
	all := []string{"get", "list", "watch", "create", "update", "patch", "delete"}
	_, err = kube.RbacV1().Roles(w.namespace).Create(w.ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps", "secrets", "services"}, Verbs: all},
		{APIGroups: []string{""}, Resources: []string{"pods", "pods/log", "pods/status", "events"}, Verbs: []string{"get", "list", "watch", "patch"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: all},
		{APIGroups: []string{"apps"}, Resources: []string{"replicasets"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"autoscaling"}, Resources: []string{"horizontalpodautoscalers"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, Verbs: all},
	}}, create)
	require.NoError(w, err)
	_, err = kube.RbacV1().RoleBindings(w.namespace).Create(w.ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: w.namespace}}}, create)
	require.NoError(w, err)
	token, err := kube.CoreV1().ServiceAccounts(w.namespace).CreateToken(w.ctx, name, &authenticationv1.TokenRequest{}, create)
	require.NoError(w, err)
	confined := rest.AnonymousClientConfig(config)
	confined.BearerToken = token.Status.Token
	return confined
}

// One controller with the rights of one namespace drives several releases at
// once over one set of watches, and the next ones without reading anything again.
func TestRolloutsShareWhatTheyWatch(t *testing.T) {
	w := newWorld(t)
	const apps = 3
	versions := []string{image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")}
	requests := &counted{}
	confined := w.confined()
	confined.Wrap(requests.count)
	controller := w.controllerAs(confined)
	request := func(app, image string, steps ...rollout.Step) rollout.Request {
		manifests := strings.NewReplacer("shop", app, "replicas: 3", "replicas: 1").Replace(shop)
		r := w.request(image, 0, steps...)
		r.App = app
		r.Release = w.release(strings.Replace(manifests, "image: "+app, "image: shop", 1), image)
		return r
	}
	all := func(controllers []*rollout.Controller, image string, steps ...rollout.Step) {
		t.Helper()
		results, errs := make([]rollout.Result, apps), make([]error, apps)
		var running sync.WaitGroup
		for i := range apps {
			running.Go(func() {
				results[i], errs[i] = controllers[i%len(controllers)].Start(w.ctx, request(fmt.Sprintf("app%d", i), image, steps...), w.log(nil))
			})
		}
		running.Wait()
		for i := range apps {
			require.NoError(t, errs[i])
			require.Equal(t, rollout.Verified, results[i].Rollout.State)
		}
		w.settles(map[string]int{image: apps})
	}

	all([]*rollout.Controller{controller}, versions[0])
	first := requests.take()
	all([]*rollout.Controller{controller}, versions[1], rollout.Step{Weight: 100, Hold: 2 * time.Second})
	second := requests.take()

	watches := map[string]int{}
	for _, request := range second {
		if path, ok := strings.CutPrefix(request, "WATCH "); ok {
			watches[path]++
		}
		for _, kept := range []string{"/leases/", "/configmaps/tidegate-", "/secrets/tidegate-"} {
			require.False(t, strings.HasPrefix(request, "GET ") && strings.Contains(request, kept), "read again: %s", request)
		}
	}
	require.NotEmpty(t, watches)
	for path, n := range watches {
		// A watch that has just been ended with the last rollout is begun anew by the next.
		require.LessOrEqual(t, n, 2, "watches of %s for %d rollouts at once", path, apps)
	}
	t.Logf("requests of one: %d first, %d then", len(first)/apps, len(second)/apps)

	// What another process did meanwhile is seen.
	all([]*rollout.Controller{w.controllerAs(config)}, versions[2])
	all([]*rollout.Controller{controller}, versions[0])
	for i := range apps {
		record, _, err := w.controller().Status(w.ctx, rollout.Target{App: fmt.Sprintf("app%d", i), Namespace: w.namespace})
		require.NoError(t, err)
		require.Equal(t, 4, record.Verified)
	}
	// So is a record that somebody deleted.
	require.NoError(t, kube.CoreV1().ConfigMaps(w.namespace).Delete(w.ctx, "tidegate-app0", metav1.DeleteOptions{}))
	result, err := controller.Start(w.ctx, request("app0", versions[1]), w.log(nil))
	require.NoError(t, err)
	require.Equal(t, rollout.Verified, result.Rollout.State)
}
