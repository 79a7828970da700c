//go:build e2e

package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/internal/demo"
)

// TestBadInput pushes what cannot work. Each must end with a message that says
// where and why, as the commit's status and in the run's own words.
func TestBadInput(t *testing.T) {
	t.Parallel()
	th := openTheatre(t, nil)
	for _, test := range []struct {
		name  string
		files map[string]string
		// want must all appear in the status description or the run's record.
		want []string
	}{
		{"malformed YAML", map[string]string{".tidegate.yaml": "version: 1\nname: [bad\n"}, []string{".tidegate.yaml:"}},
		{"a cycle", map[string]string{".tidegate.yaml": `version: 1
name: bad
on: {push: {}}
stages:
  a: {needs: [b], run: "true"}
  b: {needs: [a], run: "true"}
`}, []string{".tidegate.yaml:5:", "a → b → a"}},
		{"an unknown key", map[string]string{".tidegate.yaml": `version: 1
name: bad
on: {push: {}}
stages:
  a: {rum: "true"}
`}, []string{".tidegate.yaml:5:", `rum`, "run"}},
		{"a Dockerfile that does not parse", map[string]string{
			".tidegate.yaml": buildOnly, "Dockerfile": "FROM scratch\nCOPPY a b\n",
		}, []string{"Dockerfile:2", "COPPY"}},
		{"a RUN that fails", map[string]string{
			".tidegate.yaml": buildOnly, "Dockerfile": "FROM busybox AS base\nRUN echo the reason is known; exit 7\n",
		}, []string{"Dockerfile:2", "the reason is known", "7"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "a RUN that fails" {
				must(t, demo.PushBusybox(th.ctx, th.server.Registry))
			}
			commit := th.push(test.name, test.files)
			status := th.outcome(commit)
			if status.State == "success" {
				t.Fatalf("it succeeded: %+v", status)
			}
			record := status.Description + "\n"
			if list, _, _ := th.tidegate("runs", "list", "-o", "json"); strings.Contains(list, commit) {
				id := th.runOf(commit)
				shown, _, _ := th.tidegate("runs", "show", id, "-o", "json")
				logged, _, _ := th.tidegate("runs", "logs", id)
				record += shown + logged
			} else {
				t.Errorf("commit %.12s has no run: a developer would look for it in vain", commit)
			}
			for _, want := range test.want {
				if !strings.Contains(record, want) {
					t.Errorf("nothing says %q:\n%s", want, record)
				}
			}
		})
	}
	// Nothing of this may have harmed the server: a good push still works.
	th.succeed(th.push("good", map[string]string{".tidegate.yaml": "version: 1\nname: good\non: {push: {}}\nstages:\n  a: {run: \"true\"}\n"}))
}

const buildOnly = `version: 1
name: bad
on: {push: {}}
stages:
  image: {build: {push: bad}}
`

func TestBadWebhooks(t *testing.T) {
	t.Parallel()
	th := openTheatre(t, nil)
	commit, err := th.forge.Commit("never announced", map[string][]byte{
		".tidegate.yaml": []byte("version: 1\nname: x\non: {push: {}}\nstages:\n  a: {run: \"true\"}\n"),
	})
	must(t, err)
	body, err := th.forge.PushPayload(commit)
	must(t, err)
	for name, test := range map[string]struct {
		bend func(*http.Request)
		want int
	}{
		"wrong signature": {func(r *http.Request) {
			r.Header.Set("X-Hub-Signature-256", "sha256="+strings.Repeat("ab", 32))
		}, http.StatusUnauthorized},
		"missing signature": {func(r *http.Request) { r.Header.Del("X-Hub-Signature-256") }, http.StatusUnauthorized},
		"SHA-1 only": {func(r *http.Request) {
			mac := hmac.New(sha1.New, []byte(th.forge.Secret))
			mac.Write(body)
			r.Header.Del("X-Hub-Signature-256")
			r.Header.Set("X-Hub-Signature", "sha1="+hex.EncodeToString(mac.Sum(nil)))
		}, http.StatusUnauthorized},
		"oversized": {func(r *http.Request) {
			huge := bytes.Repeat([]byte{' '}, 30<<20)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(huge)), int64(len(huge))
		}, http.StatusRequestEntityTooLarge},
		"unknown repository": {func(r *http.Request) {
			other := bytes.ReplaceAll(body, []byte("octo/shop"), []byte("octo/else"))
			r.Header.Set("X-Hub-Signature-256", th.forge.Sign(other))
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(other)), int64(len(other))
			// Not 404: whether this server knows a repository is nobody's business
			// who does not hold its secret.
		}, http.StatusUnauthorized},
		"not JSON": {func(r *http.Request) {
			r.Header.Set("X-Hub-Signature-256", th.forge.Sign([]byte("hello")))
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("hello")), 5
		}, http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			request, err := th.forge.HookRequest(th.ctx, th.server.URL, "bad-"+strings.ReplaceAll(name, " ", "-"), body)
			must(t, err)
			test.bend(request)
			response, err := http.DefaultClient.Do(request)
			must(t, err)
			defer response.Body.Close()
			answer, err := io.ReadAll(io.LimitReader(response.Body, 4096))
			must(t, err)
			if response.StatusCode != test.want {
				t.Fatalf("answered %s (%s), want %d", response.Status, answer, test.want)
			}
			if len(bytes.TrimSpace(answer)) == 0 {
				t.Fatal("the refusal gives no reason")
			}
		})
	}
	if list, _, _ := th.tidegate("runs", "list", "-o", "json"); strings.Contains(list, commit) {
		t.Fatalf("a refused webhook started a run: %s", list)
	}
	// The genuine delivery still counts, and twice is once.
	must(t, th.forge.Push(th.ctx, th.server.URL, commit))
	th.succeed(commit)
	request, err := th.forge.HookRequest(th.ctx, th.server.URL, "delivery-"+commit, body)
	must(t, err)
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	response.Body.Close()
	if response.StatusCode/100 != 2 {
		t.Fatalf("a repeated delivery was answered with %s", response.Status)
	}
	th.runOf(commit)
}

// TestRejectedManifest: what the API server rejects changes nothing, not even
// the objects of the same release that it would accept.
func TestRejectedManifest(t *testing.T) {
	t.Parallel()
	th, m := openTheatre(t, nil), newMarks(t)
	pipeline := fmt.Sprintf(buildAndDeploy, m.stage("unit"), "")
	th.succeed(th.push("v1", prebuilt(t, "v1", "", pipeline)))
	before := objects(t, th)
	files := prebuilt(t, "v2", "", pipeline)
	files["k8s/shop.yaml"] = strings.Replace(files["k8s/shop.yaml"], "replicas: 4", "replicas: -4", 1)
	commit := th.push("v2", files)
	if status := th.outcome(commit); status.State == "success" {
		t.Fatalf("it succeeded: %+v", status)
	}
	shown, _, _ := th.tidegate("runs", "show", th.runOf(commit), "-o", "json")
	for _, want := range []string{"shop", "replicas"} {
		if !strings.Contains(shown, want) {
			t.Errorf("the run does not name %q: %s", want, shown)
		}
	}
	if after := objects(t, th); after != before {
		t.Fatalf("the rejected release changed the cluster:\nbefore %s\nafter  %s", before, after)
	}
}

// objects names what the release put into the namespace, with generations.
func objects(t *testing.T, th *theatre) string {
	t.Helper()
	var text strings.Builder
	deployments, err := th.cluster.Client.AppsV1().Deployments(th.namespace).List(th.ctx, metav1.ListOptions{})
	must(t, err)
	for _, d := range deployments.Items {
		fmt.Fprintf(&text, "deployment %s generation %d; ", d.Name, d.Generation)
	}
	services, err := th.cluster.Client.CoreV1().Services(th.namespace).List(th.ctx, metav1.ListOptions{})
	must(t, err)
	for _, s := range services.Items {
		fmt.Fprintf(&text, "service %s %s; ", s.Name, s.ResourceVersion)
	}
	return text.String()
}

// TestImageThatCannotBePulled: the cluster cannot have the image that was
// pushed; the old release serves on and the reason is shown.
func TestImageThatCannotBePulled(t *testing.T) {
	t.Parallel()
	th, m := openTheatre(t, nil), newMarks(t)
	pipeline := fmt.Sprintf(buildAndDeploy, m.stage("unit"), "")
	th.succeed(th.push("v1", prebuilt(t, "v1", "", pipeline)))
	pods, err := th.cluster.WatchPods(th.ctx, th.namespace, "app=shop")
	must(t, err)
	t.Cleanup(pods.Stop)
	var old string
	for image := range pods.Count() {
		old = image
		pods.Guard(image)
	}
	files := prebuilt(t, "v2", "", pipeline)
	missing := th.server.Registry + "/nowhere@sha256:" + strings.Repeat("0123456789abcdef", 4)
	files["k8s/shop.yaml"] = strings.Replace(files["k8s/shop.yaml"], "image: shop", "image: "+missing, 1)
	commit := th.push("v2", files)
	if status := th.outcome(commit); status.State == "success" {
		t.Fatalf("it succeeded: %+v", status)
	}
	shown, _, _ := th.tidegate("runs", "show", th.runOf(commit), "-o", "json")
	if !strings.Contains(shown, "ErrImagePull") && !strings.Contains(shown, "ImagePullBackOff") {
		t.Errorf("the reason is not shown: %s", shown)
	}
	must(t, pods.Wait(th.ctx, "only old pods", func(counts map[string]demo.PodCount) bool {
		return len(counts) == 1 && counts[old].Ready == 4
	}))
	if lowest := pods.Lowest(old); lowest < 4 {
		t.Errorf("the old release fell to %d ready pods of 4", lowest)
	}
	config, err := th.cluster.Client.CoreV1().Services(th.namespace).Get(th.ctx, "shop", metav1.GetOptions{})
	must(t, err)
	if config.Spec.Type != corev1.ServiceTypeClusterIP {
		t.Errorf("the service changed: %v", config.Spec.Type)
	}
}
