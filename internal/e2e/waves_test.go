//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tidegate-ci/tidegate/internal/demo"
	"github.com/tidegate-ci/tidegate/internal/notify"
	"github.com/tidegate-ci/tidegate/internal/settings"
	"github.com/tidegate-ci/tidegate/rollout"
)

// twoContexts is a kubeconfig with two contexts of the one cluster there is:
// two namespaces of it stand for two clusters.
func twoContexts(t *testing.T) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(kubeconfig)
	must(t, err)
	must(t, clientcmd.ResolveLocalPaths(config))
	for _, name := range []string{"eu", "us"} {
		config.Contexts[name] = config.Contexts[config.CurrentContext].DeepCopy()
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(*config, path))
	return path
}

// told keeps what a webhook was sent, and refuses everything now and then.
type told struct {
	t    *testing.T
	url  string
	key  string
	mu   sync.Mutex
	got  []notify.Message
	seen int
}

func listen(t *testing.T) *told {
	x := &told{t: t, key: filepath.Join(t.TempDir(), "key")}
	must(t, os.WriteFile(x.key, []byte("notification-key\n"), 0o600))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil || r.Header.Get(rollout.HeaderSignature) != rollout.Sign("notification-key", body) {
			t.Errorf("a notification that is not signed: %v", err)
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.seen++; x.seen%5 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		var message notify.Message
		if err := json.Unmarshal(body, &message); err != nil {
			t.Errorf("a notification that is no JSON: %v", err)
		}
		x.got = append(x.got, message)
	}))
	t.Cleanup(server.Close)
	x.url = server.URL
	return x
}

// inOrder checks that every application's transitions were told without a gap
// and in order, repeats apart, and returns the last of each environment.
func (x *told) inOrder() map[string]notify.Message {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	next, last := map[string]int64{}, map[string]notify.Message{}
	for _, message := range x.got {
		outbox, _, _ := strings.Cut(message.ID, "-")
		if next[outbox] == 0 {
			next[outbox] = 1
		}
		switch {
		case message.Sequence > next[outbox]:
			x.t.Fatalf("%s was told %d, and %d was never told", message.Environment, message.Sequence, next[outbox])
		case message.Sequence == next[outbox]:
			next[outbox]++
			last[message.Environment] = message
		}
	}
	return last
}

// record reads one by the binary, as a person at the cluster would.
func (th *theatre) record(namespace string) rollout.Record {
	th.t.Helper()
	var record rollout.Record
	out, err := exec.CommandContext(th.ctx, binary, "rollout", "--kubeconfig", kubeconfig, "-n", namespace, "status", "shop", "-o", "json").Output()
	if err == nil {
		must(th.t, json.Unmarshal(out, &record))
	}
	return record
}

// approved answers the rollout that the run waits for, as soon as it does.
func (th *theatre) approved(run string) {
	th.t.Helper()
	th.wait("the approval to be asked for", func() bool {
		_, _, code := th.tidegate("runs", "approve", run)
		return code == 0
	})
}

// TestWaves: one release moves through two clusters (two contexts and namespaces
// of the real one), with a hold and an approval between, over a kill -9 of the
// server; the next one fails in the second cluster and is taken back in both. Who
// wants to know is told of all of it, and a revert is proposed.
func TestWaves(t *testing.T) {
	t.Parallel()
	var eu, us string
	heard := listen(t)
	th := openTheatre(t, func(s *settings.Settings) {
		e := s.Environments["production"]
		eu, us = e.Namespace, e.Namespace+"-us"
		e.Kubeconfig = twoContexts(t)
		e.Clusters = []settings.Cluster{{Name: "eu", Context: "eu"}, {Name: "us", Context: "us", Namespace: us}}
		e.Between = settings.Between{Hold: time.Second, Approve: []string{"admin"}}
		s.Environments["production"] = e
		s.GitHub.Deployments = true
		s.Notifications = []settings.Notification{{Name: "audit", Private: true, Webhook: &settings.NotificationWebhook{URL: heard.url, Secret: settings.Secret{File: heard.key}}}}
		cluster, err := demo.OpenCluster(kubeconfig)
		must(t, err)
		must(t, cluster.CreateNamespace(t.Context(), us))
	})
	t.Cleanup(func() { _ = th.cluster.DeleteNamespace(context.Background(), us) })
	pipeline := `
version: 1
name: shop
on: {push: {branches: [main]}}
stages:
  image:
    build: {push: shop}
  production:
    needs: [image]
    deploy: {environment: production, manifests: k8s/, bake: 1s, on-rollback: revert-pull-request}
`
	first := th.push("first", prebuilt(t, "v1", "", pipeline))
	th.wait("the second wave to ask", func() bool { r := th.record(us); return r.Current != nil && len(r.Current.OpenApprovals()) > 0 })
	if r := th.record(eu); r.Verified != 1 {
		t.Fatalf("the second wave began while the first is %+v", r.Current)
	}
	th.server.Kill()
	must(t, th.server.Start(th.ctx))
	th.approved(th.runOf(first))
	th.succeed(first)
	for _, namespace := range []string{eu, us} {
		if r := th.record(namespace); r.Verified != 1 || r.Revisions != 1 || r.Current.Commit != first {
			t.Fatalf("%s: %+v", namespace, r.Current)
		}
	}
	if r := th.record(us); len(r.Current.Gates) == 0 || r.Current.Gates[0].Kind != "approval entry" || r.Current.Gates[0].By != "admin" {
		t.Fatalf("the record does not say who let the wave begin: %+v", r.Current.Gates)
	}

	// No pod more than there are: the second release can't surge in the second cluster.
	_, err := th.cluster.Client.CoreV1().ResourceQuotas(us).Create(th.ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "full"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("4")}}}, metav1.CreateOptions{})
	must(t, err)
	second := th.push("second\n\n@octo/all look", prebuilt(t, "v2", "", pipeline))
	th.wait("the second release to be seen", func() bool {
		list, _, _ := th.tidegate("runs", "list", "-o", "json")
		return strings.Contains(list, second)
	})
	th.approved(th.runOf(second))
	if status := th.outcome(second); status.State != "failure" || !strings.Contains(status.Description, "cluster us") {
		t.Fatalf("the commit is %+v", status)
	}
	for _, namespace := range []string{eu, us} {
		r := th.record(namespace)
		if serving := r.Revision(r.Verified); serving == nil || serving.Commit != first || r.Stable != r.Verified {
			t.Fatalf("%s was not taken back: %+v", namespace, r.Current)
		}
	}
	if r := th.record(eu); r.Current.RollbackTo != 1 {
		t.Fatalf("the first cluster did not go back by itself: %+v", r.Current)
	}

	th.wait("all to be told", func() bool {
		last := heard.inOrder()
		return last["production/eu"].To == rollout.Verified && last["production/eu"].Revision == 3 && last["production/us"].To == rollout.RolledBack && len(th.forge.PullRequests()) > 0
	})
	if n := heard.inOrder()["production/us"]; n.Reason != "PodCreationRefused" || n.Commit != second || n.BaseCommit != first || n.Source.Message != "second" {
		t.Fatalf("what was told of the failure: %+v", n)
	}
	th.wait("GitHub to know", func() bool {
		states := map[string][]string{}
		for _, d := range th.forge.Deployments() {
			states[d.Environment+" "+d.Ref] = append(states[d.Environment+" "+d.Ref], d.States...)
		}
		ends := func(environment, commit, state string) bool {
			all := states["production/"+environment+" "+commit]
			return len(all) > 0 && all[len(all)-1] == state
		}
		return ends("eu", first, "success") && ends("us", first, "success") && ends("us", second, "failure") && slices.Contains(states["production/eu "+second], "success")
	})
	pulls := th.forge.PullRequests()
	if len(pulls) != 1 || pulls[0].Base != "main" || !strings.Contains(pulls[0].Body, "PodCreationRefused") || !strings.Contains(pulls[0].Title, `Revert "second"`) {
		t.Fatalf("the revert that was proposed: %+v", pulls)
	}
	reverted, err := th.forge.ReadAt(pulls[0].Head, "shop")
	must(t, err)
	if reverted != shopBinary(t, "v1", "") {
		t.Fatal("the revert does not hold the first release's files")
	}
	if log := th.server.LogTail(2000); strings.Contains(log, "notification-key") || strings.Contains(log, th.forge.Secret) {
		t.Fatal("a secret is in the log")
	}
}
