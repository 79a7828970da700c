package rollout

import (
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

func TestEstablished(t *testing.T) {
	for name, c := range map[string]struct {
		status any
		done   bool
		says   string
	}{
		"just written": {nil, false, "no status yet"},
		"established":  {[]any{map[string]any{"type": "NamesAccepted", "status": "True"}, map[string]any{"type": "Established", "status": "True"}}, true, ""},
		"not yet":      {[]any{map[string]any{"type": "Established", "status": "False", "message": "wait"}}, false, "wait"},
		"names taken":  {[]any{map[string]any{"type": "NamesAccepted", "status": "False", "message": "Shop is taken"}}, false, "Shop is taken"},
		"no list":      {"x", false, "cannot be read"},
	} {
		u := &unstructured.Unstructured{Object: map[string]any{}}
		if c.status != nil {
			u.Object["status"] = map[string]any{"conditions": c.status}
		}
		done, why := established(u)
		require.Equal(t, c.done, done, name)
		require.Contains(t, why, c.says, name)
	}
}

func TestBroughtBy(t *testing.T) {
	release := releaseOf(t, `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: databases.example.com}
spec: {group: example.com, names: {kind: Database}}
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
`)
	b := broughtBy(release)
	require.True(t, b.namespaces["other"])
	require.True(t, b.kind(manifest.Ref{APIVersion: "example.com/v2", Kind: "Database"}))
	require.False(t, b.kind(manifest.Ref{APIVersion: "example.com/v1", Kind: "Cache"}))
}

// Whoever holds a field is named, with the field.
func TestConflictsNameTheOtherManager(t *testing.T) {
	err := apierrors.NewApplyConflict([]metav1.StatusCause{
		{Type: metav1.CauseTypeFieldManagerConflict, Message: `conflict with "kubectl-edit" using apps/v1`, Field: ".spec.replicas"},
		{Type: metav1.CauseTypeFieldManagerConflict, Message: `conflict with "argocd-controller" using apps/v1`, Field: `.spec.template.spec.containers[name="shop"].image`},
	}, "Apply failed with 2 conflicts")
	text := conflicts(err)
	require.Equal(t, `with "kubectl-edit" using apps/v1 at .spec.replicas, with "argocd-controller" using apps/v1 at .spec.template.spec.containers[name="shop"].image`, text)
	var many []metav1.StatusCause
	for range 7 {
		many = append(many, metav1.StatusCause{Message: `conflict with "x" using v1`, Field: ".data"})
	}
	require.Contains(t, conflicts(apierrors.NewApplyConflict(many, "x")), "and 2 more")
}
