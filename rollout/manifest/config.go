package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const versionLength = 10 // hex digits of the content's hash in a name

// Version gives every ConfigMap and Secret that pods of the set use a name made
// from its content and rewrites the references, so that a pod template names
// exactly the configuration it was released with: config and image go forward
// and come back together. An object that is used by name outside pods (an
// Ingress's TLS secret), is used by nothing in the set, or says
// tidegate.dev/versioned: "false" keeps its name.
func Version(objects []*unstructured.Unstructured) error {
	used := map[Ref]bool{}
	for _, u := range objects {
		if err := references(u, func(kind, name string) string {
			used[Ref{APIVersion: "v1", Kind: kind, Namespace: u.GetNamespace(), Name: name}] = true
			return name
		}); err != nil {
			return err
		}
	}
	for _, u := range objects {
		for _, name := range ingressSecrets(u) {
			delete(used, Ref{APIVersion: "v1", Kind: "Secret", Namespace: u.GetNamespace(), Name: name})
		}
	}
	renamed := map[Ref]string{}
	for _, u := range objects {
		ref := RefOf(u)
		if !used[ref] || u.GetAnnotations()[AnnotationVersioned] == "false" {
			continue
		}
		suffix, err := contentHash(u)
		if err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
		name := ref.Name + "-" + suffix
		annotations := u.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[AnnotationBaseName] = ref.Name
		u.SetAnnotations(annotations)
		u.SetName(name)
		renamed[ref] = name
	}
	for _, u := range objects {
		if err := references(u, func(kind, name string) string {
			if to, ok := renamed[Ref{APIVersion: "v1", Kind: kind, Namespace: u.GetNamespace(), Name: name}]; ok {
				return to
			}
			return name
		}); err != nil {
			return err
		}
	}
	return nil
}

// IsVersioned tells whether u got its name from its content.
func IsVersioned(u *unstructured.Unstructured) bool {
	return u.GetAnnotations()[AnnotationBaseName] != ""
}

func contentHash(u *unstructured.Unstructured) (string, error) {
	content := map[string]any{}
	for _, key := range []string{"data", "binaryData", "stringData", "type", "immutable"} {
		if value, ok := u.Object[key]; ok {
			content[key] = value
		}
	}
	encoded, err := json.Marshal(content) // map keys come out sorted
	if err != nil {
		return "", fmt.Errorf("hashing its content: %w", err)
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:])[:versionLength], nil
}

// references calls replace for every name of a ConfigMap or Secret that the
// pods of u use, and writes back what it returns.
func references(u *unstructured.Unstructured, replace func(kind, name string) string) error {
	spec, err := podSpec(u)
	if err != nil || spec == nil {
		return err
	}
	rewrite := func(holder map[string]any, key, kind string) {
		if name := text(holder, key); name != "" {
			if to := replace(kind, name); to != name {
				holder[key] = to
			}
		}
	}
	volume := func(v map[string]any) error { //nolint:unparam // it has the signature that mappings wants
		if source := mapping(v, "configMap"); source != nil {
			rewrite(source, "name", "ConfigMap")
		}
		if source := mapping(v, "secret"); source != nil {
			rewrite(source, "secretName", "Secret") // a volume
			rewrite(source, "name", "Secret")       // a source of a projected volume
		}
		return nil
	}
	if err := mappings(spec, "volumes", func(v map[string]any) error {
		if projected := mapping(v, "projected"); projected != nil {
			if err := mappings(projected, "sources", volume); err != nil {
				return err
			}
		}
		return volume(v)
	}); err != nil {
		return err
	}
	if err := mappings(spec, "imagePullSecrets", func(secret map[string]any) error {
		rewrite(secret, "name", "Secret")
		return nil
	}); err != nil {
		return err
	}
	container := func(c map[string]any) error {
		if err := mappings(c, "envFrom", func(source map[string]any) error {
			if ref := mapping(source, "configMapRef"); ref != nil {
				rewrite(ref, "name", "ConfigMap")
			}
			if ref := mapping(source, "secretRef"); ref != nil {
				rewrite(ref, "name", "Secret")
			}
			return nil
		}); err != nil {
			return err
		}
		return mappings(c, "env", func(env map[string]any) error {
			from := mapping(env, "valueFrom")
			if ref := mapping(from, "configMapKeyRef"); ref != nil {
				rewrite(ref, "name", "ConfigMap")
			}
			if ref := mapping(from, "secretKeyRef"); ref != nil {
				rewrite(ref, "name", "Secret")
			}
			return nil
		})
	}
	for _, key := range []string{"initContainers", "containers", "ephemeralContainers"} {
		if err := mappings(spec, key, container); err != nil {
			return err
		}
	}
	return nil
}

func ingressSecrets(u *unstructured.Unstructured) []string {
	if u.GetKind() != "Ingress" {
		return nil
	}
	var names []string
	spec := mapping(u.Object, "spec")
	_ = mappings(spec, "tls", func(tls map[string]any) error {
		names = append(names, text(tls, "secretName"))
		return nil
	})
	return names
}
