package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// What the bench reads and writes itself, beside the subjects and uncounted.
var (
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	services    = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	rollouts    = schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "rollouts"}
	canaries    = schema.GroupVersionResource{Group: "flagger.app", Version: "v1beta1", Resource: "canaries"}
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

	resourceOf = map[string]schema.GroupVersionResource{"Deployment": deployments, "Service": services, "Rollout": rollouts, "Canary": canaries,
		"CustomResourceDefinition": definitions}
)

func (w *world) in(resource schema.GroupVersionResource) dynamic.ResourceInterface {
	return w.dynamic.Resource(resource).Namespace(w.namespace)
}

// create makes the objects of a YAML text in the world.
func (w *world) create(ctx context.Context, text string) error {
	objects, err := manifest.Parse("bench.yaml", []byte(text))
	if err != nil {
		return err
	}
	for _, u := range objects {
		if err := w.createOne(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) createOne(ctx context.Context, u *unstructured.Unstructured) error {
	if _, err := w.in(resourceOf[u.GetKind()]).Create(ctx, u, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating %s %s: %w", u.GetKind(), u.GetName(), err)
	}
	return nil
}

// setImage is what a team does that updates by hand.
func (w *world) setImage(ctx context.Context, resource schema.GroupVersionResource, name, image string) error {
	patch, err := json.Marshal([]any{map[string]any{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}})
	if err != nil {
		return err
	}
	_, err = w.in(resource).Patch(ctx, name, types.JSONPatchType, patch, metav1.PatchOptions{})
	return err
}

// until returns when the object is as wanted; it is looked at at every change.
func until(ctx context.Context, client dynamic.ResourceInterface, name string, wanted func(*unstructured.Unstructured) bool) error {
	return untilAll(ctx, client, metav1.ListOptions{FieldSelector: "metadata.name=" + name}, 1, wanted)
}

// untilAll returns when n objects are as wanted.
func untilAll(ctx context.Context, client dynamic.ResourceInterface, options metav1.ListOptions, n int, wanted func(*unstructured.Unstructured) bool) error {
	done := map[string]bool{}
	for {
		list, err := client.List(ctx, options)
		if err != nil {
			return err
		}
		clear(done)
		for i := range list.Items {
			if wanted(&list.Items[i]) {
				done[list.Items[i].GetName()] = true
			}
		}
		if len(done) >= n {
			return nil
		}
		options := options
		options.ResourceVersion = list.GetResourceVersion()
		watch, err := client.Watch(ctx, options)
		if err != nil {
			return err
		}
		for event := range watch.ResultChan() {
			u, ok := event.Object.(*unstructured.Unstructured)
			if !ok {
				break // too old: list anew
			}
			if delete(done, u.GetName()); event.Type != "DELETED" && wanted(u) {
				done[u.GetName()] = true
			}
			if len(done) >= n {
				watch.Stop()
				return nil
			}
		}
		watch.Stop()
		if ctx.Err() != nil {
			return fmt.Errorf("%d of %d are as wanted: %w", len(done), n, context.Cause(ctx))
		}
	}
}

func number(u *unstructured.Unstructured, path ...string) int64 {
	n, _, err := unstructured.NestedInt64(u.Object, path...)
	if err != nil {
		return -1
	}
	return n
}

func text(u *unstructured.Unstructured, path ...string) string {
	value, _, err := unstructured.NestedFieldNoCopy(u.Object, path...)
	if err != nil || value == nil {
		return ""
	}
	return fmt.Sprint(value)
}

// deployed tells whether Kubernetes calls a Deployment complete.
func deployed(u *unstructured.Unstructured) bool {
	n := number(u, "spec", "replicas")
	return number(u, "status", "observedGeneration") >= u.GetGeneration() && number(u, "status", "updatedReplicas") == n &&
		number(u, "status", "replicas") == n && number(u, "status", "availableReplicas") == n
}

// overdue tells whether Kubernetes has given a Deployment's update up.
func overdue(u *unstructured.Unstructured) bool {
	conditions, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return false
	}
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["reason"] == "ProgressDeadlineExceeded" {
			return true
		}
	}
	return false
}

// argoSettled tells whether Argo Rollouts has promoted a Rollout, or given it up.
func argoSettled(u *unstructured.Unstructured) (healthy, aborted bool) {
	if text(u, "status", "observedGeneration") != fmt.Sprint(u.GetGeneration()) {
		return false, false
	}
	hash := text(u, "status", "currentPodHash")
	healthy = text(u, "status", "phase") == "Healthy" && hash != "" && text(u, "status", "stableRS") == hash
	return healthy, text(u, "status", "abort") == "true" || strings.Contains(text(u, "status", "phase"), "Degraded")
}
