package rollout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tidegate-ci/tidegate/rollout/analysis"
	"github.com/tidegate-ci/tidegate/rollout/health"
	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// labelGate is on Jobs that a rollout runs; its value is the revision.
const labelGate = "tidegate.dev/gate-of"

// keepJobs is how long Kubernetes keeps an ended Job that says nothing itself.
const keepJobs = time.Hour

// checkJob says what is wrong with a Job for a gate or a hook.
func checkJob(u *unstructured.Unstructured) error {
	if u.GroupVersionKind().Group != "batch" || u.GetKind() != "Job" {
		return fmt.Errorf("%s: it must be a Job of batch/v1", manifest.RefOf(u))
	}
	var job batchv1.Job
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, &job, true); err != nil {
		return fmt.Errorf("%s: %w", manifest.RefOf(u), err)
	}
	if len(job.Spec.Template.Spec.Containers) == 0 {
		return fmt.Errorf("%s: it has no container", manifest.RefOf(u))
	}
	return nil
}

// checkSelected refuses a Job whose pods a workload of the release would take for its own.
func checkSelected(u *unstructured.Unstructured, release *manifest.Release) error {
	own, _, err := unstructured.NestedStringMap(u.Object, "spec", "template", "metadata", "labels")
	if err != nil {
		return fmt.Errorf("%s: spec.template.metadata.labels: %w", manifest.RefOf(u), err)
	}
	for _, object := range release.Objects {
		path := []string{"spec", "selector", "matchLabels"}
		switch ref := manifest.RefOf(object); {
		case ref.Kind == "Service" && ref.APIVersion == "v1":
			path = path[:2]
		case !manifest.IsWorkload(ref):
			continue
		}
		selected, found, err := unstructured.NestedStringMap(object.Object, path...)
		if err == nil && found && len(selected) > 0 && labels.SelectorFromSet(selected).Matches(labels.Set(own)) {
			return fmt.Errorf("%s: its pods carry the labels that %s selects; give them others", manifest.RefOf(u), manifest.RefOf(object))
		}
	}
	return nil
}

// task is one run of a Job: of a gate in a step, or of a hook.
type task struct {
	key      string // of the manifest: the gate's or the hook's name
	purpose  string // tells runs of one manifest in one revision apart
	deadline time.Duration
	env      map[string]string
}

// hookPurpose and stepPurpose are those of hooks, and of gates in a step.
const hookPurpose = "hook"

func stepPurpose(step int) string { return "step " + strconv.Itoa(step) }

// jobName is the same for whoever continues the rollout.
func jobName(app string, revision int, t task) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{app, strconv.Itoa(revision), t.key, t.purpose}, "\x00")))
	short := strings.Join(strings.FieldsFunc(strings.ToLower(t.key), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }), "-")
	return fmt.Sprintf("%s-%s-%s", app[:min(len(app), 30)], strings.TrimRight(short[:min(len(short), 16)], "-"), hex.EncodeToString(sum[:])[:8])
}

// jobFor makes the Job of a task. Its owner is the record, so that forgetting
// the application takes it along.
func jobFor(u *unstructured.Unstructured, target Target, revision int, t task, owner metav1.OwnerReference) (*batchv1.Job, error) {
	var job batchv1.Job
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &job); err != nil {
		return nil, fmt.Errorf("%s: %w", manifest.RefOf(u), err)
	}
	meta := metav1.ObjectMeta{Name: jobName(target.App, revision, t), Namespace: target.Namespace, Labels: map[string]string{},
		Annotations: job.Annotations, OwnerReferences: []metav1.OwnerReference{owner}}
	for key, value := range job.Labels {
		meta.Labels[key] = value
	}
	meta.Labels[manifest.LabelApp], meta.Labels[labelGate] = target.App, strconv.Itoa(revision)
	job.ObjectMeta, job.Status = meta, batchv1.JobStatus{}
	if job.Spec.BackoffLimit == nil {
		job.Spec.BackoffLimit = new(int32) // a check that fails has failed
	}
	if most := int64(t.deadline / time.Second); most > 0 && (job.Spec.ActiveDeadlineSeconds == nil || *job.Spec.ActiveDeadlineSeconds > most) {
		job.Spec.ActiveDeadlineSeconds = &most
	}
	if job.Spec.TTLSecondsAfterFinished == nil {
		kept := int32(keepJobs / time.Second)
		job.Spec.TTLSecondsAfterFinished = &kept
	}
	pod := &job.Spec.Template.Spec
	if pod.RestartPolicy == "" {
		pod.RestartPolicy = corev1.RestartPolicyNever
	}
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for i := range containers {
			for _, name := range slices.Sorted(maps.Keys(t.env)) {
				containers[i].Env = append(containers[i].Env, corev1.EnvVar{Name: name, Value: t.env[name]})
			}
		}
	}
	return &job, nil
}

// ended is how a Job ended; done is false while it has not.
func ended(job *batchv1.Job) (done, passed bool, why string) {
	for _, c := range job.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			return true, true, fmt.Sprintf("Job %s completed", job.Name)
		case batchv1.JobFailed:
			return true, false, fmt.Sprintf("Job %s failed: %s: %s", job.Name, c.Reason, c.Message)
		}
	}
	return false, false, fmt.Sprintf("Job %s runs", job.Name)
}

// runTask creates the Job unless it exists already, and sees it to its end.
// tell hears how it stands; ended Jobs are told with the end of their log.
// It returns when the Job has ended or ctx has.
func (d *driver) runTask(ctx context.Context, u *unstructured.Unstructured, revision int, t task, tell func(outcome analysis.Outcome, why, trouble string, log []string)) {
	for {
		err := d.followTask(ctx, u, revision, t, tell)
		if err == nil || ctx.Err() != nil {
			return
		}
		if refused := apierrors.APIStatus(nil); errors.As(err, &refused) && (apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)) {
			tell(analysis.Fail, clipText(err.Error()), "", nil)
			return
		}
		tell(analysis.Inconclusive, "the Job could not be followed", clipText(err.Error()), nil)
		if pause(ctx, retryMost/5) != nil {
			return
		}
	}
}

func (d *driver) followTask(ctx context.Context, u *unstructured.Unstructured, revision int, t task, tell func(outcome analysis.Outcome, why, trouble string, log []string)) error {
	if u == nil {
		return fmt.Errorf("%w: its manifest is not kept with the revision", ErrNotFound)
	}
	record, err := d.kube.CoreV1().ConfigMaps(d.namespace).Get(ctx, d.name(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	job, err := jobFor(u, Target{d.app, d.namespace}, revision, t, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: record.Name, UID: record.UID})
	if err != nil {
		return err
	}
	jobs := d.kube.BatchV1().Jobs(d.namespace)
	live, err := jobs.Create(ctx, job, metav1.CreateOptions{FieldManager: FieldManager})
	if apierrors.IsAlreadyExists(err) { // a process before this one began it
		live, err = jobs.Get(ctx, job.Name, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	if live.Labels[labelGate] != strconv.Itoa(revision) || live.Labels[manifest.LabelApp] != d.app {
		return fmt.Errorf("a Job %s exists that is not of this rollout; delete it", job.Name)
	}
	for {
		done, passed, why := ended(live)
		switch {
		case done && passed:
			tell(analysis.Pass, why, "", d.jobLog(ctx, live))
			return nil
		case done:
			tell(analysis.Fail, why, "", d.jobLog(ctx, live))
			return nil
		}
		tell(analysis.Inconclusive, why, "", nil)
		if live, err = d.nextJob(ctx, live); err != nil {
			return err
		}
	}
}

// maxJobWatch bounds one watch; then it is looked at again.
const maxJobWatch = 5 * time.Minute

// nextJob waits until the Job is different from how it was seen.
func (d *driver) nextJob(ctx context.Context, seen *batchv1.Job) (*batchv1.Job, error) {
	jobs := d.kube.BatchV1().Jobs(d.namespace)
	bounded, cancel := context.WithTimeout(ctx, maxJobWatch)
	defer cancel()
	watch, err := jobs.Watch(bounded, metav1.ListOptions{FieldSelector: "metadata.name=" + seen.Name, ResourceVersion: seen.ResourceVersion})
	if err != nil {
		return nil, err
	}
	defer watch.Stop()
	select {
	case <-bounded.Done():
	case <-watch.ResultChan():
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return jobs.Get(ctx, seen.Name, metav1.GetOptions{})
}

// jobLog reads the end of what the newest pod of a Job wrote.
func (d *driver) jobLog(ctx context.Context, job *batchv1.Job) []string {
	pods, err := d.kube.CoreV1().Pods(d.namespace).List(ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + job.Name})
	if err != nil || len(pods.Items) == 0 {
		return nil
	}
	newest := slices.MaxFunc(pods.Items, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	ctx, cancel := context.WithTimeout(ctx, logLimit)
	defer cancel()
	return d.lastLines(ctx, &health.Container{Pod: newest.Name, Name: newest.Spec.Containers[0].Name})
}

// endTasks deletes the Jobs of a rollout that has ended: what they wrote is in
// the record, and one that still runs would test what is gone.
func (d *driver) endTasks(ctx context.Context, revision int) error {
	background := metav1.DeletePropagationBackground
	return d.retry(ctx, "deleting the Jobs of a rollout", func(ctx context.Context) error {
		return d.kube.BatchV1().Jobs(d.namespace).DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background},
			metav1.ListOptions{LabelSelector: fmt.Sprintf("%s=%s,%s=%d", manifest.LabelApp, d.app, labelGate, revision)})
	})
}
