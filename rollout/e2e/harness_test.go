//go:build e2e

// Package e2e tests rollouts on the real cluster that KUBECONFIG names: real
// API server, controllers and kubelet, real containers from a registry on loopback.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegate-ci/tidegate/internal/kwok"
	"github.com/tidegate-ci/tidegate/internal/process"
	"github.com/tidegate-ci/tidegate/internal/testserver"
	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

var (
	config   *rest.Config
	kube     *kubernetes.Clientset
	images   *testserver.Images
	kubelets *process.Process // KWOK, of nodes that do not exist
	tidegate string           // the real binary
)

func TestMain(m *testing.M) {
	code, err := setUp(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func setUp(m *testing.M) (int, error) {
	path := os.Getenv("KUBECONFIG")
	if path == "" {
		return 0, fmt.Errorf("these tests need a real cluster: set KUBECONFIG")
	}
	var err error
	if config, err = clientcmd.BuildConfigFromFlags("", path); err != nil {
		return 0, err
	}
	config.QPS, config.Burst = 200, 400
	if kube, err = kubernetes.NewForConfig(config); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "tidegate-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if tidegate = os.Getenv("TIDEGATE_BINARY"); tidegate == "" {
		tidegate = filepath.Join(dir, "tidegate")
		if out, err := exec.Command("go", "build", "-o", tidegate, "../../cmd/tidegate").CombinedOutput(); err != nil {
			return 0, fmt.Errorf("building tidegate: %w: %s", err, out)
		}
	}
	if images, err = testserver.Serve(context.Background(), dir); err != nil {
		return 0, err
	}
	defer images.Close()
	if kubelets, err = kwok.Start(context.Background(), os.Getenv("TIDEGATE_KWOK"), path, dir); err != nil {
		return 0, err
	}
	defer kubelets.Stop()
	defer removeRouters()
	return m.Run(), nil
}

// image pushes a test image with the environment and returns it by digest.
func image(t *testing.T, env ...string) string {
	t.Helper()
	ref, err := images.Push(t.Context(), env...)
	require.NoError(t, err)
	return ref
}

const shop = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: shop}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: shop
        image: shop
        envFrom: [{configMapRef: {name: shop}}]
        readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {GREETING: hello}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: shop}
  ports: [{port: 80, targetPort: 8080}]
`

// world is a namespace of its own with a controller. Its test runs beside others:
// what takes time in a rollout is waiting.
type world struct {
	*testing.T
	namespace string
	ctx       context.Context
}

func newWorld(t *testing.T) *world {
	t.Parallel()
	return openWorld(t, 5*time.Minute)
}

func openWorld(t *testing.T, patience time.Duration) *world {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	ns, err := kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		err := kube.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{})
		require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
	})
	return &world{T: t, namespace: ns.Name, ctx: ctx}
}

func (w *world) controller() *rollout.Controller {
	w.Helper()
	c, err := rollout.New(rollout.Cluster{Config: config}, rollout.Options{Log: zaptest.NewLogger(w.T, zaptest.Level(zap.WarnLevel))})
	require.NoError(w, err)
	return c
}

func (w *world) target() rollout.Target { return rollout.Target{App: "shop", Namespace: w.namespace} }

func (w *world) release(manifests, image string) *manifest.Release {
	w.Helper()
	objects, err := manifest.Parse("shop.yaml", []byte(manifests))
	require.NoError(w, err)
	release, err := manifest.New(w.ctx, objects, manifest.Options{Namespace: w.namespace, Images: map[string]string{"shop": image}})
	require.NoError(w, err)
	return release
}

func (w *world) request(image string, bake time.Duration, steps ...rollout.Step) rollout.Request {
	r := rollout.Request{App: "shop", Namespace: w.namespace, Release: w.release(shop, image), Bake: &bake, By: "tester", Deadline: time.Minute}
	if len(steps) > 0 {
		r.Strategy = rollout.Strategy{Kind: rollout.CanaryStrategy, Steps: steps}
	}
	return r
}

// told keeps and logs progress.
type told struct {
	mu    sync.Mutex
	lines []rollout.Progress
	see   chan rollout.Progress
}

func (w *world) told() *told { return &told{see: make(chan rollout.Progress, 1000)} }

func (w *world) log(tell *told) func(rollout.Progress) {
	start := time.Now()
	return func(p rollout.Progress) {
		w.Logf("%5.2fs r%d %s/%d: %s", time.Since(start).Seconds(), p.Revision, p.State, p.Step, p.Message)
		if tell != nil {
			tell.mu.Lock()
			defer tell.mu.Unlock()
			tell.lines = append(tell.lines, p)
			select {
			case tell.see <- p:
			default:
			}
		}
	}
}

// await blocks until progress reaches the state.
func (w *world) await(tell *told, state rollout.State, part string) {
	w.Helper()
	for {
		select {
		case p := <-tell.see:
			if p.State == state && strings.Contains(p.Message, part) {
				return
			}
		case <-w.ctx.Done():
			require.Fail(w, "never got there", "state %s, %q", state, part)
		}
	}
}

func (w *world) startVerified(image string) rollout.Result {
	w.Helper()
	result, err := w.controller().Start(w.ctx, w.request(image, 0), w.log(nil))
	require.NoError(w, err)
	require.Equal(w, rollout.Verified, result.Rollout.State)
	return result
}

// pods returns image → ready pods that are not ending.
func (w *world) pods() map[string]int {
	w.Helper()
	list, err := kube.CoreV1().Pods(w.namespace).List(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	ready := map[string]int{}
	for _, pod := range list.Items {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil {
				ready[pod.Spec.Containers[0].Image]++
			}
		}
	}
	return ready
}

// settles waits until exactly these pods serve: others may be on their way out.
func (w *world) settles(want map[string]int) {
	w.Helper()
	watch, err := kube.CoreV1().Pods(w.namespace).Watch(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	defer watch.Stop()
	for !maps.Equal(want, w.pods()) {
		_, ok := <-watch.ResultChan()
		require.True(w, ok, "other pods serve: want %v, have %v", want, w.pods())
	}
}

// fewestReady watches pods from now on and tells the fewest of them that were
// ready, and not told to stop, at once.
func (w *world) fewestReady(selector string) func() int {
	w.Helper()
	list, err := kube.CoreV1().Pods(w.namespace).List(w.ctx, metav1.ListOptions{LabelSelector: selector})
	require.NoError(w, err)
	ready := map[types.UID]bool{}
	see := func(pod *corev1.Pod, deleted bool) {
		delete(ready, pod.UID)
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil && !deleted {
				ready[pod.UID] = true
			}
		}
	}
	for i := range list.Items {
		see(&list.Items[i], false)
	}
	var fewest atomic.Int64
	fewest.Store(int64(len(ready)))
	watch, err := kube.CoreV1().Pods(w.namespace).Watch(w.ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: list.ResourceVersion})
	require.NoError(w, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event := range watch.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok {
				see(pod, event.Type == "DELETED")
				fewest.Store(min(fewest.Load(), int64(len(ready))))
			}
		}
	}()
	w.Cleanup(func() {
		watch.Stop()
		<-ended
	})
	return func() int { return int(fewest.Load()) }
}

// age lets the application's owner, who has died, look as if it had two minutes ago.
func (w *world) age() {
	w.Helper()
	record, _, err := w.controller().Status(w.ctx, w.target())
	require.NoError(w, err)
	if record.Owner == nil {
		return
	}
	at := metav1.NewMicroTime(time.Now().Add(-2 * time.Minute))
	body, err := json.Marshal(map[string]any{"spec": map[string]any{"renewTime": at}})
	require.NoError(w, err)
	_, err = kube.CoordinationV1().Leases(w.namespace).Patch(w.ctx, "tidegate-"+record.Owner.Process, types.MergePatchType, body, metav1.PatchOptions{})
	require.NoError(w, err)
}
