package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// prober asks the jobs and webhooks of one step until each has answered, or it
// is stopped. What they answered is collected by the driver: the prober itself
// decides and records nothing.
type prober struct {
	revision, step int
	stop           func() // ends all questions and waits for them

	mu        sync.Mutex
	addresses []string
	said      []Check
}

// probe keeps a prober going while the current state asks for one, judges the
// expressions, and tells whether the record has become different.
func (d *driver) probe(ctx context.Context, obs Observation) bool {
	r := d.record.Current
	wanted := r.asking() && slices.ContainsFunc(r.present(), func(g *CheckGate) bool { return g.Job != nil || g.Webhook != nil })
	if p := d.prober; p != nil && (!wanted || p.revision != r.Revision || p.step != r.Step) {
		p.stop()
		d.prober = nil
	}
	if wanted {
		addresses := d.watch.addresses(d.release, serving(obs))
		// Nothing can be asked of what has no address yet.
		if d.prober == nil && len(addresses) > 0 {
			d.prober = d.newProber(ctx, r, addresses)
		}
		if d.prober != nil {
			d.prober.mu.Lock()
			d.prober.addresses = addresses
			d.prober.mu.Unlock()
		}
	}
	changed := false
	if d.prober != nil {
		d.prober.mu.Lock()
		said := d.prober.said
		d.prober.said = nil
		d.prober.mu.Unlock()
		for _, c := range said {
			changed = r.put(c) || changed
		}
	}
	return r.evaluate(obs, d.clock()) || changed
}

// serving lists the pods of the new version that have traffic.
func serving(obs Observation) []string {
	var names []string
	for _, c := range obs.Canaries {
		if c.Track != BaselineTrack {
			names = append(names, c.Serving...)
		}
		if c.Track == PreviewTrack {
			for _, pod := range c.Dark { // the preview Service reaches these
				names = append(names, pod.Name)
			}
		}
	}
	for _, w := range obs.Workloads {
		names = append(names, w.New...)
	}
	return names
}

func (d *driver) newProber(ctx context.Context, r *Rollout, addresses []string) *prober {
	ctx, cancel := context.WithCancel(ctx)
	p := &prober{revision: r.Revision, step: r.Step, addresses: addresses}
	question := d.question(r)
	var asked sync.WaitGroup
	for _, g := range r.present() {
		if c := r.checkOf(g.Name); c != nil && c.Outcome != analysis.Inconclusive {
			continue // answered before a process that died
		}
		attempts := 0
		if c := r.checkOf(g.Name); c != nil {
			attempts = c.Asked
		}
		gate := *g
		tell := func(c Check) {
			c.Step, c.Gate, c.Kind, c.At = p.step, gate.Name, gate.Kind(), d.clock()
			p.mu.Lock()
			p.said = append(p.said, c)
			p.mu.Unlock()
			d.watch.notify()
		}
		switch {
		case gate.Job != nil:
			t := task{key: gate.Name, purpose: stepPurpose(r.Step), deadline: r.timeout(&gate), env: question.environment(addresses)}
			template := d.jobs[gate.Name]
			asked.Go(func() {
				d.runTask(ctx, template, p.revision, t, func(outcome analysis.Outcome, why, trouble string, log []string) {
					tell(Check{Outcome: outcome, Why: why, Trouble: trouble, Log: log})
				})
			})
		case gate.Webhook != nil:
			asked.Go(func() { d.askUntilAnswered(ctx, p, gate, question, attempts, tell) })
		}
	}
	p.stop = func() {
		cancel()
		asked.Wait()
	}
	return p
}

// question is what is told of the present step.
func (d *driver) question(r *Rollout) WebhookQuestion {
	q := WebhookQuestion{App: d.app, Namespace: d.namespace, Revision: r.Revision, Base: r.Base, Step: r.Step, Weight: 100, Commit: r.Commit, By: r.By, Images: r.Images}
	if r.Step > 0 && r.Step <= len(r.Strategy.Steps) {
		q.Weight = r.Strategy.Steps[r.Step-1].Weight
	}
	return q
}

// environment is the same for the containers of a Job.
func (q WebhookQuestion) environment(addresses []string) map[string]string {
	env := map[string]string{
		"TIDEGATE_APP": q.App, "TIDEGATE_NAMESPACE": q.Namespace, "TIDEGATE_REVISION": strconv.Itoa(q.Revision), "TIDEGATE_BASE": strconv.Itoa(q.Base),
		"TIDEGATE_STEP": strconv.Itoa(q.Step), "TIDEGATE_WEIGHT": strconv.Itoa(q.Weight), "TIDEGATE_COMMIT": q.Commit,
		"TIDEGATE_CANARY_ADDRESSES": strings.Join(addresses, ","),
	}
	if len(addresses) > 0 {
		env["TIDEGATE_CANARY_ADDRESS"] = addresses[0]
	}
	return env
}

// askUntilAnswered asks a webhook at its interval until it says pass or fail.
func (d *driver) askUntilAnswered(ctx context.Context, p *prober, gate CheckGate, q WebhookQuestion, attempts int, tell func(Check)) {
	client := webhookClient(d.reach)
	ticker := time.NewTicker(gate.Webhook.Interval)
	defer ticker.Stop()
	for {
		attempts++
		p.mu.Lock()
		q.Addresses = p.addresses
		p.mu.Unlock()
		q.Gate, q.Attempt, q.At = gate.Name, attempts, d.clock()
		c := Check{Outcome: analysis.Inconclusive, Why: "no answer", Asked: attempts}
		key, err := d.token(ctx, gate.Webhook.Secret)
		var answer WebhookAnswer
		if err == nil {
			answer, err = askWebhook(ctx, client, gate.Webhook.URL, key, q)
		}
		if err != nil {
			c.Trouble = clipText(err.Error())
		} else {
			c.Outcome, c.Why = answer.verdict()
			c.Facts = compactFacts(answer.Facts)
		}
		if ctx.Err() != nil {
			return
		}
		tell(c)
		if c.Outcome != analysis.Inconclusive {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// compactFacts keeps facts only if they are a mapping, as expressions want them.
func compactFacts(facts json.RawMessage) json.RawMessage {
	var m map[string]any
	if json.Unmarshal(facts, &m) != nil || m == nil {
		return nil
	}
	encoded, err := json.Marshal(m)
	if err != nil {
		return nil
	}
	return encoded
}

// jobs are the Jobs that a request brings: those of gates by their names, those
// of hooks by their keys.
func (r Request) jobs() map[string]*unstructured.Unstructured {
	jobs := hookJobs(r.Hooks)
	for _, g := range r.Strategy.Checks {
		if g.Job != nil {
			jobs[g.Name] = g.Job.Manifest
		}
	}
	return jobs
}

// runsJobs tells whether the rollout may have made Jobs.
func (r *Rollout) runsJobs() bool {
	return len(r.HookRuns) > 0 || slices.ContainsFunc(r.Strategy.Checks, func(g CheckGate) bool { return g.Job != nil })
}

// annotationTask names, on a Job that is kept with a revision, what it is for.
const annotationTask = "tidegate.dev/task"

// encodeJobs and decodeJobs store the Jobs of a revision as a release of their own.
func encodeJobs(jobs map[string]*unstructured.Unstructured) ([]byte, error) {
	var objects []*unstructured.Unstructured
	for _, name := range slices.Sorted(maps.Keys(jobs)) {
		u := jobs[name].DeepCopy()
		annotations := u.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[annotationTask] = name
		u.SetAnnotations(annotations)
		objects = append(objects, u)
	}
	release, err := manifest.FromObjects(objects)
	if err != nil {
		return nil, err
	}
	encoded, err := release.Encode()
	if err == nil && len(encoded) > maxJobBytes {
		return nil, fmt.Errorf("the Jobs of the gates and hooks are %d bytes compressed; at most %d are kept", len(encoded), maxJobBytes)
	}
	return encoded, err
}

// maxJobBytes is what a Secret has room for beside the manifests of a release.
const maxJobBytes = 100 << 10

func decodeJobs(encoded []byte) (map[string]*unstructured.Unstructured, error) {
	jobs := map[string]*unstructured.Unstructured{}
	if len(encoded) == 0 {
		return jobs, nil
	}
	release, err := manifest.Decode(encoded)
	if err != nil {
		return nil, err
	}
	for _, u := range release.Objects {
		annotations := u.GetAnnotations()
		name := annotations[annotationTask]
		delete(annotations, annotationTask)
		u.SetAnnotations(annotations)
		jobs[name] = u
	}
	return jobs, nil
}
