package rollout

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// definitionPatience is how long the API server is given to serve a kind whose
// definition was just written; it needs a second at most.
const definitionPatience = 30 * time.Second

// brought are the kinds and namespaces that a release itself defines: objects of
// them may not be known to the API server before its definitions are written.
type brought struct {
	kinds      map[string]bool // "group/kind"
	namespaces map[string]bool
}

func broughtBy(release *manifest.Release) brought {
	b := brought{kinds: map[string]bool{}, namespaces: map[string]bool{}}
	for _, u := range release.Objects {
		switch {
		case u.GetKind() == "Namespace":
			b.namespaces[u.GetName()] = true
		case isDefinition(manifest.RefOf(u)):
			group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
			kind, _, _ := unstructured.NestedString(u.Object, "spec", "names", "kind")
			b.kinds[group+"/"+kind] = true
		}
	}
	return b
}

// kind tells whether the release defines the kind of an object.
func (b brought) kind(ref manifest.Ref) bool {
	return b.kinds[ref.GroupVersionKind().Group+"/"+ref.Kind]
}

func isDefinition(ref manifest.Ref) bool {
	return ref.Kind == "CustomResourceDefinition" && ref.GroupVersionKind().Group == "apiextensions.k8s.io"
}

// define waits until the API server serves the kinds whose definitions were just
// written, watches their objects, and lets it try those of the release. Only
// definitions, and what comes before them, have been written by then.
func (d *driver) define(ctx context.Context, definitions []manifest.Ref, release *manifest.Release, revision int, which func(manifest.Ref) bool) error {
	for _, ref := range definitions {
		if err := d.awaitDefinition(ctx, ref); err != nil {
			return err
		}
	}
	d.mapper.Reset()
	if err := d.watch.resources.follow(release); err != nil {
		return err
	}
	kinds := broughtBy(release)
	for _, object := range release.Objects {
		ref := manifest.RefOf(object)
		if !kinds.kind(ref) || which != nil && !which(ref) {
			continue
		}
		_, err := d.dryRun(ctx, d.app, manifest.Stamped(object, d.app, revision, release.Digest), true, false)
		if errors.Is(err, errNotAccepted) {
			return errors.New(strings.TrimSuffix(err.Error(), nothingChanged) + "; the definition of its kind has been written, and nothing after that")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitDefinition returns when a definition is established, by a watch.
func (c *clients) awaitDefinition(ctx context.Context, ref manifest.Ref) error {
	client, ref, err := c.resource(ref)
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", ref, err)
	}
	bounded, cancel := context.WithTimeout(ctx, definitionPatience)
	defer cancel()
	var said string
	for {
		live, err := c.get(bounded, ref)
		if err != nil {
			return err
		}
		if live == nil {
			return fmt.Errorf("%s was deleted by others while it was waited for", ref)
		}
		done, why := established(live)
		if done {
			return nil
		}
		said = why
		events, err := client.Watch(bounded, metav1.ListOptions{FieldSelector: "metadata.name=" + ref.Name, ResourceVersion: live.GetResourceVersion()})
		if err == nil {
			_ = awaitEvent(bounded, events) // looked at again
			events.Stop()
		} else if err := pause(bounded, retryFirst); err != nil && ctx.Err() != nil {
			return err
		}
		if bounded.Err() != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("%s is not served after %s: %s", ref, definitionPatience, said)
		}
	}
}

func awaitEvent(ctx context.Context, events apiwatch.Interface) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-events.ResultChan():
		return nil
	}
}

// established tells whether a definition is served and, if it is not, what its
// conditions say. See
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/.
func established(u *unstructured.Unstructured) (bool, string) {
	why := "it has no status yet"
	list, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return false, "its status cannot be read"
	}
	for _, item := range list {
		c, ok := item.(map[string]any)
		if !ok {
			continue
		}
		switch {
		case c["type"] == "Established" && c["status"] == "True":
			return true, ""
		case c["type"] == "NamesAccepted" && c["status"] == "False":
			return false, fmt.Sprintf("its names are not accepted: %v", c["message"])
		case c["type"] == "Established":
			why = fmt.Sprintf("it is not established: %v", c["message"])
		}
	}
	return false, why
}
