//go:build e2e

package e2e

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// smoke is a Job that asks the canary and wants a version.
func (w *world) smoke(image, version string) *unstructured.Unstructured {
	w.Helper()
	objects, err := manifest.Parse("smoke.yaml", fmt.Appendf(nil, `
apiVersion: batch/v1
kind: Job
metadata: {name: smoke}
spec:
  template:
    metadata: {labels: {job: smoke}}
    spec: {containers: [{name: smoke, image: %q, env: [{name: CHECK, value: %q}]}]}
`, image, version))
	require.NoError(w, err)
	return objects[0]
}

// insider may reach webhooks on this machine, as the one who runs it may.
func (w *world) insider() *rollout.Controller {
	w.Helper()
	c, err := rollout.New(rollout.Cluster{Config: config}, rollout.Options{PrivateWebhooks: true})
	require.NoError(w, err)
	return c
}

func (w *world) jobs() int {
	w.Helper()
	jobs, err := kube.BatchV1().Jobs(w.namespace).List(w.ctx, metav1.ListOptions{})
	require.NoError(w, err)
	n := 0
	for _, job := range jobs.Items {
		if job.DeletionTimestamp == nil {
			n++
		}
	}
	return n
}

func TestAJobAsksTheCanary(t *testing.T) {
	w := newWorld(t)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	w.startVerified(v1)
	request := w.request(v2, 0, rollout.Step{Weight: 34}, rollout.Step{Weight: 67})
	request.Strategy.Checks = []rollout.CheckGate{{Name: "smoke", Job: &rollout.JobGate{Manifest: w.smoke(v1, "2")}}}
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	require.Len(t, result.Rollout.Checks, 2, "one run a step")
	require.Contains(t, strings.Join(result.Rollout.Checks[0].Log, "\n"), `revision 2 step 1 answers "2 hello`)
	require.Equal(t, "job smoke", result.Rollout.Gates[0].Kind)
	w.settles(map[string]int{v2: 3})
	require.Zero(t, w.jobs(), "none is left")

	request = w.request(v3, 0, rollout.Step{Weight: 34})
	request.Strategy.Checks = []rollout.CheckGate{{Name: "smoke", Job: &rollout.JobGate{Manifest: w.smoke(v1, "4")}}}
	result, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.GateFailed, result.Rollout.Failure.Reason)
	require.Contains(t, strings.Join(result.Rollout.Failure.Log, "\n"), "wrong version: want 4")
	require.Equal(t, rollout.RolledBack, result.Rollout.State)
	w.noCanary()
	w.settles(map[string]int{v2: 3})
	out, code := w.asks("status", "shop")
	require.Zero(t, code)
	require.Contains(t, out, "job smoke, step 1: fail")
	require.Contains(t, out, "wrong version: want 4")
}

func TestAWebhookIsAskedUntilItAnswers(t *testing.T) {
	w := newWorld(t)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	w.startVerified(v1)
	_, err := kube.CoreV1().Secrets(w.namespace).Create(w.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "hook"}, StringData: map[string]string{"key": "k3y"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	var asked atomic.Int32
	var verdict atomic.Value
	verdict.Store("pass")
	server := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		var question rollout.WebhookQuestion
		if err != nil || json.Unmarshal(body, &question) != nil || !hmac.Equal([]byte(rollout.Sign("k3y", body)), []byte(request.Header.Get(rollout.HeaderSignature))) {
			http.Error(answer, "who are you", http.StatusUnauthorized)
			return
		}
		// What the question says is true: the new version is there.
		response, err := http.Get("http://" + question.Addresses[0])
		if err != nil {
			http.Error(answer, err.Error(), http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		seen, _ := io.ReadAll(response.Body)
		said := map[string]any{"result": "wait", "message": "attempt " + fmt.Sprint(question.Attempt)}
		if asked.Add(1) >= 3 {
			said = map[string]any{"result": verdict.Load(), "message": "saw " + string(seen), "facts": map[string]any{"p99": 0.2}}
		}
		_ = json.NewEncoder(answer).Encode(said)
	}))
	defer server.Close()
	gates := func() []rollout.CheckGate {
		return []rollout.CheckGate{
			{Name: "hook", Webhook: &rollout.WebhookGate{URL: server.URL, Secret: &rollout.SecretKey{Name: "hook", Key: "key"}, Interval: time.Second}},
			{Name: "fast", CEL: &rollout.CELGate{Pass: `webhooks.hook.facts.p99 < 0.5 && health.ready >= 1`}},
		}
	}
	request := w.request(v2, 0, rollout.Step{Weight: 34})
	request.Strategy.Checks = gates()
	result, err := w.insider().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)
	for _, check := range result.Rollout.Checks {
		if check.Gate == "hook" {
			require.Equal(t, 3, check.Asked)
			require.Contains(t, check.Why, "saw 2 hello")
		}
	}
	require.Len(t, result.Rollout.Checks, 2)
	require.Equal(t, "cel fast", result.Rollout.Gates[1].Kind)
	w.settles(map[string]int{v2: 3})

	verdict.Store("fail")
	request = w.request(v3, 0, rollout.Step{Weight: 34})
	request.Strategy.Checks = gates()
	result, err = w.insider().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.GateFailed, result.Rollout.Failure.Reason)
	w.settles(map[string]int{v2: 3})

	// Who may not reach it has no answer, and no answer is no pass.
	request = w.request(v3, 0, rollout.Step{Weight: 34})
	request.Strategy.Checks = gates()
	for i := range request.Strategy.Checks {
		request.Strategy.Checks[i].Timeout = 10 * time.Second
	}
	result, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.GateInconclusive, result.Rollout.Failure.Reason)
	require.Contains(t, result.Rollout.Failure.Message, "may not be reached")
	w.settles(map[string]int{v2: 3})
}

func TestAnApprovalIsGivenFromAnotherProcess(t *testing.T) {
	w := newWorld(t)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	w.startVerified(v1)
	start := func(image string, tell *told) chan error {
		request := w.request(image, 0, rollout.Step{Weight: 34})
		request.Strategy.Checks = []rollout.CheckGate{{Name: "release", Approval: &rollout.ApprovalGate{From: []string{"oncall"}, Message: "look at the shop"}}}
		ended := make(chan error, 1)
		go func() {
			_, err := w.controller().Start(w.ctx, request, w.log(tell))
			ended <- err
		}()
		w.await(tell, rollout.Canary, "waits for oncall: look at the shop")
		return ended
	}
	tell := w.told()
	ended := start(v2, tell)
	_, code := w.asks("promote", "shop", "--by", "eve")
	require.Equal(t, 3, code, "a promotion would step over it")
	_, code = w.asks("approve", "shop", "--by", "eve")
	require.Equal(t, 3, code, "eve is not asked")
	out, code := w.asks("approve", "shop", "--comment", "green")
	require.Zero(t, code, out)
	require.NoError(t, <-ended)
	record, _, err := w.controller().Status(w.ctx, w.target())
	require.NoError(t, err)
	require.Equal(t, "approval release", record.Current.Gates[0].Kind)
	require.Equal(t, "oncall", record.Current.Gates[0].By)
	require.Equal(t, "approved by oncall: green", record.Current.Gates[0].Evidence)
	require.Len(t, record.Current.Said, 3, "who was refused is written down too")
	w.settles(map[string]int{v2: 3})

	tell = w.told()
	ended = start(v3, tell)
	_, code = w.asks("reject", "shop", "--comment", "checkout is slow")
	require.Zero(t, code)
	require.ErrorIs(t, <-ended, rollout.ErrFailed)
	w.settles(map[string]int{v2: 3})
}

// Hooks run around a release, and windows hold what has not begun.
func TestHooksAndFreezes(t *testing.T) {
	w := newWorld(t)
	v1, v2, v3 := image(t, "VERSION=1"), image(t, "VERSION=2"), image(t, "VERSION=3")
	hook := func(name string, phase rollout.HookPhase, passes bool) rollout.Hook {
		job := w.smoke(v1, "2")
		container := map[string]any{"name": "smoke", "image": v1, "command": []any{"/server"}, "env": []any{map[string]any{"name": "CHECK", "value": "2"}}}
		if passes { // as a check of an address that nobody gave would not
			service, err := kube.CoreV1().Services(w.namespace).Get(w.ctx, "shop", metav1.GetOptions{})
			require.NoError(t, err)
			container["env"] = []any{map[string]any{"name": "CHECK", "value": "1"}, map[string]any{"name": "TIDEGATE_CANARY_ADDRESS", "value": service.Spec.ClusterIP}}
		}
		require.NoError(t, unstructured.SetNestedSlice(job.Object, []any{container}, "spec", "template", "spec", "containers"))
		return rollout.Hook{Name: name, Phase: phase, Manifest: job, Timeout: time.Minute}
	}
	w.startVerified(v1)
	names := w.podNames()

	// One before it that fails: nothing was changed.
	request := w.request(v2, 0)
	request.Hooks = []rollout.Hook{hook("migrate", rollout.BeforeHook, false), hook("page", rollout.FailureHook, true)}
	result, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.HookFailed, result.Rollout.Failure.Reason)
	require.Len(t, result.Rollout.HookRuns, 2)
	require.Equal(t, "page", result.Rollout.HookRuns[1].Hook)
	require.EqualValues(t, "pass", result.Rollout.HookRuns[1].Outcome)
	require.Equal(t, names, w.podNames())
	require.Zero(t, w.jobs())

	// One after it that fails takes it back.
	request = w.request(v2, 0)
	request.Hooks = []rollout.Hook{hook("migrate", rollout.BeforeHook, true), hook("verify", rollout.AfterHook, false)}
	result, err = w.controller().Start(w.ctx, request, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	require.Equal(t, rollout.RolledBack, result.Rollout.State)
	require.Contains(t, result.Rollout.Failure.Message, "hook after verify")
	w.settles(map[string]int{v1: 3})

	// A freeze holds it until someone says why not.
	request = w.request(v3, 0)
	request.Freeze = []rollout.Window{{Cron: "* * * * *", Duration: time.Hour, Reason: "holidays"}}
	tell := w.told()
	ended := make(chan error, 1)
	go func() {
		_, err := w.controller().Start(w.ctx, request, w.log(tell))
		ended <- err
	}()
	w.await(tell, rollout.Pending, "held by a freeze window (holidays) until")
	require.Equal(t, 3, w.pods()[v1])
	out, code := w.asks("override", "shop", "--reason", "security fix")
	require.Zero(t, code, out)
	require.NoError(t, <-ended)
	w.settles(map[string]int{v3: 3})
	record, _, err := w.controller().Status(w.ctx, w.target())
	require.NoError(t, err)
	require.Equal(t, "oncall: security fix", record.Current.Override)
	// The next one from a command line is held too, and a rollback is not.
	plan, err := w.controller().Plan(w.ctx, w.request(v2, 0))
	require.NoError(t, err)
	require.Contains(t, plan.Held, "holidays")
	_, code = w.asks("rollback", "shop")
	require.Zero(t, code)
	w.settles(map[string]int{v1: 3})
}

// A process that dies while a Job runs leaves it to the next one.
func TestAJobOutlivesItsProcess(t *testing.T) {
	w := newWorld(t)
	v1, v2 := image(t, "VERSION=1"), image(t, "VERSION=2")
	w.startVerified(v1)
	request := w.request(v2, 0, rollout.Step{Weight: 34, Hold: 15 * time.Second})
	request.Strategy.Checks = []rollout.CheckGate{{Name: "smoke", Job: &rollout.JobGate{Manifest: w.smoke(v1, "2")}}}
	tell := w.told()
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		_, err := w.controller().Start(ctx, request, w.log(tell))
		ended <- err
	}()
	w.until("the job", func(r *rollout.Record) bool { return r.Live() && len(r.Current.Checks) > 0 })
	stop()
	require.Error(t, <-ended)
	result, err := w.controller().Continue(w.ctx, w.target(), w.log(nil))
	require.NoError(t, err)
	require.Len(t, result.Rollout.Checks, 1)
	w.settles(map[string]int{v2: 3})
	require.Zero(t, w.jobs())
}
