//go:build e2e

package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/cgroup"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/machine"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/render"
	"github.com/tidegate-ci/tidegate/deploy/cluster/internal/settings"
)

const (
	ns       = metav1.NamespaceDefault
	replicas = 2
)

var labels = map[string]string{"app": "app"}

// TestLifecycle is the life of a cluster: killed while it starts, up, used, hurt,
// killed as a whole, up again with the same objects, down without a trace.
func TestLifecycle(t *testing.T) {
	c := newTool(t)
	facts, err := machine.Detect()
	if err != nil {
		t.Fatal(err)
	}
	cgroups := cgroup.New(facts, render.CgroupRoot(settings.Default(c.state)))

	c.killedStart(t)
	c.ok(t, "up")
	if out := c.ok(t, "up"); !strings.Contains(out, "already running") {
		t.Errorf("second up: %s", out)
	}
	c.ok(t, "status")

	api := c.client(t)
	service := deploy(t, api, pushApp(t))
	t.Run("Services balance", func(t *testing.T) { balanced(t, service, replicas) })
	t.Run("probes count", func(t *testing.T) { unreadyIsLeftOut(t, api, service) })
	t.Run("logs come through the secured kubelet", func(t *testing.T) { logs(t, api) })
	t.Run("the kubelet refuses strangers", kubeletRefuses)
	t.Run("pods reach Services and the API server", func(t *testing.T) { fromPods(t, service) })
	t.Run("API server away", func(t *testing.T) { apiServerAway(t, c, service) })
	t.Run("another cluster is refused", func(t *testing.T) { secondRefused(t, c) })

	shims := shimSockets(t, c)
	if len(shims) == 0 {
		t.Error("no shim has a socket: the check that they go is empty")
	}
	c.killAll(t)
	if _, _, err := c.run("status"); err == nil {
		t.Error("status of a killed cluster is good")
	}
	c.ok(t, "up")
	eventually(t, "the Deployment after a kill", func() error { return available(t, api) })
	balanced(t, service, replicas)

	shims = append(shims, shimSockets(t, c)...)
	c.ok(t, "down")
	c.nothingLeft(t, cgroups, shims)
	c.ok(t, "down") // again is fine
}

// killedStart kills `up` and everything it started when half of it runs.
func (c tool) killedStart(t *testing.T) {
	t.Helper()
	up := c.command("up")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "start of the API server", func() error {
		_, err := os.Stat(filepath.Join(c.state, "run", render.APIServer+".json"))
		return err
	})
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := up.Wait(); err == nil {
		t.Error("up was to be killed, but ended well")
	}
}

func deploy(t *testing.T, api kubernetes.Interface, image string) (url string) {
	t.Helper()
	count := int32(replicas)
	zero := int64(0)
	_, err := api.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "app"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &count,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: &zero,
					Containers: []corev1.Container{{
						Name: "app", Image: image,
						ReadinessProbe: &corev1.Probe{
							ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(8080)}},
							PeriodSeconds: 1, FailureThreshold: 1,
						},
					}},
				},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	service, err := api.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "app"},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Deployment", func() error { return available(t, api) })
	return "http://" + service.Spec.ClusterIP
}

func available(t *testing.T, api kubernetes.Interface) error {
	d, err := api.AppsV1().Deployments(ns).Get(t.Context(), "app", metav1.GetOptions{})
	if err == nil && (d.Status.AvailableReplicas != replicas || d.Status.ObservedGeneration != d.Generation) {
		err = fmt.Errorf("status %+v", d.Status)
	}
	return err
}

// balanced waits until exactly want pods answer at the Service: that many are
// seen, and no other among as many requests as make missing one very unlikely.
func balanced(t *testing.T, service string, want int) {
	t.Helper()
	const requests = 30
	eventually(t, "answers of the Service", func() error {
		seen := map[string]int{}
		for range requests {
			pod, err := get(service)
			if err != nil {
				return err
			}
			seen[pod]++
		}
		if len(seen) != want {
			return fmt.Errorf("answers came from %v, want %d pods", seen, want)
		}
		return nil
	})
}

func unreadyIsLeftOut(t *testing.T, api kubernetes.Interface, service string) {
	pods, err := api.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=app"})
	if err != nil {
		t.Fatal(err)
	}
	victim := pods.Items[0]
	if _, err := get("http://" + victim.Status.PodIP + ":8080/unready"); err != nil {
		t.Fatal(err)
	}
	balanced(t, service, replicas-1)
	if err := api.CoreV1().Pods(ns).Delete(t.Context(), victim.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	balanced(t, service, replicas)
}

func logs(t *testing.T, api kubernetes.Interface) {
	pods, err := api.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=app"})
	if err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp != nil {
			continue
		}
		stream, err := api.CoreV1().Pods(ns).GetLogs(pod.Name, &corev1.PodLogOptions{}).Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		data, err := io.ReadAll(stream)
		if err != nil || !strings.Contains(string(data), "serving") {
			t.Errorf("logs of %s: %q, %v", pod.Name, data, err)
		}
	}
}

func kubeletRefuses(t *testing.T) {
	s := settings.Default("/")
	stranger := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for url, want := range map[string]int{
		fmt.Sprintf("https://%s:%d/pods", s.NodeIP(), s.KubeletPort): http.StatusUnauthorized,
		s.APIServer() + "/api": http.StatusUnauthorized,
	} {
		response, err := stranger.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: %s, want %d", url, response.Status, want)
		}
	}
}

func fromPods(t *testing.T, service string) {
	// Some of these requests go from a pod through the Service back to itself.
	for range 10 {
		if _, err := get(service + "/get?url=" + service); err != nil {
			t.Error(err)
		}
	}
	version, err := get(service + "/api")
	if err != nil || !strings.Contains(version, "gitVersion") {
		t.Errorf("the API server from a pod: %q, %v", version, err)
	}
}

func apiServerAway(t *testing.T, c tool, service string) {
	before := c.components(t)
	c.ok(t, "component", "stop", render.APIServer)
	if _, _, err := c.run("status"); err == nil {
		t.Error("status is good without an API server")
	}
	balanced(t, service, replicas)
	c.ok(t, "component", "start", render.APIServer)
	c.turnsHealthy(t, "the API server is back")
	after := c.components(t)
	for name, component := range before {
		if same := after[name].PID == component.PID; same == (name == render.APIServer) {
			t.Errorf("%s: process %d before, %d after", name, component.PID, after[name].PID)
		}
	}
	c.ok(t, "component", "restart", render.Kubelet)
	c.turnsHealthy(t, "the kubelet was restarted")
}

func (c tool) turnsHealthy(t *testing.T, after string) {
	t.Helper()
	eventually(t, "health after "+after, func() error {
		_, stderr, err := c.run("status")
		if err != nil {
			return fmt.Errorf("%w %s", err, stderr)
		}
		return nil
	})
}

func secondRefused(t *testing.T, c tool) {
	other := tool{c.binary, c.state + "b"}
	_, stderr, err := other.run("up")
	if err == nil || !strings.Contains(stderr, "another Kubernetes runs") {
		t.Errorf("up: %v %s", err, stderr)
	}
	// Taking down what is not there must not hurt the one that is.
	if _, stderr, err := other.run("down"); err != nil {
		t.Errorf("down: %v %s", err, stderr)
	}
	c.ok(t, "status")
	if _, err := os.Stat(other.state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", other.state, err)
	}
}

// shimSockets lists the sockets of the cluster's shims, which lie outside the
// state folder.
func shimSockets(t *testing.T, c tool) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.state, "containerd/state/io.containerd.runtime.v2.task/*/*/address"))
	if err != nil {
		t.Fatal(err)
	}
	var sockets []string
	for _, file := range files {
		if address, err := os.ReadFile(file); err == nil {
			sockets = append(sockets, strings.TrimPrefix(string(address), "unix://"))
		}
	}
	return sockets
}
