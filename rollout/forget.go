package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Forgotten is what was given back.
type Forgotten struct {
	Target
	// Revision is the one that was verified last; 0 when nothing was known.
	Revision int `json:"revision"`
	// Objects are those whose marks were taken off.
	Objects []manifest.Ref `json:"objects"`
	// Revisions counts the manifests that were deleted.
	Revisions int `json:"revisions"`
}

// Forget gives an application back: the record and the manifests of all revisions
// are deleted, and Tidegate's labels, annotations and ownership
// of fields are taken off the objects. Nothing that runs is changed, so that a
// pod template keeps the mark of a restart. An application that is not known
// gives an empty Forgotten. A rollout under way is refused (ErrRefused).
func (c *Controller) Forget(ctx context.Context, target Target, by string, progress func(Progress)) (Forgotten, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	done := Forgotten{Target: target}
	s := c.store(target)
	record, version, err := s.load(ctx)
	if err != nil {
		return done, err
	}
	command := Command{Kind: CommandForget, By: by}
	if version == "" { // one that was interrupted may have left the rest
		done.Revisions, err = s.deleteReleases(ctx)
		return done, err
	}
	if record.Current != nil {
		if _, _, err := idle(record, command); err != nil {
			return done, err
		}
	}
	d, err := c.own(ctx, s, nil, progress)
	if err != nil {
		return done, err
	}
	defer d.close()
	err = d.forget(ctx, &done, command)
	return done, err
}

// forget takes everything off. The record goes last, so that what was interrupted
// can be repeated.
func (d *driver) forget(ctx context.Context, done *Forgotten, command Command) error {
	if d.record.Current != nil {
		if _, _, err := idle(d.record, command); err != nil {
			return err
		}
	}
	done.Revision = d.record.Verified
	for _, ref := range d.record.Inventory {
		if err := d.mayWrite(ctx); err != nil {
			return err
		}
		live, err := d.unmark(ctx, ref)
		if err != nil {
			return err
		}
		if live == nil {
			continue
		}
		done.Objects = append(done.Objects, ref)
		if manifest.IsWorkload(ref) {
			d.recordForgotten(ctx, live, command.By)
		}
	}
	var err error
	if done.Revisions, err = d.deleteReleases(ctx); err != nil {
		return err
	}
	return d.deleteRecord(ctx)
}

func (d *driver) deleteRecord(ctx context.Context) error {
	err := d.retry(ctx, "deleting the record of "+d.app, func(ctx context.Context) error {
		return ignoreNotFound(d.kube.CoreV1().ConfigMaps(d.namespace).Delete(ctx, d.name(), metav1.DeleteOptions{}))
	})
	if err == nil {
		d.version = ""
	}
	return err
}

// unmark takes Tidegate's marks off one object and returns it as it was; nil
// when it is not this application's.
func (d *driver) unmark(ctx context.Context, ref manifest.Ref) (*unstructured.Unstructured, error) {
	for {
		live, err := d.get(ctx, ref)
		if err != nil || live == nil || live.GetLabels()[manifest.LabelApp] != d.app {
			return nil, err
		}
		client, ref, err := d.resource(ref)
		if err != nil {
			return nil, fmt.Errorf("giving %s back: %w", ref, err)
		}
		patch, err := unmarkPatch(live)
		if err != nil {
			return nil, fmt.Errorf("giving %s back: %w", ref, err)
		}
		err = d.retry(ctx, fmt.Sprintf("giving %s back", ref), func(ctx context.Context) error {
			_, err := client.Patch(ctx, ref.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager})
			return ignoreNotFound(err)
		})
		if isConflict(err) {
			continue // changed since it was read
		}
		return live, err
	}
}

// marks are Tidegate's labels and annotations on objects.
var marks = struct{ labels, annotations []string }{
	labels:      []string{manifest.LabelApp, manifest.LabelTrack},
	annotations: []string{manifest.AnnotationRevision, manifest.AnnotationRelease, manifest.AnnotationBaseName, annotationBake},
}

// unmarkPatch is a merge patch for exactly the version that live is. Ownership
// of fields is given up too: whoever applies next meets no conflict.
func unmarkPatch(live *unstructured.Unstructured) ([]byte, error) {
	owners := slices.DeleteFunc(slices.Clone(live.GetManagedFields()), func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == FieldManager || m.Manager == scaleManager
	})
	if len(owners) == 0 {
		// An empty list would mean no change. See
		// https://kubernetes.io/docs/reference/using-api/server-side-apply/#clearing-managedfields.
		owners = []metav1.ManagedFieldsEntry{{}}
	}
	none := func(keys []string, present map[string]string) map[string]any {
		remove := map[string]any{}
		for _, key := range keys {
			if _, ok := present[key]; ok {
				remove[key] = nil
			}
		}
		return remove
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": live.GetResourceVersion(),
		"labels":          none(marks.labels, live.GetLabels()),
		"annotations":     none(marks.annotations, live.GetAnnotations()),
		"managedFields":   owners,
	}})
}

// recordForgotten leaves an event at a workload, since the history that would
// say who asked is deleted. Without the right to, there is none.
func (d *driver) recordForgotten(ctx context.Context, live *unstructured.Unstructured, by string) {
	now := metav1.NewTime(d.clock())
	_, err := d.kube.CoreV1().Events(d.namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "tidegate-" + d.app + "-", Namespace: d.namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: live.GetAPIVersion(), Kind: live.GetKind(), Namespace: live.GetNamespace(), Name: live.GetName(), UID: live.GetUID()},
		Reason:         "Forgotten", Type: corev1.EventTypeNormal, Source: corev1.EventSource{Component: FieldManager},
		Message:        fmt.Sprintf("%s made Tidegate forget the application %s at revision %d; it runs on as it is", orUnknown(clipText(by)), d.app, d.record.Verified),
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{FieldManager: FieldManager})
	if err != nil {
		d.log.Info("no event says who asked to forget", zap.String("app", d.app), zap.Error(err))
	}
}

// deleteReleases deletes the manifests of all revisions and counts them.
func (s *store) deleteReleases(ctx context.Context) (deleted int, err error) {
	gone := map[string]bool{}
	err = s.retry(ctx, "deleting the manifests of "+s.app, func(ctx context.Context) error {
		secrets, err := s.kube.CoreV1().Secrets(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: manifest.LabelApp + "=" + s.app + "," + labelRecord + "=true"})
		if err != nil {
			return err
		}
		for _, secret := range secrets.Items {
			if secret.Type != releaseSecret {
				continue
			}
			if err := ignoreNotFound(s.kube.CoreV1().Secrets(s.namespace).Delete(ctx, secret.Name, metav1.DeleteOptions{})); err != nil {
				return err
			}
			gone[secret.Name] = true
		}
		return nil
	})
	return len(gone), err
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
