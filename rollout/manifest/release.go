package manifest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"

	"github.com/klauspost/compress/gzip"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Release is what one deploy puts into an environment: every object, in the
// order of application, images pinned. It is immutable: methods that give out
// objects give copies.
type Release struct {
	// Digest identifies the content ("sha256:…"), independent of revision and application.
	Digest string
	// Objects are the objects without Tidegate's own labels and annotations.
	Objects []*unstructured.Unstructured
}

// Options says how a release is made from objects.
type Options struct {
	// Namespace is given to namespaced objects that name none.
	Namespace string
	// Images are the images that the run built; see Pin.
	Images map[string]string
	// Resolver finds digests of images that the run did not build; see Pin.
	Resolver Resolver
	// Fields are images outside pods; see Pin.
	Fields []ImageField
}

// clusterScoped lists built-in kinds without a namespace, so that rendering
// needs no cluster. Kinds of custom resources are corrected when they are
// applied, by asking the cluster.
var clusterScoped = map[string]bool{
	"Namespace": true, "CustomResourceDefinition": true, "ClusterRole": true, "ClusterRoleBinding": true,
	"PersistentVolume": true, "StorageClass": true, "PriorityClass": true, "IngressClass": true, "GatewayClass": true,
	"ValidatingWebhookConfiguration": true, "MutatingWebhookConfiguration": true, "APIService": true, "RuntimeClass": true,
	"ValidatingAdmissionPolicy": true, "ValidatingAdmissionPolicyBinding": true, "CSIDriver": true,
}

// New makes a release of objects, which it takes over.
func New(ctx context.Context, objects []*unstructured.Unstructured, options Options) (*Release, error) {
	for _, u := range objects {
		switch {
		case clusterScoped[u.GetKind()]:
			u.SetNamespace("")
		case u.GetNamespace() == "":
			u.SetNamespace(options.Namespace)
		}
	}
	seen := map[Ref]bool{}
	for _, u := range objects {
		ref := RefOf(u)
		if seen[ref] {
			return nil, fmt.Errorf("%s is in the manifests twice; keep one", ref)
		}
		seen[ref] = true
	}
	if err := Pin(ctx, objects, options.Images, options.Resolver, options.Fields...); err != nil {
		return nil, err
	}
	if err := Version(objects); err != nil {
		return nil, err
	}
	if _, err := Waves(objects); err != nil {
		return nil, err
	}
	return FromObjects(WithoutOrigin(objects...))
}

// FromObjects makes a release of objects as they are, sorted.
func FromObjects(objects []*unstructured.Unstructured) (*Release, error) {
	Sort(objects)
	encoded, err := json.Marshal(objects)
	if err != nil {
		return nil, fmt.Errorf("encoding the release: %w", err)
	}
	sum := sha256.Sum256(encoded)
	return &Release{Digest: "sha256:" + hex.EncodeToString(sum[:]), Objects: objects}, nil
}

// Refs names the objects in the order of application.
func (r *Release) Refs() []Ref {
	refs := make([]Ref, len(r.Objects))
	for i, u := range r.Objects {
		refs[i] = RefOf(u)
	}
	return refs
}

// Contains tells whether the release has the object.
func (r *Release) Contains(ref Ref) bool {
	for _, u := range r.Objects {
		if RefOf(u).Same(ref) {
			return true
		}
	}
	return false
}

// Find returns a copy of the object, nil when the release does not have it.
func (r *Release) Find(ref Ref) *unstructured.Unstructured {
	for _, u := range r.Objects {
		if RefOf(u).Same(ref) {
			return u.DeepCopy()
		}
	}
	return nil
}

// Stamped returns a copy of u with the marks of ownership.
func Stamped(u *unstructured.Unstructured, app string, revision int, digest string) *unstructured.Unstructured {
	u = u.DeepCopy()
	labels, annotations := u.GetLabels(), u.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	labels[LabelApp] = app
	annotations[AnnotationRevision] = strconv.Itoa(revision)
	annotations[AnnotationRelease] = digest
	u.SetLabels(labels)
	u.SetAnnotations(annotations)
	return u
}

// MaxEncodedBytes bounds a stored release: it must fit into one Secret.
const MaxEncodedBytes = 900 << 10

const maxDecodedBytes = 64 << 20

// Encode compresses the objects for storage.
func (r *Release) Encode() ([]byte, error) {
	encoded, err := json.Marshal(r.Objects)
	if err != nil {
		return nil, fmt.Errorf("encoding the release: %w", err)
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(encoded); err != nil {
		return nil, fmt.Errorf("compressing the release: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing the release: %w", err)
	}
	if out.Len() > MaxEncodedBytes {
		return nil, fmt.Errorf("the release is %d bytes compressed, more than the %d that its record in the cluster may have; split the application", out.Len(), MaxEncodedBytes)
	}
	return out.Bytes(), nil
}

// Decode is the reverse of Encode.
func Decode(encoded []byte) (*Release, error) {
	r, err := gzip.NewReader(bytes.NewReader(encoded))
	if err != nil {
		return nil, fmt.Errorf("reading a stored release: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(r, maxDecodedBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading a stored release: %w", err)
	}
	if len(content) > maxDecodedBytes {
		return nil, fmt.Errorf("reading a stored release: larger than %d bytes", maxDecodedBytes)
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(content, &raw); err != nil {
		return nil, fmt.Errorf("reading a stored release: %w", err)
	}
	objects := make([]*unstructured.Unstructured, len(raw))
	for i, item := range raw {
		objects[i] = &unstructured.Unstructured{}
		if err := objects[i].UnmarshalJSON(item); err != nil {
			return nil, fmt.Errorf("reading object %d of a stored release: %w", i, err)
		}
	}
	return FromObjects(objects)
}
