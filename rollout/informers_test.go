package rollout

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// noKinds is an API server without custom resources.
type noKinds struct{ meta.RESTMapper }

func (noKinds) Reset() {}
func (noKinds) RESTMapping(kind schema.GroupKind, _ ...string) (*meta.RESTMapping, error) {
	return nil, &meta.NoKindMatchError{GroupKind: kind}
}

// namespaceOf makes stores of applications in one namespace of one controller.
func namespaceOf(kube *fake.Clientset) func(app string) *store {
	clients := &clients{kube: kube, mapper: noKinds{}, log: zap.NewNop(), watchers: &watchers{kube: kube, shared: map[watchedKey]*watcher{}}}
	return func(app string) *store { return &store{clients: clients, app: app, namespace: "x"} }
}

func releaseNamed(t *testing.T, app string) *manifest.Release {
	t.Helper()
	objects, err := manifest.Parse(app+".yaml", fmt.Appendf(nil, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  selector: {matchLabels: {app: %[1]s, tier: web}}
  template:
    metadata: {labels: {app: %[1]s, tier: web}}
    spec: {containers: [{name: main, image: "example.com/%[1]s@sha256:0000000000000000000000000000000000000000000000000000000000000000"}]}
`, app))
	require.NoError(t, err)
	release, err := manifest.New(t.Context(), objects, manifest.Options{Namespace: "x"})
	require.NoError(t, err)
	return release
}

func podOf(app string, n int) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", app, n), Namespace: "x", UID: types.UID(fmt.Sprintf("%s-%d", app, n)),
		Labels: map[string]string{"app": app, "tier": "web"}}}
}

// lists counts, by resource, how often everything was listed or watched anew.
func lists(kube *fake.Clientset) map[string]int {
	counts := map[string]int{}
	for _, action := range kube.Actions() {
		if action.GetVerb() == "watch" {
			counts[action.GetResource().Resource]++
		}
	}
	return counts
}

func TestRolloutsOfANamespaceShareInformers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const apps = 20
		kube := fake.NewClientset()
		in := namespaceOf(kube)
		var observers []*observer
		for i := range apps {
			app := fmt.Sprintf("app%d", i)
			o, err := in(app).observe(t.Context(), false, releaseNamed(t, app))
			require.NoError(t, err)
			observers = append(observers, o)
		}
		synctest.Wait()
		for resource, n := range lists(kube) {
			require.Equal(t, 1, n, "watches of %s for %d rollouts", resource, apps)
		}
		for _, o := range observers[1:] {
			o.stop()
			o.stop() // harmless
		}
		require.NotEmpty(t, observers[0].store.watchers.shared, "one rollout still needs them")
		observers[0].stop()
		require.Empty(t, observers[0].store.watchers.shared, "informers go on that nobody uses")

		again, err := in("app1").observe(t.Context(), false, releaseNamed(t, "app1"))
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, 2, lists(kube)["pods"])
		again.stop()
	})
}

func TestAChangeWakesWhomItConcerns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		in := namespaceOf(kube)
		shop, err := in("shop").observe(t.Context(), true, releaseNamed(t, "shop"))
		require.NoError(t, err)
		defer shop.stop()
		cart, err := in("cart").observe(t.Context(), true, releaseNamed(t, "cart"))
		require.NoError(t, err)
		defer cart.stop()
		woken := func() []string {
			synctest.Wait()
			var names []string
			for _, o := range []*observer{shop, cart} {
				select {
				case <-o.wake:
					names = append(names, o.store.app)
				default:
				}
			}
			return names
		}
		require.Empty(t, woken())
		ctx := t.Context()
		create := metav1.CreateOptions{}

		pod := podOf("shop", 1)
		pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet"}}
		pod.Spec.Containers = []corev1.Container{{Name: "main", Env: []corev1.EnvVar{{Name: "A", Value: "b"}}}}
		_, err = kube.CoreV1().Pods("x").Create(ctx, pod, create)
		require.NoError(t, err)
		require.Equal(t, []string{"shop"}, woken(), "a pod")
		pods, err := selected[*corev1.Pod](shop, shop.podCache)
		require.NoError(t, err)
		require.Len(t, pods, 1)
		require.Empty(t, pods[0].ManagedFields)
		require.Empty(t, pods[0].Spec.Containers[0].Env)
		pods, err = selected[*corev1.Pod](cart, cart.podCache)
		require.NoError(t, err)
		require.Empty(t, pods)

		_, err = kube.CoreV1().Events("x").Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "x"}, Type: corev1.EventTypeWarning,
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "x", Name: pod.Name, UID: pod.UID}}, create)
		require.NoError(t, err)
		require.Equal(t, []string{"shop"}, woken(), "an event about its pod")
		events, err := shop.eventsAbout([]*corev1.Pod{pod}, releaseNamed(t, "shop"))
		require.NoError(t, err)
		require.Len(t, events, 1)

		_, err = kube.AppsV1().Deployments("x").Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "x"}}, create)
		require.NoError(t, err)
		require.Equal(t, []string{"cart"}, woken(), "a Deployment by its name")
		_, err = kube.AppsV1().Deployments("x").Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "shop-canary", Namespace: "x",
			Labels: map[string]string{manifest.LabelApp: "shop"}}}, create)
		require.NoError(t, err)
		require.Equal(t, []string{"shop"}, woken(), "a companion by its label")
		_, err = kube.CoreV1().ConfigMaps("x").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "tidegate-cart", Namespace: "x",
			Labels: map[string]string{labelLive: "true"}}}, create)
		require.NoError(t, err)
		require.Equal(t, []string{"cart"}, woken(), "a record")

		// A pod that is taken out of the selector concerns whom it has left.
		moved := pod.DeepCopy()
		moved.Labels["app"] = "cart"
		_, err = kube.CoreV1().Pods("x").Update(ctx, moved, metav1.UpdateOptions{})
		require.NoError(t, err)
		require.Equal(t, []string{"shop", "cart"}, woken(), "a pod that changes hands")
	})
}

func TestAListThatIsForbiddenIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset()
		forbidden := func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "replicasets"}, "", fmt.Errorf("no"))
		}
		kube.PrependReactor("list", "replicasets", forbidden)
		kube.PrependWatchReactor("replicasets", func(action clienttesting.Action) (bool, apiwatch.Interface, error) {
			_, _, err := forbidden(action)
			return true, nil, err
		})
		in := namespaceOf(kube)
		start := time.Now()
		_, err := in("shop").observe(t.Context(), false, releaseNamed(t, "shop"))
		require.ErrorIs(t, err, ErrInvalid)
		require.ErrorContains(t, err, "ReplicaSets in namespace x")
		require.Less(t, time.Since(start), time.Minute)
		require.Empty(t, in("shop").watchers.shared)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = in("shop").observe(ctx, false, releaseNamed(t, "shop"))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "forbidden", "why nothing came is said too")
	})
}

func TestCandidatesAreTheFewest(t *testing.T) {
	kube := fake.NewClientset()
	for i := range 9 {
		require.NoError(t, kube.Tracker().Add(podOf(fmt.Sprintf("app%d", i%3), i)))
	}
	o, err := namespaceOf(kube)("app1").observe(t.Context(), false, releaseNamed(t, "app1"))
	require.NoError(t, err)
	defer o.stop()
	found, err := o.groups[0].candidates(o.podCache)
	require.NoError(t, err)
	require.Len(t, found, 3, "tier=web is shared by nine")
	everything := podGroup{selector: labels.Everything()}
	found, err = everything.candidates(o.podCache)
	require.NoError(t, err)
	require.Len(t, found, 9)
}

func TestLeaseTimeGrowsWithTheirNumber(t *testing.T) {
	for held, want := range map[int64]time.Duration{0: leaseTTL, 1: leaseTTL, 20: leaseTTL, 21: 2 * leaseTTL, 300: leaseMostTTL, 1 << 40: leaseMostTTL} {
		require.Equal(t, want, leaseTime(held), "%d leases", held)
	}
}
