package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

const (
	namePrefix  = "tidegate-"
	labelRecord = "tidegate.dev/record"
	// labelLive marks the records of rollouts that someone drives or a command
	// waits in, so that those of idle applications need not be watched.
	labelLive     = "tidegate.dev/live"
	recordKey     = "record.json"
	manifestsKey  = "manifests.json.gz"
	jobsKey       = "jobs.json.gz"
	releaseSecret = corev1.SecretType("tidegate.dev/release")
	// maxRecordBytes is what a ConfigMap may hold, less some room.
	maxRecordBytes = 1000 << 10
)

// store keeps the record of one application in its namespace. Writes are
// checked by resourceVersion: of two writers, one is told.
type store struct {
	*clients
	app, namespace string
	// sighting is what is known of the lease of the application's owner.
	sighting sighting
}

func (s *store) name() string { return namePrefix + s.app }

func (s *store) releaseName(revision int) string {
	return fmt.Sprintf("%s%s-r%d", namePrefix, s.app, revision)
}

// load returns the record and its version; a new record and "" when there is none.
func (s *store) load(ctx context.Context) (*Record, string, error) {
	record, version := &Record{App: s.app, Namespace: s.namespace}, ""
	err := s.retry(ctx, "reading the record of "+s.app, func(ctx context.Context) error {
		object, err := s.kube.CoreV1().ConfigMaps(s.namespace).Get(ctx, s.name(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		version = object.ResourceVersion
		record, err = decodeRecord(object)
		return err
	})
	return record, version, err
}

func decodeRecord(object *corev1.ConfigMap) (*Record, error) {
	record := &Record{}
	if err := json.Unmarshal([]byte(object.Data[recordKey]), record); err != nil {
		return nil, fmt.Errorf("%w: the record in ConfigMap %s/%s is damaged: %w", ErrInvalid, object.Namespace, object.Name, err)
	}
	return record, nil
}

// save writes the record if nobody else has since version, and returns the new
// version. A conflict is an error that apierrors.IsConflict knows.
func (s *store) save(ctx context.Context, record *Record, version string) (string, error) {
	encoded, err := json.MarshalIndent(record, "", " ")
	if err != nil {
		return "", fmt.Errorf("encoding the record of %s: %w", s.app, err)
	}
	if len(encoded) > maxRecordBytes {
		return "", fmt.Errorf("the record of %s is %d bytes, more than the %d that fit", s.app, len(encoded), maxRecordBytes)
	}
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: s.name(), Namespace: s.namespace, ResourceVersion: version,
			Labels: map[string]string{manifest.LabelApp: s.app, labelRecord: "true"}},
		Data: map[string]string{recordKey: string(encoded)},
	}
	if record.Live() || record.Command != nil {
		object.Labels[labelLive] = "true"
	}
	options := metav1.UpdateOptions{FieldManager: FieldManager}
	var written *corev1.ConfigMap
	// Not retried here on a lost connection: the write may have happened, and
	// the caller must look before it writes again.
	if version == "" {
		written, err = s.kube.CoreV1().ConfigMaps(s.namespace).Create(ctx, object, metav1.CreateOptions{FieldManager: FieldManager})
	} else {
		written, err = s.kube.CoreV1().ConfigMaps(s.namespace).Update(ctx, object, options)
	}
	if err != nil {
		return "", err
	}
	return written.ResourceVersion, nil
}

// command puts a command into the record for the owner.
func (s *store) command(ctx context.Context, command Command) error {
	return s.retry(ctx, fmt.Sprintf("asking the owner of %s to %s", s.app, command.Kind), func(ctx context.Context) error {
		for {
			record, version, err := s.load(ctx)
			if err != nil {
				return err
			}
			if record.Command != nil && record.Command.ID == command.ID || record.Reply != nil && record.Reply.ID == command.ID {
				return nil
			}
			if record.Command != nil {
				return fmt.Errorf("%w: a %s asked for by %s waits for an answer; try again in a moment", ErrRefused, record.Command.Kind, orUnknown(record.Command.By))
			}
			record.Command = &command
			if _, err := s.save(ctx, record, version); !apierrors.IsConflict(err) {
				return err
			}
		}
	})
}

// putRelease stores the manifests of a revision. They may hold Secrets, so a
// Secret holds them. With replace, what a process left that died before it
// recorded the revision is replaced; otherwise it is an error that
// apierrors.IsAlreadyExists knows.
func (s *store) putRelease(ctx context.Context, revision int, release *manifest.Release, jobs map[string]*unstructured.Unstructured, replace bool) error {
	encoded, err := release.Encode()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	data := map[string][]byte{manifestsKey: encoded}
	if len(jobs) > 0 {
		if data[jobsKey], err = encodeJobs(jobs); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	immutable := true
	object := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: s.releaseName(revision), Namespace: s.namespace,
			Labels:      map[string]string{manifest.LabelApp: s.app, labelRecord: "true"},
			Annotations: map[string]string{manifest.AnnotationRevision: strconv.Itoa(revision), manifest.AnnotationRelease: release.Digest}},
		Type: releaseSecret, Immutable: &immutable, Data: data,
	}
	return s.retry(ctx, fmt.Sprintf("storing the manifests of revision %d", revision), func(ctx context.Context) error {
		_, err := s.kube.CoreV1().Secrets(s.namespace).Create(ctx, object, metav1.CreateOptions{FieldManager: FieldManager})
		if !apierrors.IsAlreadyExists(err) || !replace {
			return err
		}
		if err := s.kube.CoreV1().Secrets(s.namespace).Delete(ctx, object.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		_, err = s.kube.CoreV1().Secrets(s.namespace).Create(ctx, object, metav1.CreateOptions{FieldManager: FieldManager})
		return err
	})
}

func (s *store) release(ctx context.Context, revision int) (*manifest.Release, error) {
	release, _, err := s.releaseWithJobs(ctx, revision)
	return release, err
}

// releaseWithJobs returns the Jobs of the revision's gates and hooks too.
func (s *store) releaseWithJobs(ctx context.Context, revision int) (release *manifest.Release, jobs map[string]*unstructured.Unstructured, _ error) {
	err := s.retry(ctx, fmt.Sprintf("reading the manifests of revision %d", revision), func(ctx context.Context) error {
		object, err := s.kube.CoreV1().Secrets(s.namespace).Get(ctx, s.releaseName(revision), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("%w: the manifests of revision %d are not kept any more", ErrNotFound, revision)
		}
		if err != nil {
			return err
		}
		if release, err = manifest.Decode(object.Data[manifestsKey]); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if jobs, err = decodeJobs(object.Data[jobsKey]); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return nil
	})
	return release, jobs, err
}

// pruneReleases deletes the manifests of revisions that the record has just
// forgotten; and now and then looks for those that a process left which died
// before it could.
func (s *store) pruneReleases(ctx context.Context, record *Record, gone []int) error {
	if record.Revisions%MaxHistory != 0 {
		for _, revision := range gone {
			err := s.retry(ctx, fmt.Sprintf("deleting the manifests of revision %d", revision), func(ctx context.Context) error {
				return ignoreNotFound(s.kube.CoreV1().Secrets(s.namespace).Delete(ctx, s.releaseName(revision), metav1.DeleteOptions{}))
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	return s.retry(ctx, "deleting manifests of old revisions", func(ctx context.Context) error {
		secrets, err := s.kube.CoreV1().Secrets(s.namespace).List(ctx, metav1.ListOptions{
			LabelSelector: manifest.LabelApp + "=" + s.app + "," + labelRecord + "=true", ResourceVersion: "0"})
		if err != nil {
			return err
		}
		prefix := s.name() + "-r"
		for _, secret := range secrets.Items {
			revision, err := strconv.Atoi(strings.TrimPrefix(secret.Name, prefix))
			if err != nil || secret.Type != releaseSecret || record.Revision(revision) != nil || revision > record.Revisions {
				continue
			}
			err = s.kube.CoreV1().Secrets(s.namespace).Delete(ctx, secret.Name, metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return nil
	})
}
