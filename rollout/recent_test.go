package rollout

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestWhatIsRememberedIsBounded(t *testing.T) {
	r := &recent{known: map[Target]*remembered{}}
	target := func(i int) Target { return Target{App: fmt.Sprint(i), Namespace: "x"} }
	for i := range 3 * maxRecent {
		r.put(target(i), &remembered{bytes: 100})
	}
	require.Len(t, r.known, maxRecent)
	require.Len(t, r.order, maxRecent)
	require.Nil(t, r.take(target(0)), "the oldest goes first")
	require.NotNil(t, r.take(target(3*maxRecent-1)))
	require.Nil(t, r.take(target(3*maxRecent-1)), "it is taken once")
	for i := range 100 {
		r.put(target(i), &remembered{bytes: maxRecentBytes / 10})
	}
	require.LessOrEqual(t, r.bytes, maxRecentBytes)
	require.Len(t, r.known, 10)
	r.put(target(7), &remembered{bytes: maxRecentBytes})
	require.Nil(t, r.take(target(7)), "one is larger than its share")
	for _, known := range r.known {
		require.NotNil(t, known)
	}
}

// ownedOnce makes a controller whose cluster holds an application with a
// verified revision, that this process owned and gave up.
func ownedOnce(t *testing.T) (*Controller, *store, *fake.Clientset) {
	t.Helper()
	kube := fake.NewClientset()
	versioned(kube)
	c := process(kube)
	s := c.store(shop)
	d, err := c.own(t.Context(), s, nil, func(Progress) {})
	require.NoError(t, err)
	d.record.Revisions, d.record.Verified, d.record.Stable = 1, 1, 1
	d.record.Current = &Rollout{Revision: 1, Digest: "d1", State: Verified}
	d.record.finish()
	require.NoError(t, d.save(t.Context()))
	d.close()
	kube.ClearActions()
	return c, s, kube
}

func TestTheLastOwnerReadsNothingAgain(t *testing.T) {
	c, s, kube := ownedOnce(t)
	d := c.ownAgain(t.Context(), s, func(Progress) {})
	require.NotNil(t, d)
	require.Equal(t, 1, d.record.Verified)
	require.EqualValues(t, 2, d.record.Fence)
	for _, action := range kube.Actions() {
		require.NotEqual(t, "get", action.GetVerb(), "%v", action)
	}
	d.record.Revisions = 2
	require.NoError(t, d.save(t.Context()))
	d.close()
	record, _, err := s.load(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, record.Revisions)
	require.EqualValues(t, 2, record.Fence)
}

func TestWhatOthersDidIsNotForgotten(t *testing.T) {
	for name, change := range map[string]func(context.Context, *fake.Clientset, *corev1.ConfigMap) error{
		"the record was deleted": func(ctx context.Context, kube *fake.Clientset, record *corev1.ConfigMap) error {
			return kube.CoreV1().ConfigMaps("x").Delete(ctx, record.Name, metav1.DeleteOptions{})
		},
		"another process owned it": func(ctx context.Context, kube *fake.Clientset, _ *corev1.ConfigMap) error {
			c := process(kube)
			d, err := c.own(ctx, c.store(shop), nil, func(Progress) {})
			if err == nil {
				d.close()
			}
			return err
		},
		"another process owns it": func(ctx context.Context, kube *fake.Clientset, _ *corev1.ConfigMap) error {
			c := process(kube)
			_, err := c.own(ctx, c.store(shop), nil, func(Progress) {})
			return err
		},
		"the record was changed": func(ctx context.Context, kube *fake.Clientset, record *corev1.ConfigMap) error {
			_, err := kube.CoreV1().ConfigMaps("x").Update(ctx, record, metav1.UpdateOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, s, kube := ownedOnce(t)
			record, err := kube.CoreV1().ConfigMaps("x").Get(t.Context(), s.name(), metav1.GetOptions{})
			require.NoError(t, err)
			require.NoError(t, change(t.Context(), kube, record))
			d := c.ownAgain(t.Context(), s, func(Progress) {})
			require.NotNil(t, d, "only a write can tell")
			err = d.save(t.Context())
			require.ErrorIs(t, err, errForgotten)
			require.ErrorIs(t, err, ErrLost, "and nothing is made of it")
			d.close()
			require.Nil(t, c.ownAgain(t.Context(), s, func(Progress) {}), "once is enough")
		})
	}
}
