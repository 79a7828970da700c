package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
	"github.com/tidegate-ci/tidegate/rollout/traffic"
)

// trafficManager owns the weights in routes. It writes the live object as it
// is, but for our backends: what others changed since the release was applied
// stays, and a change that comes between is a conflict, after which it looks again.
const trafficManager = "tidegate-traffic"

// setSplit shares out the requests of a route. It is one write.
func (d *driver) setSplit(ctx context.Context, l *LiveRoute, s traffic.Split, dry bool) error {
	err := d.retry(ctx, fmt.Sprintf("setting the weights of %s", l.Route), func(ctx context.Context) error {
		for {
			held, err := d.holder(ctx, l)
			if err != nil {
				return err
			}
			u, err := d.splitOf(l, held, s, func(ref manifest.Ref) (*unstructured.Unstructured, error) { return d.get(ctx, ref) })
			if err != nil {
				return err
			}
			written, err := d.writeHolder(ctx, held, u, dry)
			if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
				continue
			}
			if s.None() && apierrors.IsNotFound(err) {
				written, err = nil, nil // someone deleted it just now
			}
			if err == nil && !dry {
				d.watch.wroteRoute(l.holder(), held, written)
			}
			return err
		}
	})
	if err != nil {
		return err
	}
	if !dry {
		l.Told, l.Written = s, true
	}
	return nil
}

// holder reads what the split is written to; nil when it does not exist.
func (s *store) holder(ctx context.Context, l *LiveRoute) (*unstructured.Unstructured, error) {
	held, err := s.get(ctx, l.holder())
	if err != nil {
		return nil, err
	}
	if held != nil && l.own() && held.GetLabels()[manifest.LabelApp] != s.app {
		return nil, fmt.Errorf("%w: there is a %s, which Tidegate did not make; rename it: the canary of %s needs the name", ErrRejected, l.holder(), l.Route)
	}
	return held, nil
}

// splitOf makes what the holder becomes; nil when it is to be deleted, or there
// is nothing to be taken out of. get reads an object, nil when there is none.
func (s *store) splitOf(l *LiveRoute, held *unstructured.Unstructured, split traffic.Split, get func(manifest.Ref) (*unstructured.Unstructured, error)) (*unstructured.Unstructured, error) {
	if split.None() {
		if held == nil {
			return nil, nil
		}
		return l.router().Clear(held, l.backends())
	}
	route := held
	if l.own() {
		var err error
		if route, err = get(l.Route); err != nil {
			return nil, err
		}
	}
	if route == nil {
		return nil, fmt.Errorf("%s does not exist", l.Route)
	}
	u, err := l.router().Split(route, held, l.backends(), split)
	if err != nil || !l.own() {
		return u, err
	}
	u.SetLabels(map[string]string{manifest.LabelApp: s.app, manifest.LabelTrack: string(CanaryTrack)})
	if held != nil {
		u.SetResourceVersion(held.GetResourceVersion())
	}
	return u, nil
}

// writeHolder changes held into u: creates it, updates it, or deletes it.
func (s *store) writeHolder(ctx context.Context, held, u *unstructured.Unstructured, dry bool) (*unstructured.Unstructured, error) {
	if held == nil && u == nil || held != nil && u != nil && equality.Semantic.DeepEqual(held.Object, u.Object) {
		return held, nil
	}
	of := u
	if of == nil {
		of = held
	}
	client, ref, err := s.resource(manifest.RefOf(of))
	if err != nil {
		return nil, err
	}
	var dryRun []string
	if dry {
		dryRun = []string{metav1.DryRunAll}
	}
	switch {
	case u == nil:
		uid, version := held.GetUID(), held.GetResourceVersion()
		err := client.Delete(ctx, ref.Name, metav1.DeleteOptions{DryRun: dryRun, Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
		return nil, ignoreNotFound(err)
	case held == nil:
		return client.Create(ctx, u, metav1.CreateOptions{FieldManager: trafficManager, FieldValidation: metav1.FieldValidationStrict, DryRun: dryRun})
	}
	return client.Update(ctx, u, metav1.UpdateOptions{FieldManager: trafficManager, FieldValidation: metav1.FieldValidationStrict, DryRun: dryRun})
}

// tryRoutes asks the API server whether it would take the weights, and makes
// sure that no one else's object has a name that is needed.
func (d *driver) tryRoutes(ctx context.Context, r *Rollout) error {
	for i := range r.Routes {
		l := &r.Routes[i]
		err := d.setSplit(ctx, l, r.Strategy.split(r.Strategy.Steps[0]), true)
		switch {
		case err == nil:
		case apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsNotFound(err):
			return fmt.Errorf("%w: the API server does not accept weights in %s: %s; nothing was changed", ErrRejected, l.Route, reasonOf(err))
		default:
			return err
		}
	}
	return nil
}

// weave puts the split that a live route has into the manifest of the route, so
// that applying the release does not take it away.
func weave(u *unstructured.Unstructured, l *LiveRoute, split traffic.Split) error {
	if l.own() || split.None() {
		return nil
	}
	woven, err := l.router().Split(u, nil, l.backends(), split)
	if err != nil {
		return err
	}
	u.Object = woven.Object
	return nil
}

// arranged makes the manifest of an object what the rollout has made of the live
// one for its time: that is no drift.
func (r *Rollout) arranged(u, live *unstructured.Unstructured) error {
	if r == nil || r.State.Final() {
		return nil
	}
	ref := manifest.RefOf(u)
	if l := r.routeAt(ref); l != nil {
		return weave(u, l, l.router().Read(live, l.backends()).Split)
	}
	if r.switches(ref) {
		selector, _, err := unstructured.NestedStringMap(live.Object, "spec", "selector")
		if err != nil {
			return fmt.Errorf("%s: spec.selector: %w", ref, err)
		}
		to, hash := pointing(selector)
		return aim(u, to, hash)
	}
	return nil
}

// routeAt finds the route of the rollout whose manifest ref is; nil for others.
func (r *Rollout) routeAt(ref manifest.Ref) *LiveRoute {
	return r.routeOf(func(l *LiveRoute) bool { return l.Route.Same(ref) })
}

// ownConflict tells whether all that an apply conflicts with is our own weights.
func ownConflict(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsConflict(err) || !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	causes := status.Status().Details.Causes
	for _, cause := range causes {
		if cause.Type != metav1.CauseTypeFieldManagerConflict || !strings.HasPrefix(cause.Message, `conflict with "`+trafficManager+`"`) {
			return false
		}
	}
	return len(causes) > 0
}
