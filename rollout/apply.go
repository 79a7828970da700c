package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/csaupgrade"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// annotationBake marks a Deployment whose minReadySeconds a rollout raised.
const annotationBake = "tidegate.dev/bake"

// annotationRestarted in a pod template is when someone restarted the release.
const annotationRestarted = "tidegate.dev/restarted-at"

// scaleManager owns the replicas of a workload after Tidegate let go of them in
// favour of an autoscaler: giving up a field that nobody else owns would reset it to 1.
const scaleManager = "tidegate-scale"

// annotationStrategy marks a workload whose own update strategy a rollout
// replaced for its time.
const annotationStrategy = "tidegate.dev/strategy"

// borrow marks a setting that is to be given back.
func borrow(u *unstructured.Unstructured, mark, value string) {
	annotations := u.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[mark] = value
	u.SetAnnotations(annotations)
}

// borrowed tells whether a rollout has changed settings of a workload for its time.
func borrowed(object metav1.Object) bool {
	annotations := object.GetAnnotations()
	return annotations[annotationBake] != "" || annotations[annotationStrategy] != ""
}

// settings say how a workload is written beyond what its manifest says.
type settings struct {
	bake   time.Duration // 0 leaves minReadySeconds as it is
	paused bool
	// scaled is true when an autoscaler owns the number of replicas.
	scaled bool
	// restarted is put into the pod template, so that all pods are replaced;
	// zero leaves the template as it is.
	restarted time.Time
	// recreate lets a Deployment's old pods go before the new ones come.
	recreate bool
	// partition of a StatefulSet; nil is that of its manifest.
	partition *int32
	// points is what the Services that blue-green switches are to stay at.
	points Pointing
}

// settings are those that the action asks for.
func (a Action) settings() settings {
	return settings{bake: a.Bake, paused: a.Paused, recreate: a.Recreate, partition: a.Partition, points: a.Points}
}

// ownSettings are s as they are for one workload of the rollout.
func (r *Rollout) ownSettings(ref manifest.Ref, s settings) settings {
	if slices.ContainsFunc(r.Previews, ref.Same) {
		s.bake = 0 // its version has proved itself as a preview, and it serves nobody
	}
	if r.State == Applying && r.partitioned(ref) {
		hold := int32(held)
		s.partition = &hold
	}
	return s
}

// unbegun tells whether an object is still to be written when the release is:
// StatefulSets that a canary has begun to move are of the release already.
func (r *Rollout) unbegun(ref manifest.Ref) bool {
	return r.State == Applying || !r.partitioned(ref)
}

// shape puts settings into a workload.
func shape(u *unstructured.Unstructured, s settings) error {
	if s.scaled {
		unstructured.RemoveNestedField(u.Object, "spec", "replicas")
	}
	if !s.restarted.IsZero() {
		if err := unstructured.SetNestedField(u.Object, s.restarted.UTC().Format(time.RFC3339), "spec", "template", "metadata", "annotations", annotationRestarted); err != nil {
			return fmt.Errorf("%s: spec.template.metadata.annotations: %w", manifest.RefOf(u), err)
		}
	}
	switch {
	case u.GetKind() == "StatefulSet" && s.partition != nil:
		if err := shapePartition(u, *s.partition); err != nil {
			return err
		}
	case u.GetKind() == "Deployment" && s.recreate:
		// An explicit null: the defaults of a rolling update would be kept otherwise,
		// and refused beside this type.
		if err := unstructured.SetNestedMap(u.Object, map[string]any{"type": "Recreate", "rollingUpdate": nil}, "spec", "strategy"); err != nil {
			return fmt.Errorf("%s: spec.strategy: %w", manifest.RefOf(u), err)
		}
		borrow(u, annotationStrategy, "recreate")
	}
	seconds := int64(math.Ceil(s.bake.Seconds()))
	own, _, err := unstructured.NestedInt64(u.Object, "spec", "minReadySeconds")
	if err != nil {
		return fmt.Errorf("%s: spec.minReadySeconds: %w", manifest.RefOf(u), err)
	}
	if seconds > own {
		if err := unstructured.SetNestedField(u.Object, seconds, "spec", "minReadySeconds"); err != nil {
			return fmt.Errorf("%s: spec.minReadySeconds: %w", manifest.RefOf(u), err)
		}
		// The API server wants the deadline to be the longer of the two.
		deadline, set, err := unstructured.NestedInt64(u.Object, "spec", "progressDeadlineSeconds")
		if err != nil {
			return fmt.Errorf("%s: spec.progressDeadlineSeconds: %w", manifest.RefOf(u), err)
		}
		const kubernetesDefault = 600
		if !set {
			deadline = kubernetesDefault
		}
		if deadline <= seconds && u.GetKind() == "Deployment" {
			if err := unstructured.SetNestedField(u.Object, deadline+seconds, "spec", "progressDeadlineSeconds"); err != nil {
				return fmt.Errorf("%s: spec.progressDeadlineSeconds: %w", manifest.RefOf(u), err)
			}
		}
		borrow(u, annotationBake, s.bake.String())
	}
	if s.paused && u.GetKind() == "Deployment" {
		if err := unstructured.SetNestedField(u.Object, true, "spec", "paused"); err != nil {
			return fmt.Errorf("%s: spec.paused: %w", manifest.RefOf(u), err)
		}
	}
	return nil
}

// apply writes u by server-side apply and returns what the server made of it.
func (c *clients) apply(ctx context.Context, u *unstructured.Unstructured, manager string, force, dry bool) (*unstructured.Unstructured, error) {
	client, ref, err := c.resource(manifest.RefOf(u))
	if err != nil {
		return nil, err
	}
	if ref.Namespace != u.GetNamespace() {
		u = u.DeepCopy()
		u.SetNamespace(ref.Namespace)
	}
	body, err := json.Marshal(u)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", ref, err)
	}
	options := metav1.PatchOptions{FieldManager: manager, Force: &force, FieldValidation: metav1.FieldValidationStrict}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return client.Patch(ctx, ref.Name, types.ApplyPatchType, body, options)
}

// put applies one object for real, waiting for kinds and namespaces that the
// same release has just created.
func (c *clients) put(ctx context.Context, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	var written *unstructured.Unstructured
	ref := manifest.RefOf(u)
	started := time.Now()
	const settle = 20 * time.Second
	for {
		err := c.retry(ctx, fmt.Sprintf("applying %s", ref), func(ctx context.Context) (err error) {
			written, err = c.apply(ctx, u, FieldManager, true, false)
			return err
		})
		if err == nil {
			return written, nil
		}
		again := meta.IsNoMatchError(err) || apierrors.IsConflict(err) || (apierrors.IsNotFound(err) && ref.Namespace != "")
		if !again || time.Since(started) > settle {
			return nil, err
		}
		if meta.IsNoMatchError(err) {
			c.mapper.Reset()
		}
		if err := pause(ctx, retryFirst); err != nil {
			return nil, err
		}
	}
}

// get returns the live object, nil when there is none (or not even its kind).
func (c *clients) get(ctx context.Context, ref manifest.Ref) (*unstructured.Unstructured, error) {
	client, ref, err := c.resource(ref)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	var live *unstructured.Unstructured
	if err == nil {
		err = c.retry(ctx, fmt.Sprintf("reading %s", ref), func(ctx context.Context) (err error) {
			live, err = client.Get(ctx, ref.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				live, err = nil, nil
			}
			return err
		})
	}
	return live, err
}

func (c *clients) delete(ctx context.Context, ref manifest.Ref) error {
	client, ref, err := c.resource(ref)
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("deleting %s: %w", ref, err)
	}
	propagation := metav1.DeletePropagationBackground
	return c.retry(ctx, fmt.Sprintf("deleting %s", ref), func(ctx context.Context) error {
		err := client.Delete(ctx, ref.Name, metav1.DeleteOptions{PropagationPolicy: &propagation})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// errNotAccepted tells what is wrong with an object itself from what others hold of it.
var errNotAccepted = errors.New("the API server does not accept")

const nothingChanged = "; nothing was changed"

// finding is what a dry run found about one object.
type finding struct {
	// live is the object as it was; nil when it does not exist.
	live *unstructured.Unstructured
	// foreign tells that others made it and this release takes it over.
	foreign bool
	// managers are others who own fields of it.
	managers []string
}

// dryRun asks the API server about one object of a release. An object that is
// known to be the application's own is not read.
func (c *clients) dryRun(ctx context.Context, app string, u *unstructured.Unstructured, force, own bool) (_ finding, err error) {
	ref := manifest.RefOf(u)
	var live *unstructured.Unstructured
	if !own {
		if live, err = c.get(ctx, ref); err != nil {
			return finding{}, err
		}
	}
	f := finding{live: live}
	if live != nil {
		owner := live.GetLabels()[manifest.LabelApp]
		if owner != "" && owner != app {
			return f, fmt.Errorf("%w: %s belongs to the application %q; rename it, or take it out of that application first", ErrRejected, ref, owner)
		}
		f.foreign = owner == ""
		f.managers = otherManagers(live)
	}
	err = c.retry(ctx, fmt.Sprintf("trying %s", ref), func(ctx context.Context) error {
		_, err := c.apply(ctx, u, FieldManager, force || f.foreign, true)
		if ownConflict(err) {
			_, err = c.apply(ctx, u, FieldManager, true, true)
		}
		return err
	})
	switch {
	case err == nil:
		return f, nil
	case apierrors.IsConflict(err):
		return f, fmt.Errorf("%w: %s was changed by others since Tidegate applied it: %s; take the change into the manifests, or overwrite it with --force", ErrRejected, ref, conflicts(err))
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return f, fmt.Errorf("%w: %w %s: %s"+nothingChanged, ErrRejected, errNotAccepted, ref, reasonOf(err))
	}
	return f, err
}

// conflicts tells who holds which fields, from an apply conflict.
func conflicts(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return err.Error()
	}
	var parts []string
	for _, cause := range status.Status().Details.Causes {
		parts = append(parts, strings.TrimPrefix(cause.Message, "conflict ")+" at "+cause.Field)
	}
	const most = 5
	if len(parts) > most {
		parts = append(parts[:most], fmt.Sprintf("and %d more", len(parts)-most))
	}
	return strings.Join(parts, ", ")
}

func reasonOf(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return clipText(status.Status().Message)
	}
	return clipText(err.Error())
}

// clipText bounds text that goes into the record.
func clipText(s string) string { return clipTo(s, maxRecordText) }

// clipTo bounds a text to so many bytes, and a sign that there was more.
func clipTo(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// otherManagers lists who else owns fields, without controllers' status.
func otherManagers(u *unstructured.Unstructured) []string {
	var names []string
	for _, entry := range u.GetManagedFields() {
		if entry.Subresource == "" && entry.Manager != FieldManager && !slices.Contains(names, entry.Manager) {
			names = append(names, entry.Manager)
		}
	}
	return names
}

// ownsReplicas tells whether Tidegate is the only owner of spec.replicas.
func ownsReplicas(u *unstructured.Unstructured) bool {
	mine, others := false, false
	for _, entry := range u.GetManagedFields() {
		if entry.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Spec map[string]json.RawMessage `json:"f:spec"`
		}
		if json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
			continue
		}
		if _, ok := fields.Spec["f:replicas"]; ok {
			if entry.Manager == FieldManager && entry.Subresource == "" {
				mine = true
			} else {
				others = true
			}
		}
	}
	return mine && !others
}

// handOver lets scaleManager own the live number of replicas before Tidegate
// stops to.
func (c *clients) handOver(ctx context.Context, live *unstructured.Unstructured) error {
	replicas, found, err := unstructured.NestedInt64(live.Object, "spec", "replicas")
	if err != nil || !found {
		return err
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": live.GetAPIVersion(), "kind": live.GetKind(),
		"metadata": map[string]any{"name": live.GetName(), "namespace": live.GetNamespace()},
		"spec":     map[string]any{"replicas": replicas},
	}}
	return c.retry(ctx, fmt.Sprintf("leaving the replicas of %s to its autoscaler", manifest.RefOf(live)), func(ctx context.Context) error {
		_, err := c.apply(ctx, u, scaleManager, true, false)
		return err
	})
}

// adopted makes of a live object what a manifest would have said.
func adopted(live *unstructured.Unstructured) *unstructured.Unstructured {
	u := live.DeepCopy()
	delete(u.Object, "status")
	metadata, ok := u.Object["metadata"].(map[string]any)
	if !ok {
		return u // nothing that the API server gave, so nothing of it to drop
	}
	for _, key := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink", "ownerReferences"} {
		delete(metadata, key)
	}
	// A Deployment that stands still could not be gone back to.
	unstructured.RemoveNestedField(u.Object, "spec", "paused")
	annotations := u.GetAnnotations()
	delete(annotations, "deployment.kubernetes.io/revision")
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	delete(annotations, "deprecated.daemonset.template.generation")
	u.SetAnnotations(annotations)
	return u
}

// byHand are tools that people wrote an object with before Tidegate took it over.
var byHand = sets.New("kubectl-client-side-apply", "kubectl-create", "kubectl-replace", "kubectl-edit", "kubectl-patch",
	"kubectl-set", "kubectl-label", "kubectl-annotate", "helm")

// inherit makes Tidegate the owner of the fields that such tools set on an
// object which it takes over. Otherwise what the new manifest leaves out would
// stay for ever, since its old owner would still seem to want it.
func (c *clients) inherit(ctx context.Context, ref manifest.Ref) error {
	client, ref, err := c.resource(ref)
	if err != nil {
		return fmt.Errorf("taking over %s: %w", ref, err)
	}
	return c.retry(ctx, fmt.Sprintf("taking over %s", ref), func(ctx context.Context) error {
		for {
			live, err := client.Get(ctx, ref.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			patch, err := csaupgrade.UpgradeManagedFieldsPatch(live, byHand, FieldManager)
			if err != nil || patch == nil {
				return err
			}
			_, err = client.Patch(ctx, ref.Name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: FieldManager})
			if !apierrors.IsConflict(err) { // the patch is for the version that was read
				return err
			}
		}
	})
}
