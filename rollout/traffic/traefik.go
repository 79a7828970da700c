package traffic

import (
	"errors"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// traefikServices are Traefik's weighted round robins, to which IngressRoutes send.
// See https://doc.traefik.io/traefik/reference/routing-configuration/kubernetes/crd/http/traefikservice/.
type traefikServices struct{ rules }

var traefikServiceRules = rules{
	path: []string{"spec", "weighted", "services"},
	service: func(route *unstructured.Unstructured, backend map[string]any) string {
		name, _ := backend["name"].(string)
		if unset(backend, "kind", "Service") && unset(backend, "namespace", route.GetNamespace()) {
			return name
		}
		return ""
	},
	rename: func(backend map[string]any, _, to string) { backend["name"] = to },
}

func (traefikServices) Kinds() []schema.GroupVersionKind {
	return []schema.GroupVersionKind{{Group: "traefik.io", Version: "v1alpha1", Kind: "TraefikService"}}
}

func (traefikServices) Can(s Split) error {
	if s.Match != nil {
		return errors.New("a TraefikService can't pick requests by header or cookie: it has weights alone")
	}
	return nil
}

func (traefikServices) Reported(*unstructured.Unstructured) Reported {
	return Reported{Taken: true, Silent: true}
}
