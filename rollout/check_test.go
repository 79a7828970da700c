package rollout

import (
	"crypto/hmac"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/internal/netguard"
	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

const smoke = `
apiVersion: batch/v1
kind: Job
metadata: {name: smoke}
spec:
  template:
    metadata: {labels: {job: smoke}}
    spec: {containers: [{name: smoke, image: "r/smoke@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}]}
`

func jobOf(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	objects, err := manifest.Parse("smoke.yaml", []byte(text))
	require.NoError(t, err)
	return objects[0]
}

// servingCanary is a record whose canary has served its hold, with gates.
func servingCanary(now time.Time, gates ...CheckGate) (*Record, Observation) {
	record := liveIn(Canary)
	r := record.Current
	r.Canaries, r.Deadline, r.Strategy.Checks = []manifest.Ref{shopRef}, time.Minute, gates
	r.StateSince, r.StepReadyAt = now.Add(-time.Second), now.Add(-time.Second)
	return record, Observation{
		Workloads: []Workload{{Ref: shopRef, Exists: true, Release: "d1", Replicas: 10}},
		Canaries: []CanaryWorkload{{Stable: shopRef, Track: CanaryTrack, Release: "d2", Replicas: 1, ReadySince: now.Add(-time.Second),
			Health: health.Verdict{Status: health.Ready, Ready: 1, Desired: 1}}},
	}
}

func TestNoAnswerHoldsUntilTheGatesOwnDeadline(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	hook := CheckGate{Name: "hook", Webhook: &WebhookGate{URL: "http://x"}}
	boss := CheckGate{Name: "release", Approval: &ApprovalGate{From: []string{"ann", "ops"}, Message: "look at the shop"}}
	record, obs := servingCanary(now, hook, boss)
	a := Decide(record, obs, now)
	require.Equal(t, Wait, a.Kind)
	require.Contains(t, a.Why, "webhook hook: not asked yet")
	require.Equal(t, now.Add(-time.Second).Add(time.Minute), a.Until, "the webhook has the rollout's deadline")

	late := Decide(record, obs, a.Until)
	require.Equal(t, RollingBack, late.Move.To)
	require.Equal(t, GateInconclusive, late.Move.Failure.Reason)
	require.Contains(t, late.Move.Failure.Message, "hook")

	record.Current.put(Check{Step: 1, Gate: "hook", Kind: "webhook", Outcome: analysis.Pass, Why: "it says pass"})
	a = Decide(record, obs, a.Until)
	require.Equal(t, Wait, a.Kind)
	require.Contains(t, a.Why, "approval release: waits for ann or ops: look at the shop")
	require.Equal(t, now.Add(-time.Second).Add(DefaultApprovalTimeout), a.Until, "people have longer")
	// A pod that goes away for a moment, hours later, is no failure.
	flapped := obs
	flapped.Canaries = []CanaryWorkload{obs.Canaries[0]}
	flapped.Canaries[0].ReadySince = time.Time{}
	require.Equal(t, Wait, Decide(record, flapped, now.Add(3*time.Hour)).Kind)

	for by, accepted := range map[string]bool{"eve": false, "": false, "ann": true} {
		record.Command = &Command{ID: by, Kind: CommandApprove, By: by}
		require.NoError(t, record.obey(now))
		require.Equal(t, accepted, record.Reply.Accepted, "%q: %s", by, record.Reply.Message)
		if accepted {
			break
		}
	}
	record.Command = &Command{ID: "ann", Kind: CommandApprove, By: "ann"}
	require.NoError(t, record.obey(now))
	a = Decide(record, obs, now)
	require.Equal(t, Advance, a.Kind)
	require.NoError(t, record.advance(*a.Move, now))
	require.Equal(t, 2, record.Current.Step)
	kinds := []string{}
	for _, g := range record.Current.Gates {
		kinds = append(kinds, g.Kind)
	}
	require.Equal(t, []string{"webhook hook", "approval release", "health"}, kinds)
	require.Equal(t, "ann", record.Current.Gates[1].By)
}

func TestApprovals(t *testing.T) {
	now := time.Now()
	gate := func(name string, from ...string) CheckGate {
		return CheckGate{Name: name, Approval: &ApprovalGate{From: from}}
	}
	for name, c := range map[string]struct {
		gates    []CheckGate
		command  Command
		accepted bool
		message  string
		outcome  analysis.Outcome // of the first gate
	}{
		"anyone":             {[]CheckGate{gate("a")}, Command{Kind: CommandApprove, By: "eve"}, true, "approved", analysis.Pass},
		"by group":           {[]CheckGate{gate("a", "ops")}, Command{Kind: CommandApprove, By: "eve", Groups: []string{"ops"}}, true, "approved", analysis.Pass},
		"not asked":          {[]CheckGate{gate("a", "ops")}, Command{Kind: CommandApprove, By: "eve"}, false, "eve may not decide on a: it is asked of ops", ""},
		"nobody":             {[]CheckGate{gate("a", "ops")}, Command{Kind: CommandApprove}, false, "unknown may not", ""},
		"which":              {[]CheckGate{gate("a"), gate("b")}, Command{Kind: CommandApprove, By: "eve"}, false, "--gate: a, b", ""},
		"that one":           {[]CheckGate{gate("a"), gate("b")}, Command{Kind: CommandApprove, By: "eve", Gate: "a"}, true, "approved", analysis.Pass},
		"unknown gate":       {[]CheckGate{gate("a")}, Command{Kind: CommandApprove, By: "eve", Gate: "z"}, false, `no approval called "z"`, ""},
		"other step":         {[]CheckGate{{Name: "a", Steps: []int{2}, Approval: &ApprovalGate{}}}, Command{Kind: CommandApprove, By: "eve"}, false, "nobody's approval", ""},
		"rejected":           {[]CheckGate{gate("a", "ann")}, Command{Kind: CommandReject, By: "ann", Comment: "not on Friday"}, true, "rejected: going back", analysis.Fail},
		"promote past it":    {[]CheckGate{gate("a", "ann")}, Command{Kind: CommandPromote, By: "eve"}, false, "approval a waits for ann", ""},
		"promote by one":     {[]CheckGate{gate("a", "ann")}, Command{Kind: CommandPromote, By: "ann"}, true, "promoted", ""},
		"full past step 2":   {[]CheckGate{{Name: "a", Steps: []int{2}, Approval: &ApprovalGate{From: []string{"ann"}}}}, Command{Kind: CommandPromote, Full: true, By: "eve"}, false, "waits for ann", ""},
		"step 1 before that": {[]CheckGate{{Name: "a", Steps: []int{2}, Approval: &ApprovalGate{From: []string{"ann"}}}}, Command{Kind: CommandPromote, By: "eve"}, true, "promoted", ""},
	} {
		t.Run(name, func(t *testing.T) {
			record, _ := servingCanary(now, c.gates...)
			c.command.ID = "1"
			record.Command = &c.command
			require.NoError(t, record.obey(now))
			require.Equal(t, c.accepted, record.Reply.Accepted, record.Reply.Message)
			require.Contains(t, record.Reply.Message, c.message)
			record.Current.Step = 1
			if check := record.Current.checkOf("a"); c.outcome != "" {
				require.Equal(t, c.outcome, check.Outcome)
				said := *check
				again := c.command
				again.ID = "2"
				record.Command = &again
				require.NoError(t, record.obey(now.Add(time.Hour)))
				require.Equal(t, said, *record.Current.checkOf("a"), "repeats harmlessly")
				if c.outcome == analysis.Fail {
					require.Equal(t, GateFailed, record.Current.failedGate().Reason)
					require.Contains(t, record.Current.failedGate().Message, "not on Friday")
				}
			} else {
				require.Nil(t, check)
			}
		})
	}
}

func TestExpressionsOverAllFacts(t *testing.T) {
	now := time.Now()
	value := 0.25
	record, obs := servingCanary(now,
		CheckGate{Name: "smoke", Job: &JobGate{}, Advisory: true}, CheckGate{Name: "load", Webhook: &WebhookGate{}, Advisory: true}, CheckGate{Name: "boss", Approval: &ApprovalGate{}, Advisory: true})
	r := record.Current
	r.Strategy.Metrics = []MetricGate{{Name: "errors", Query: "x", Advisory: true}}
	r.Analyses = []Analysis{{Step: 1, Gate: "errors", Verdict: analysis.Verdict{Outcome: analysis.Fail}, Samples: []analysis.Sample{{Value: &value}}}}
	r.put(Check{Step: 1, Gate: "smoke", Kind: "job", Outcome: analysis.Pass})
	r.put(Check{Step: 1, Gate: "load", Kind: "webhook", Outcome: analysis.Inconclusive, Facts: json.RawMessage(`{"p99": 0.2}`)})
	r.put(Check{Step: 1, Gate: "boss", Kind: "approval", Outcome: analysis.Pass, By: "ann"})
	require.Nil(t, r.failedGate(), "advisory gates fail nothing")
	require.Empty(t, r.openGate(), "and hold nothing")
	for text, want := range map[string]analysis.Outcome{
		`jobs.smoke.outcome == "pass" && approvals.boss.by == "ann"`:                   analysis.Pass,
		`webhooks.load.facts.p99 < 0.3 && metrics.errors.value < 0.5`:                  analysis.Pass,
		`metrics.errors.outcome == "pass" || approvals.boss.outcome == "pass"`:         analysis.Pass,
		`metrics.errors.value > 0.5`:                                                   analysis.Inconclusive,
		`metrics.missing.value < 1.0`:                                                  analysis.Inconclusive,
		`health.ready == 1 && health.restarts == 0 && step == 1 && weight == 10`:       analysis.Pass,
		`serving >= duration("1s") && serving < duration("1h") && stable.desired >= 0`: analysis.Pass,
		`metrics.errors.samples`:                                                       analysis.Inconclusive,
		`[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, [1,2,3,4,5,6,7,8,9].all(f, true))))))`: analysis.Inconclusive,
	} {
		verdict := (&CELGate{Pass: text}).judge(r.facts(obs, now))
		require.Equal(t, want, verdict.Outcome, "%s: %s", text, verdict.Why)
	}
	require.Equal(t, analysis.Fail, (&CELGate{Pass: "true", Fail: "metrics.errors.value > 0.2"}).judge(r.facts(obs, now)).Outcome, "fail comes first")
	for _, wrong := range []string{"", "1 +", "step", `"a"`, "nobody.knows", strings.Repeat("(", 5000)} {
		require.Error(t, (&CELGate{Pass: wrong}).check(), wrong)
	}
	// An expression is judged anew when a fact changes.
	r.Strategy.Checks = append(r.Strategy.Checks, CheckGate{Name: "both", CEL: &CELGate{Pass: `webhooks.load.outcome == "pass"`}})
	require.True(t, r.evaluate(obs, now))
	require.False(t, r.evaluate(obs, now), "nothing new")
	require.Equal(t, "both", r.openCheck().Name)
	r.put(Check{Step: 1, Gate: "load", Kind: "webhook", Outcome: analysis.Pass})
	require.True(t, r.evaluate(obs, now))
	require.Nil(t, r.openCheck())
}

func TestWebhook(t *testing.T) {
	question := WebhookQuestion{Gate: "load", App: "shop", Revision: 2, Step: 1, Weight: 10, Images: []string{"a"}, Addresses: []string{"10.0.0.1:80"}, Attempt: 1}
	for name, c := range map[string]struct {
		status int
		body   string
		says   string // of an error
		result string
	}{
		"pass":      {200, `{"result":"pass","message":"all well"}`, "", "pass"},
		"fail":      {200, `{"result":"fail","facts":{"p99":2}}`, "", "fail"},
		"wait":      {200, `{"result":"wait"}`, "", "wait"},
		"nonsense":  {200, `{"result":"maybe"}`, `"maybe"; want pass, fail or wait`, ""},
		"not JSON":  {200, `pass`, "not JSON", ""},
		"500":       {500, `{"result":"pass"}`, "500", ""},
		"404":       {404, `{"result":"pass"}`, "404", ""},
		"redirect":  {302, ``, "302", ""},
		"too large": {200, `{"result":"pass","message":"` + strings.Repeat("x", maxWebhookAnswer) + `"}`, "larger than", ""},
		"facts":     {200, `{"result":"pass","facts":"` + strings.Repeat("x", maxCheckText) + `"}`, "facts are", ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil || !hmac.Equal([]byte(Sign("k3y", body)), []byte(r.Header.Get(HeaderSignature))) || r.Method != http.MethodPost {
					w.WriteHeader(http.StatusTeapot)
					return
				}
				var got WebhookQuestion
				if json.Unmarshal(body, &got) != nil || got.Gate != "load" || got.Addresses[0] != "10.0.0.1:80" {
					w.WriteHeader(http.StatusTeapot)
					return
				}
				w.Header().Set("Location", "http://169.254.169.254/")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body) // a client that has read enough hangs up
			}))
			defer server.Close()
			answer, err := askWebhook(t.Context(), webhookClient(netguard.Inside), server.URL+"/?token=s3cret", "k3y", question)
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				require.NotContains(t, err.Error(), "s3cret")
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.result, answer.Result)
		})
	}
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	_, err := askWebhook(t.Context(), webhookClient(netguard.Public), server.URL+"/?token=s3cret", "", question)
	require.ErrorContains(t, err, "may not be reached from here")
	require.NotContains(t, err.Error(), "s3cret")
}

func FuzzWebhookAnswer(f *testing.F) {
	f.Add([]byte(`{"result":"pass","message":"x","facts":{"a":1}}`))
	f.Add([]byte(`{"result":"wait","facts":[[[[]]]]}`))
	f.Fuzz(func(t *testing.T, said []byte) {
		answer, err := parseAnswer(said)
		if err != nil {
			return
		}
		outcome, why := answer.verdict()
		if (outcome == analysis.Pass) != (answer.Result == "pass") || len(why) > maxRecordText+100 || len(answer.Facts) > maxCheckText {
			t.Fatalf("%+v", answer)
		}
		if facts := compactFacts(answer.Facts); facts != nil && !json.Valid(facts) {
			t.Fatalf("%s", facts)
		}
	})
}

func TestJobsOfGates(t *testing.T) {
	u := jobOf(t, smoke)
	require.NoError(t, checkJob(u))
	require.ErrorContains(t, checkJob(jobOf(t, strings.Replace(smoke, "kind: Job", "kind: CronJob", 1))), "must be a Job")
	require.ErrorContains(t, checkJob(jobOf(t, strings.Replace(smoke, "  template:", "  templat: {}\n  template:", 1))), "templat")
	release := releaseOf(t, planned)
	require.NoError(t, checkSelected(u, release))
	require.ErrorContains(t, checkSelected(jobOf(t, strings.Replace(smoke, "job: smoke", "app: shop", 1)), release), "selects; give them others")

	one := task{key: "Smoke_test.of-everything-there-is", purpose: "step 1", deadline: 90 * time.Second, env: map[string]string{"TIDEGATE_CANARY_ADDRESS": "10.0.0.1:80", "TIDEGATE_APP": "shop"}}
	two := one
	two.purpose = "step 2"
	target := Target{App: strings.Repeat("a", maxAppLength), Namespace: "x"}
	name := jobName(target.App, 2, one)
	require.LessOrEqual(t, len(name), 63)
	require.Regexp(t, `^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`, name)
	require.NotEqual(t, name, jobName(target.App, 2, two))
	require.NotEqual(t, name, jobName(target.App, 3, one))
	require.Equal(t, name, jobName(target.App, 2, one), "the same for whoever continues")

	job, err := jobFor(u, target, 2, one, metav1.OwnerReference{Name: "tidegate-shop"})
	require.NoError(t, err)
	require.EqualValues(t, 0, *job.Spec.BackoffLimit)
	require.EqualValues(t, 90, *job.Spec.ActiveDeadlineSeconds)
	require.Equal(t, corev1.RestartPolicyNever, job.Spec.Template.Spec.RestartPolicy)
	require.Equal(t, []corev1.EnvVar{{Name: "TIDEGATE_APP", Value: "shop"}, {Name: "TIDEGATE_CANARY_ADDRESS", Value: "10.0.0.1:80"}}, job.Spec.Template.Spec.Containers[0].Env)

	for want, conditions := range map[string][]batchv1.JobCondition{
		"false false": nil,
		"true true":   {{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}},
		"true false":  {{Type: batchv1.JobFailureTarget, Status: corev1.ConditionTrue}, {Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded"}},
	} {
		done, passed, _ := ended(&batchv1.Job{Status: batchv1.JobStatus{Conditions: conditions}})
		require.Equal(t, want, fmt.Sprint(done, passed))
	}

	encoded, err := encodeJobs(map[string]*unstructured.Unstructured{"smoke": u, "other": jobOf(t, smoke)})
	require.NoError(t, err)
	jobs, err := decodeJobs(encoded)
	require.NoError(t, err)
	require.Len(t, jobs, 2)
	require.Equal(t, u.Object["spec"], jobs["smoke"].Object["spec"])
}

func TestChecksOfARequest(t *testing.T) {
	job := &JobGate{Manifest: jobOf(t, smoke)}
	for says, gates := range map[string][]CheckGate{
		"":                    {{Name: "smoke", Job: job, Steps: []int{1, 2}}, {Name: "boss", Approval: &ApprovalGate{}}},
		"give one of job":     {{Name: "smoke"}},
		"use letters":         {{Name: "no way", Job: job}},
		"two gates are named": {{Name: "a", Job: job}, {Name: "a", Approval: &ApprovalGate{}}},
		"steps 1 to 2":        {{Name: "a", Job: job, Steps: []int{3}}},
		"has no Job":          {{Name: "a", Job: &JobGate{}}},
		"want http://HOST":    {{Name: "a", Webhook: &WebhookGate{URL: "file:///etc/passwd"}}},
		"don't belong":        {{Name: "a", Webhook: &WebhookGate{URL: "https://user:pw@host/"}}},
		"cannot be advisory":  {{Name: "a", CEL: &CELGate{Pass: "true"}, Advisory: true}},
		"pass is missing":     {{Name: "a", CEL: &CELGate{}}},
	} {
		r := Request{App: "shop", Namespace: "x", Release: releaseOf(t, planned),
			Strategy: Strategy{Kind: CanaryStrategy, Steps: []Step{{Weight: 10}, {Weight: 50}}, Checks: gates}}
		if err := r.check(); says == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, says)
			require.ErrorIs(t, err, ErrInvalid)
		}
	}
}
