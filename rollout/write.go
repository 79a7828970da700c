package rollout

import (
	"context"
	"slices"

	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// intend adds the release's objects to the inventory before any is written.
func (d *driver) intend() {
	for _, ref := range d.release.Refs() {
		known := false
		for _, have := range d.record.Inventory {
			known = known || have.Same(ref)
		}
		if !known {
			d.record.Inventory = append(d.record.Inventory, ref)
		}
	}
}

// applySet writes the objects of release that which accepts (all, when nil), in order.
func (d *driver) applySet(ctx context.Context, release *manifest.Release, revision int, s settings, which func(manifest.Ref) bool) error {
	var definitions []manifest.Ref
	for _, object := range release.Objects {
		ref := manifest.RefOf(object)
		if which != nil && !which(ref) {
			continue
		}
		if isDefinition(ref) {
			definitions = append(definitions, ref)
		} else if definitions != nil {
			if err := d.define(ctx, definitions, release, revision, which); err != nil {
				return err
			}
			definitions = nil
		}
		if err := d.mayWrite(ctx); err != nil {
			return err
		}
		if slices.ContainsFunc(d.record.Current.TakenOver, ref.Same) {
			if err := d.inherit(ctx, ref); err != nil {
				return err
			}
		}
		u := manifest.Stamped(object, d.app, revision, release.Digest)
		if manifest.IsWorkload(ref) {
			own := d.record.Current.ownSettings(ref, s)
			own.restarted = d.record.restartedAt(revision)
			if err := d.applyWorkload(ctx, u, own, d.watch.scaled(ref, release)); err != nil {
				return err
			}
			continue
		}
		if d.record.Current.switches(ref) {
			if err := aim(u, s.points, ""); err != nil {
				return err
			}
		}
		if l := d.record.Current.routeAt(ref); l != nil {
			if err := weave(u, l, d.watch.splitNow(l)); err != nil {
				return err
			}
		}
		written, err := d.put(ctx, u)
		if err != nil {
			return err
		}
		d.watch.wrote(written)
	}
	if definitions != nil {
		return d.define(ctx, definitions, release, revision, which)
	}
	return nil
}

func (d *driver) applyWorkload(ctx context.Context, u *unstructured.Unstructured, s settings, scaled bool) error {
	s.scaled = scaled
	if scaled {
		live, err := d.get(ctx, manifest.RefOf(u))
		if err != nil {
			return err
		}
		if live != nil && ownsReplicas(live) {
			if err := d.handOver(ctx, live); err != nil {
				return err
			}
		}
	}
	if err := shape(u, s); err != nil {
		return err
	}
	written, err := d.put(ctx, u)
	if err != nil {
		return err
	}
	d.watch.wrote(written)
	return nil
}

// annotationPolicy set to keep is how charts ask for an object to outlive them:
// https://helm.sh/docs/howto/charts_tips_and_tricks/#tell-helm-not-to-uninstall-a-resource.
const annotationPolicy = "helm.sh/resource-policy"

// kept lists kinds that pruning leaves alone: deleting one deletes data, or
// everything of others inside it.
var kept = map[string]bool{"Namespace": true, "CustomResourceDefinition": true, "PersistentVolumeClaim": true, "PersistentVolume": true}

// prune deletes what Tidegate applied and neither the serving release nor the
// one before it needs: the one before keeps its configuration, since
// ReplicaSets that may be asked back by hand name it. What cannot be deleted
// now stays in the inventory for the next time.
func (d *driver) prune(ctx context.Context) error {
	serving, previous := d.release, d.base
	if d.record.Current.State == RollingBack {
		serving, previous = d.base, nil
	}
	inventory, needless := prunable(d.record.Inventory, serving, previous)
	if len(needless) > 0 {
		if err := d.flush(ctx); err != nil {
			return err
		}
	}
	for _, ref := range needless {
		if kept[ref.Kind] {
			d.log.Info("left for a person to delete: it may hold data", zap.Stringer("object", ref))
			continue
		}
		if err := d.pruneOne(ctx, ref); err != nil {
			d.log.Warn("cannot delete an object that no release needs any more", zap.Stringer("object", ref), zap.Error(err))
			inventory = append(inventory, ref)
		}
	}
	d.record.Inventory = inventory
	return nil
}

// prunable parts an inventory into what the serving release or the
// configuration of the one before it needs, and the rest.
func prunable(inventory []manifest.Ref, serving, previous *manifest.Release) (needed, needless []manifest.Ref) {
	for _, ref := range inventory {
		switch {
		case serving.Contains(ref), previous != nil && previous.Contains(ref) && (ref.Kind == "ConfigMap" || ref.Kind == "Secret"):
			needed = append(needed, ref)
		default:
			needless = append(needless, ref)
		}
	}
	return needed, needless
}

func (d *driver) pruneOne(ctx context.Context, ref manifest.Ref) error {
	live, err := d.get(ctx, ref)
	if err != nil || live == nil {
		return err
	}
	if live.GetLabels()[manifest.LabelApp] != d.app {
		return nil // someone else's by now
	}
	if live.GetAnnotations()[annotationPolicy] == "keep" {
		d.log.Info("left for a person to delete: its chart says so", zap.Stringer("object", ref))
		return nil
	}
	return d.delete(ctx, ref)
}
